package agent

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/golden"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// TestMetricsStay holds the names, kinds and labels of the agent's metrics to
// testdata/metrics.golden: dashboards and alerts of operators name them.
func TestMetricsStay(t *testing.T) {
	a := &Agent{held: newHeld(), seen: map[string]error{"n1": nil}, core: NewCore(Timing{}, rand.New(rand.NewPCG(1, 2))), log: slog.New(slog.DiscardHandler)}
	o, err := newOps(a, "", "devel 0123 sha256:45")
	must(t, err)
	o.tried("admission", nil)
	o.tried("renewal", keystead.Deny(keystead.Finding{Reason: keystead.ReasonFileAltered}))
	families, err := o.registry.Gather()
	must(t, err)
	var lines []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "go_") || strings.HasPrefix(f.GetName(), "process_") {
			continue // the library's own
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
			}
			lines = append(lines, fmt.Sprintf("%s{%s} %s", f.GetName(), strings.Join(labels, ","), strings.ToLower(f.GetType().String())))
		}
	}
	golden.Check(t, "testdata/metrics.golden", *update, lines)
}

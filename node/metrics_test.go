package node_test

import (
	"io"
	"net/http"
	"strings"
)

// metrics returns what the nodes tell Prometheus, one after the other.
func (f *field) metrics() (all []string) {
	f.t.Helper()
	for _, p := range f.nodes {
		r, err := http.Get("http://" + p.place.Ops + "/metrics")
		if err != nil {
			f.t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK {
			f.t.Fatalf("%d, %v", r.StatusCode, err)
		}
		all = append(all, string(text))
	}
	return all
}

// measures wants each line in the metrics of every node, and each of one in one at least.
func (f *field) measures(each, one []string) {
	f.t.Helper()
	all := f.metrics()
	for _, line := range each {
		for i, text := range all {
			if !strings.Contains(text, "\n"+line) {
				f.t.Errorf("node %d does not tell %q", i+1, line)
			}
		}
	}
	for _, line := range one {
		if !strings.Contains(strings.Join(all, "\n"), "\n"+line) {
			f.t.Errorf("no node tells %q", line)
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/receipt"
)

const (
	positionPairs = 3
	positionValue = 16 << 10 // bytes: so that a load writes the log of a position in reasonable time
	positionBatch = 8        // puts under way on a stream: more, of that size, than memory for strangers has room for end it
	positionLoads = 6        // times the length of other loads
)

// positions compares puts a second in a domain whose nodes compare digests of their states at
// positions, and in one of an earlier entry version, which has none; each founded anew, one
// after the other, in turn.
func (o *order) positions(t table) error {
	var with, without, ratios []float64
	stable := 0
	for pair := range positionPairs {
		var rate [2]float64 // without, with
		for _, v := range [][2]int{{0, 1}, {1, 0}}[pair%2] {
			r, n, err := o.positionLoad(v == 1)
			if err != nil {
				return err
			}
			rate[v] = r
			stable += n
		}
		without, with, ratios = append(without, rate[0]), append(with, rate[1]), append(ratios, rate[1]/rate[0])
	}
	if stable == 0 {
		t.row("puts with positions / without", "not measured", ">= 0.98", fmt.Sprintf("no position became stable under loads of %v: the log between two is 1 GiB at least; give a longer -length", positionLoads*o.length))
		return nil
	}
	t.row(fmt.Sprintf("puts of %d B with positions / without, %d pairs of %v", positionValue, positionPairs, positionLoads*o.length), fmt.Sprintf("%.3f (%.3f to %.3f)", median(ratios), slices.Min(ratios), slices.Max(ratios)), ">= 0.98",
		fmt.Sprintf("medians %.0f/s and %.0f/s; %d positions became stable under the loads; load average %s", median(with), median(without), stable, loadAverage()))
	return nil
}

// positionLoad loads a fresh domain, and returns its rate and how many positions became stable
// meanwhile: one if the last one is another after the load than before.
func (o *order) positionLoad(with bool) (rate float64, stable int, err error) {
	change := func(string) error { return nil }
	if !with {
		change = refound
	}
	d, err := startFounded(o.program, o.dir, 17101, o.node, change)
	if err != nil {
		return 0, 0, err
	}
	defer d.stop()
	_, _, lead, err := d.connect()
	if err != nil {
		return 0, 0, err
	}
	before, err := d.position()
	if err != nil {
		return 0, 0, err
	}
	load := o.load(positionValue, lead)
	load.duration *= positionLoads
	load.clients = min(load.clients, positionBatch)
	f, err := d.puts(load)
	if err == nil {
		err = f.check("puts")
	}
	if err != nil {
		return 0, 0, err
	}
	after, err := d.position()
	switch {
	case err != nil:
		return 0, 0, err
	case !with && after != "0":
		return 0, 0, fmt.Errorf("a domain without positions has one at %s", after)
	case after != before:
		stable = 1
	}
	return f.rate(), stable, nil
}

// position returns the last stable position as the first node's metrics have it.
func (d *domain) position() (string, error) {
	cfg, err := node.ReadConfig(filepath.Join(d.dir, "d", "n1", node.ConfigFile))
	if err != nil {
		return "", err
	}
	r, err := http.Get("http://" + cfg.Ops.Listen + "/metrics")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "keystead_stable_position "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", errors.New("the node's metrics have no keystead_stable_position")
}

// refound makes the domain one of before positions: its genesis entry names no entry version.
func refound(dir string) error {
	path := filepath.Join(dir, "domain.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := client.ParseDomain(raw)
	if err != nil {
		return err
	}
	entry, err := receipt.NoteEntry(file.Genesis)
	if err != nil {
		return err
	}
	old := keystead.Sum(entry)
	g, err := receipt.ParseGenesis(entry)
	if err != nil {
		return err
	}
	g.Settings = slices.DeleteFunc(g.Settings, func(s string) bool { return strings.HasPrefix(s, admit.EntryVersion+"=") })
	secret, err := os.ReadFile(filepath.Join(dir, "member.key"))
	if err != nil {
		return err
	}
	member, err := key.ParseMember(secret)
	if err != nil {
		return err
	}
	text, err := g.Text()
	if err == nil {
		file.Genesis, err = member.Sign(text)
	}
	if err == nil {
		entry, err = receipt.NoteEntry(file.Genesis)
	}
	if err != nil {
		return err
	}
	errs := []error{os.WriteFile(path, file.Encode(), 0o600)}
	for i := 1; i <= 3; i++ {
		at := filepath.Join(dir, fmt.Sprintf("n%d", i))
		config, err := os.ReadFile(filepath.Join(at, node.ConfigFile))
		config = bytes.ReplaceAll(config, []byte(old.String()), []byte(keystead.Sum(entry).String()))
		errs = append(errs, err, os.WriteFile(filepath.Join(at, node.ConfigFile), config, 0o600), os.WriteFile(filepath.Join(at, "domain.json"), file.Encode(), 0o600))
	}
	return errors.Join(errs...)
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	return s[len(s)/2]
}

// loadAverage is the machine's, of the last minute: a bench shares it with whatever runs.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

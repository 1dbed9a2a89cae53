package node

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/toy"
	"github.com/keystead/keystead/internal/toy/toynode"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// over asks a node over HTTPS, by its pinned key.
func over(t *testing.T, n *Node, path, body string) (int, string) {
	t.Helper()
	h := &http.Client{Transport: client.PinnedTransport(n.own, nil)}
	defer h.CloseIdleConnections()
	r, err := h.Post(n.own.API+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// TestToyPart runs a system of tests on a real node, which knows nothing of it: what it
// declares works, and what it leaves out is denied by the node as it is on the bench of parts.
func TestToyPart(t *testing.T) {
	p := toynode.New()
	n := single(t, p)
	if status, answer := over(t, n, toy.Greet, `"ada"`); status != 200 || answer != `"hello ada, from n1"` {
		t.Fatalf("%d %s", status, answer)
	}
	var record ledger.Value
	if err := n.view(func(v ledger.View) (err error) { record, err = v.Get(toy.Contract + "/last"); return err }); err != nil || record.Version == 0 {
		t.Errorf("no record of the greeting: %v", err)
	}
	families, err := n.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	greeted := 0.0
	for _, f := range families {
		if f.GetName() == "keystead_toy_greetings_total" {
			greeted = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if greeted != 1 {
		t.Errorf("%v greetings are counted", greeted)
	}
	for what, try := range map[string]func(part.Log) error{
		"the node's contract": func(l part.Log) error {
			return l.Transact(t.Context(), contactContract, []ledger.Write{{Key: contactContract + "/n1", Value: []byte("x")}})
		},
		"the node's ticks": func(l part.Log) error { _, err := l.Sign("keystead tick/1", []byte("x")); return err },
		"a position":       func(l part.Log) error { _, err := l.Propose(t.Context(), ledger.PositionEntry()); return err },
		"a lease": func(l part.Log) error {
			_, err := l.Decide(t.Context(), &ledger.Proposal{Type: "lease", Subject: "web", Content: []byte("x")})
			return err
		},
	} {
		if err := try(p.Host().Log()); !errors.Is(err, keystead.ReasonPartUndeclared) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestToyPartUndeclared: a procedure that no part declares is answered by nobody.
func TestToyPartUndeclared(t *testing.T) {
	p := toynode.New()
	p.Without = "procedure"
	if status, _ := over(t, single(t, p), toy.Greet, `"ada"`); status != http.StatusNotFound {
		t.Errorf("it is answered %d", status)
	}
}

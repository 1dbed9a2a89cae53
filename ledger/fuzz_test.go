package ledger_test

import (
	"bytes"
	"testing"

	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
)

// fuzzDomain has something of everything; seeds are one entry of each kind.
func fuzzDomain(t testing.TB) (d *domain, seeds [][]byte) {
	d = newDomain(t, 3, version4)
	at := d.position()
	d.ok(d.stateDigest("node-1", at, "good"))
	d.ok(d.run(put("a", "1")))
	p := proposal(1, "setting", "x-seconds", 0, "5")
	d.ok(p)
	a := d.enrolled("a", 60_000)
	d.ok(d.renewals(pair, d.item("a", a, 61_000)))
	b := d.enrolled("b", 60_000)
	d.ok(d.suspension("node-1", "b", b, "x"))
	d.checkpoint("node-1", "node-2")
	v := judge(p, 100)
	e := d.endorse("node-3", v)
	seeds = [][]byte{
		d.genesis,
		d.change(without("node-3"), "ada", "ben"),
		d.run(ledger.Op{Key: "a", Value: []byte("2"), Compare: &ledger.Compare{Value: []byte("1")}}, ledger.Op{Key: "b", Delete: true}),
		d.effective(v, "node-1", "node-2"),
		proposal(2, "setting", "y-seconds", 0, "6"),
		e.Entry(),
		d.tick(1000, "node-1", "node-2", "node-3"),
		d.vote("node-3", 2),
		d.renewals(pair, d.item("a", a, 62_000), d.item("b", b, 62_000)),
		d.earlyRenewals(pair, d.item("a", a, 62_000)),
		d.suspension("node-3", "a", a, "file-unknown"),
		v.Bytes(),
		ledger.PositionEntry(),
		d.stateDigest("node-2", at, "good"),
		nil,
		{1},
		{2, 3},
	}
	rekey, _ := d.rekeyEntry("node-3", []string{"node-1", "node-2"})
	return d, append(seeds, rekey)
}

// FuzzEntry gives every parser of entries the same bytes: none may panic, and
// what is accepted has one encoding.
func FuzzEntry(f *testing.F) {
	_, seeds := fuzzDomain(f)
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(what string, again []byte, err error) {
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("a %s has two encodings: %x and %x, %v", what, b, again, err)
			}
		}
		if x, err := ledger.ParseTransaction(b); err == nil {
			again, err := x.Entry()
			same("transaction", again, err)
		}
		if x, err := ledger.ParseProposal(b); err == nil {
			again, err := x.Entry()
			same("proposal", again, err)
		}
		if x, err := ledger.ParseEndorsement(b); err == nil {
			same("endorsement", x.Entry(), nil)
		}
		if x, err := ledger.ParseVerdict(b); err == nil {
			same("verdict", x.Bytes(), nil)
		}
		if x, err := ledger.ParseEffective(b); err == nil {
			again, err := x.Entry()
			same("effective entry", again, err)
		}
		if x, err := ledger.ParseTicks(b); err == nil {
			again, err := ledger.TickEntry(x)
			same("tick entry", again, err)
		}
		ledger.ParseResult(b)
		if x, err := ledger.ParseVote(b); err == nil {
			same("vote", x.Entry(), nil)
		}
		if x, err := ledger.ParseRenewals(b); err == nil {
			again, err := x.Entry()
			same("batch of renewals", again, err)
		}
		if x, err := ledger.ParseStateDigest(b); err == nil {
			same("state digest", x.Entry(), nil)
		}
		if x, err := ledger.ParseSuspension(b); err == nil {
			again, err := x.Entry()
			same("suspension", again, err)
		}
	})
}

// FuzzApply applies any bytes as an entry: nothing panics, and what is refused
// leaves no trace.
func FuzzApply(f *testing.F) {
	d, seeds := fuzzDomain(f)
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ledger.Open(d.store, d.id)
		must(t, err)
		w := newBatch()
		out, err := m.Apply([]ledger.Committed{{Index: 1 << 40, Data: b}}, w)
		switch {
		case err != nil && len(w.set) != 0:
			t.Errorf("stopped and wrote: %v", err)
		case err != nil:
		case len(b) > 0 && ledger.Check(b) != nil && out.Results[0].Err == nil:
			t.Errorf("applied although %v", ledger.Check(b))
		case out.Results[0].Err != nil && len(w.set) > 1+len(out.Alarms):
			t.Errorf("refused and wrote: %v", out.Results[0].Err)
		}
	})
}

// FuzzOpen opens stores with one record spoilt: a clear stop, or a machine that works.
func FuzzOpen(f *testing.F) {
	d, _ := fuzzDomain(f)
	for k, v := range d.store.m {
		f.Add([]byte(k), v)
	}
	next := d.run(put("z", "1"))
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if len(k) == 0 {
			return
		}
		s := newStore()
		for k, v := range d.store.m {
			s.m[k] = v
		}
		s.m[string(k)] = v
		m, err := ledger.Open(s, d.id)
		if err != nil {
			return
		}
		m.Apply([]ledger.Committed{{Index: 1 << 40, Data: next}}, newBatch())
		view := ledger.NewView(s)
		view.Status()
		view.Alarms()
		view.Positions()
		view.Pairs(nil, func(_, _ []byte) bool { return true })
		view.Runs()
		view.Get(string(k[1:]))
		view.Clock()
		view.Founding("lease-seconds")
		view.Renewal(string(k[1:]))
		view.Suspension(string(k[1:]))
		admit.Look(view, "a")
		if p, err := ledger.NewProver(s); err == nil && p.Head().Size > 0 {
			p.Receipt(p.Head().Size - 1)
		}
	})
}

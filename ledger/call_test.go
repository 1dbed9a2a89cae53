package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

const version5 = "entry-version=5"

// auction is a domain whose members took a contract in.
func auction(t testing.TB) *domain {
	d := newDomain(t, 3, version5)
	d.now += 1000
	d.ok(d.tick(d.now, "node-1", "node-2", "node-3"))
	d.deploy("auction", "first")
	return d
}

// deploy makes a record of a contract take effect.
func (d *domain) deploy(name, text string) {
	d.t.Helper()
	base, err := ledger.NewView(d.store).Subject("contract", name)
	must(d.t, err)
	p := proposal(byte(len(d.log)), "contract", name, base, text)
	d.ok(p)
	v, err := ledger.NewVerdict(p)
	must(d.t, err)
	v.Writes = []ledger.Write{{Key: "contract/" + name, Value: []byte(text)}}
	d.ok(d.effective(&v, "node-1", "node-2"))
}

// call is a call of a contract on the state of now.
func (d *domain) call(contract string, writes ...ledger.Write) *ledger.Call {
	d.t.Helper()
	v := ledger.NewView(d.store)
	code, err := v.Code(contract)
	must(d.t, err)
	last, _, err := v.LastCall(contract)
	must(d.t, err)
	return &ledger.Call{Request: d.request(), Contract: contract, Code: code.Version, Predecessor: last, Caller: ledger.Caller{Kind: "user", Name: "alice", Roles: "bidder"},
		Method: "bid", Input: []byte(`{"lot":"clock"}`), Clock: d.machine.Clock(), Seed: [32]byte{7}, Gas: 1234, Output: []byte("ok"), Events: []ledger.Event{{Topic: []byte("lot/clock"), Data: []byte("alice")}},
		Writes: writes, Executor: "node-1"}
}

// signed has the calls' executor sign them, and returns their entries.
func (d *domain) signed(calls ...*ledger.Call) (entries [][]byte) {
	d.t.Helper()
	ledger.SignCalls(d.keys[calls[0].Executor], d.id, calls)
	for _, c := range calls {
		e, err := c.Entry()
		must(d.t, err)
		entries = append(entries, e)
	}
	return entries
}

func write(key, value string) ledger.Write { return ledger.Write{Key: key, Value: []byte(value)} }

// TestCalls applies calls one by one and signed together; they are in the tree, and what they
// write is in a space of its own, which a machine opened anew goes on from.
func TestCalls(t *testing.T) {
	d := auction(t)
	c := d.call("auction", write("auction/lot/clock", "alice"))
	first := d.signed(c)[0]
	r := d.ok(first)
	if !r.Recorded || r.ID != receipt.LeafHash(first) {
		t.Errorf("the call is %+v", r)
	}
	v := ledger.NewView(d.store)
	if got, err := v.CallValue("auction/lot/clock"); err != nil || string(got.Data) != "alice" || got.Version != r.Leaf+1 {
		t.Errorf("the lot is %+v: %v", got, err)
	}
	if got, err := v.Get("auction/lot/clock"); err != nil || got.Version != 0 {
		t.Errorf("transactions see %+v: %v", got, err)
	}
	if id, version, err := v.LastCall("auction"); err != nil || id != c.ID() || version != r.Leaf+1 {
		t.Errorf("the last call is %v, %d: %v", id, version, err)
	}
	var calls []*ledger.Call
	for i := range 7 { // one signature for all
		c := d.call("auction", write("auction/lot/clock", fmt.Sprint("bidder ", i)))
		if i > 0 {
			c.Predecessor = calls[i-1].ID()
		}
		calls = append(calls, c)
	}
	batch := d.signed(calls...)
	for i, r := range d.apply(batch...) {
		if r.Err != nil {
			t.Fatalf("call %d of the batch: %v", i, r.Err)
		}
	}
	if got, err := ledger.NewView(d.store).CallValue("auction/lot/clock"); err != nil || string(got.Data) != "bidder 6" {
		t.Errorf("the lot is %q: %v", got.Data, err)
	}
	m, err := ledger.Open(d.store, d.id)
	must(t, err)
	d.machine = m
	d.ok(d.signed(d.call("auction", ledger.Write{Key: "auction/lot/clock", Delete: true}))[0])
	again := d.apply(batch[6])[0]
	if again.Err != nil || !again.Repeated {
		t.Errorf("a call again, on a machine that was opened anew: %+v", again)
	}
}

// TestCallsRefused applies calls that no executor of this state made: each is refused for its
// reason, and leaves nothing.
func TestCallsRefused(t *testing.T) {
	d := auction(t)
	d.deploy("register", "other")
	d.ok(d.signed(d.call("auction", write("auction/a", "1")))[0])
	alter := func(change func(c *ledger.Call)) []byte {
		c := d.call("auction", write("auction/a", "2"))
		change(c)
		return d.signed(c)[0]
	}
	d.newNode("node-9") // of whom no roster knows
	for what, x := range map[string]struct {
		entry []byte
		want  keystead.Reason
	}{
		"a contract of nobody":            {alter(func(c *ledger.Call) { c.Contract, c.Writes = "lottery", nil }), keystead.ReasonContractUnknown},
		"the first call again":            {alter(func(c *ledger.Call) { c.Predecessor = keystead.Digest{} }), keystead.ReasonPredecessorWrong},
		"a call after one of nobody":      {alter(func(c *ledger.Call) { c.Predecessor[0]++ }), keystead.ReasonPredecessorWrong},
		"another code":                    {alter(func(c *ledger.Call) { c.Code++ }), keystead.ReasonCodeChanged},
		"the code of another contract":    {alter(func(c *ledger.Call) { c.Code += 2 }), keystead.ReasonCodeChanged},
		"a write into another contract":   {alter(func(c *ledger.Call) { c.Writes = append(c.Writes, write("register/x", "mine")) }), keystead.ReasonWriteOutside},
		"a write into a longer name":      {alter(func(c *ledger.Call) { c.Writes = []ledger.Write{write("auctions/x", "mine")} }), keystead.ReasonWriteOutside},
		"a call of tomorrow":              {alter(func(c *ledger.Call) { c.Clock++ }), keystead.ReasonClockStale},
		"a call of long ago":              {alter(func(c *ledger.Call) { c.Clock -= 30_001 }), keystead.ReasonClockStale},
		"an executor who is no node":      {alter(func(c *ledger.Call) { c.Executor = "node-9" }), keystead.ReasonSignerUnknown},
		"a deadline too far":              {alter(func(c *ledger.Call) { c.Request.Deadline += 1 << 40 }), keystead.ReasonRequestExpired},
		"another executor's signature":    {resigned(d, func(c *ledger.Call) { c.Executor = "node-2" }), keystead.ReasonSignatureInvalid},
		"an output changed after signing": {resigned(d, func(c *ledger.Call) { c.Output = []byte("no") }), keystead.ReasonSignatureInvalid},
		"a caller changed after signing":  {resigned(d, func(c *ledger.Call) { c.Caller.Name = "ben" }), keystead.ReasonSignatureInvalid},
		"a path to another root":          {resigned(d, func(c *ledger.Call) { c.Path = []ledger.Step{{Left: true}} }), keystead.ReasonSignatureInvalid},
	} {
		t.Run(what, func(t *testing.T) { d.refused(x.entry, x.want) })
	}
	for what, writes := range map[string][]ledger.Write{"writes out of order": {write("auction/b", "1"), write("auction/a", "1")}, "a key twice": {write("auction/a", "1"), write("auction/a", "2")}} {
		c := d.call("auction", writes...)
		var format *keystead.FormatError
		if _, err := c.Entry(); !errors.As(err, &format) {
			t.Errorf("%s: %v", what, err)
		}
	}
	one, other := d.call("auction", write("auction/a", "one")), d.call("auction", write("auction/a", "other"))
	other.Executor = "node-2" // that believes that it leads
	d.ok(d.signed(one)[0])
	d.refused(d.signed(other)[0], keystead.ReasonPredecessorWrong)
	old := d.call("auction", write("auction/a", "old code"))
	d.deploy("auction", "second")
	d.refused(d.signed(old)[0], keystead.ReasonCodeChanged)
	d.ok(d.signed(d.call("auction", write("auction/a", "new code")))[0])
	tx, err := (&ledger.Transaction{Request: d.request(), Contract: "auction", Writes: []ledger.Write{write("auction/a", "stolen")}}).Entry()
	must(t, err)
	d.ok(tx) // a transaction may take any name: it has keys of its own
	if got, err := ledger.NewView(d.store).CallValue("auction/a"); err != nil || string(got.Data) != "new code" {
		t.Errorf("after a transaction under the contract's name it has %q: %v", got.Data, err)
	}
}

// resigned is a call that was changed once it was signed.
func resigned(d *domain, change func(c *ledger.Call)) []byte {
	d.t.Helper()
	c := d.call("auction", write("auction/a", "2"))
	d.signed(c)
	change(c)
	e, err := c.Entry()
	must(d.t, err)
	return e
}

// TestCallsAreVoted refuses calls before the domain wants entries of their version.
func TestCallsAreVoted(t *testing.T) {
	d := newDomain(t, 3, version4)
	d.now += 1000
	d.ok(d.tick(d.now, "node-1", "node-2", "node-3"))
	d.deploy("auction", "first")
	d.refused(d.signed(d.call("auction", write("auction/a", "1")))[0], keystead.ReasonVersionEarly)
}

// TestCallsInAnyBatches cuts a log with calls in many ways: the state is the same, key for key.
func TestCallsInAnyBatches(t *testing.T) {
	d := auction(t)
	for i := range 20 {
		c := d.call("auction", write(fmt.Sprintf("auction/%d", i%3), string(bytes.Repeat([]byte{byte(i)}, 40*i))))
		d.ok(d.signed(c)[0])
		if i == 10 {
			d.deploy("auction", "second")
		}
	}
	want := d.state()
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		again := &domain{t: t, store: newStore(), id: d.id}
		m, err := ledger.Open(again.store, d.id)
		must(t, err)
		for from := 0; from < len(d.log); {
			to := min(len(d.log), from+1+r.IntN(9))
			b := newBatch()
			_, err := m.Apply(d.log[from:to], b)
			must(t, err)
			again.store.commit(b)
			if from = to; r.IntN(4) == 0 {
				m, err = ledger.Open(again.store, d.id)
				must(t, err)
			}
		}
		if got := again.state(); got != want {
			t.Fatalf("another state by other batches")
		}
		pairs := 0
		must(t, ledger.NewView(again.store).Pairs(nil, func(k, _ []byte) bool {
			if k[0] == 'g' || k[0] == 'h' {
				pairs++
			}
			return true
		}))
		if pairs != 4 {
			t.Errorf("the state's digest covers %d pairs of calls, want 4", pairs)
		}
	}
}

func FuzzParseCall(f *testing.F) {
	d := auction(f)
	c := d.call("auction", write("auction/a", "1"), ledger.Write{Key: "auction/b", Delete: true})
	other := d.call("auction")
	for _, e := range d.signed(c, other) {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ledger.ParseCall(b)
		if err != nil {
			return
		}
		if again, err := c.Entry(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("two encodings: %x and %x: %v", b, again, err)
		}
	})
}

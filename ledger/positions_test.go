package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

const version4 = "entry-version=4"

// position makes a position, a minute after the last one, and returns its log index.
func (d *domain) position() uint64 {
	d.t.Helper()
	d.perLog = 1
	r, _ := d.machine.Roster()
	var all []string
	for _, n := range r.Nodes {
		all = append(all, n.Name)
	}
	d.ok(d.tick(61_000, all...))
	d.ok(ledger.PositionEntry())
	kept := d.machine.Positions().Kept
	return kept[len(kept)-1].Index
}

// stateDigest is what a node says of its state at a position: "good", or something else.
func (d *domain) stateDigest(node string, at uint64, what string) []byte {
	s := ledger.StateDigest{Position: at, Digest: keystead.Sum([]byte(what)), Bytes: 1000, Chain: keystead.Sum(fmt.Append(nil, at))}.Sign(d.keys[node], node, d.id)
	return s.Entry()
}

func (d *domain) stable() uint64 { return d.machine.Positions().Stable }

// TestNoPositionBeforeTheVote: an entry of version 4 counts from the vote on, alike for
// those whom the genesis and those whom the members told.
func TestNoPositionBeforeTheVote(t *testing.T) {
	d := newDomain(t, 3)
	d.refused(ledger.PositionEntry(), keystead.ReasonVersionEarly)
	d.refused(d.stateDigest("node-1", 1, "good"), keystead.ReasonVersionEarly)
	p := proposal(1, "setting", "entry-version", 0, "4")
	v, err := ledger.NewVerdict(p)
	must(t, err)
	v.Content, v.Writes = []byte("accepted"), []ledger.Write{{Key: "setting/entry-version", Value: []byte("4")}}
	d.ok(p)
	d.refused(ledger.PositionEntry(), keystead.ReasonVersionEarly)
	out := d.apply(d.effective(&v, "node-1", "node-2"), ledger.PositionEntry()) // in one batch
	must(t, out[0].Err)
	must(t, out[1].Err)
	again, err := ledger.Open(d.store, d.id)
	must(t, err)
	if n := again.EntryVersion(); n != 4 || len(again.Positions().Kept) != 1 {
		t.Errorf("opened anew: entry version %d, positions %+v", n, again.Positions())
	}
	d = newDomain(t, 3, version4)
	d.ok(ledger.PositionEntry())
	for _, e := range [][]byte{{4, 15}, {4, 15, 1, 0}, {4, 15, 3}, {4, 15, 2, 0}, {4, 12}, {4, 13, 1}, {3, 15, 1}} {
		before := d.store.digest()
		if r := d.apply(e)[0]; r.Err == nil || ledger.Check(e) == nil || d.state() == before {
			t.Errorf("%x: want it refused, got %v", e, r.Err)
		}
	}
}

// TestPositionsAreSpaced: positions come when there is log or time since the last, not
// when somebody asks for many.
func TestPositionsAreSpaced(t *testing.T) {
	d := newDomain(t, 3, version4)
	d.perLog = 1
	d.ok(d.tick(1000, "node-1", "node-2"))
	d.ok(ledger.PositionEntry())
	d.refused(ledger.PositionEntry(), keystead.ReasonPositionEarly)
	wantReason(t, d.machine.Due(), keystead.ReasonPositionEarly)
	d.ok(d.tick(4999, "node-1", "node-2"))
	d.refused(ledger.PositionEntry(), keystead.ReasonPositionEarly) // the last one is not stable
	d.ok(d.tick(1, "node-1", "node-2"))
	must(t, d.machine.Due())
	d.ok(ledger.PositionEntry())
	last := d.machine.Positions().Kept
	for _, n := range []string{"node-1", "node-2"} {
		d.ok(d.stateDigest(n, last[len(last)-1].Index, "good"))
	}
	d.ok(d.tick(999, "node-1", "node-2"))
	d.refused(ledger.PositionEntry(), keystead.ReasonPositionEarly)
	d.ok(d.tick(1, "node-1", "node-2"))
	d.ok(ledger.PositionEntry())

	// A large state: a second for each 16 MiB, and the log's bytes.
	at := d.position()
	for _, n := range []string{"node-1", "node-2"} {
		s := ledger.StateDigest{Position: at, Bytes: 80 << 20}.Sign(d.keys[n], n, d.id)
		d.ok(s.Entry())
	}
	if d.stable() != at {
		t.Fatalf("stable at %d, want %d", d.stable(), at)
	}
	d.ok(d.tick(5999, "node-1", "node-2"))
	d.refused(ledger.PositionEntry(), keystead.ReasonPositionEarly)
	before, entry := d.machine.Logged(), d.run(put("big", strings.Repeat("x", ledger.MaxValue)))
	d.ok(entry)
	if got := d.machine.Logged() - before; got != uint64(len(entry)) {
		t.Errorf("%d bytes are counted for an entry of %d", got, len(entry))
	}
	d.ok(d.tick(1, "node-1", "node-2"))
	d.ok(ledger.PositionEntry())
	end := uint64(len(d.log) + 100) // and two within a log entry are one too many, whatever the clock does there
	out, err := d.machine.Apply([]ledger.Committed{
		{Index: end, Offset: 0, Data: d.tick(61_000, "node-1", "node-2")}, {Index: end, Offset: 1, Data: ledger.PositionEntry()},
		{Index: end, Offset: 2, Data: d.tick(61_000, "node-1", "node-2")}, {Index: end, Offset: 3, Data: ledger.PositionEntry()},
	}, newBatch())
	must(t, err)
	must(t, out.Results[1].Err)
	wantReason(t, out.Results[3].Err, keystead.ReasonPositionEarly)
}

// TestMajorityMakesStable: a position is stable once a majority of the nodes of its
// roster signed one digest. Everything else that could look like that is refused.
func TestMajorityMakesStable(t *testing.T) {
	d := newDomain(t, 3, version4)
	at := d.position()
	refused := func(name string, e []byte, want keystead.Reason) {
		t.Run(name, func(t *testing.T) { d.t = t; defer func() { d.t = t }(); d.refused(e, want) })
		d.t = t
	}
	refused("no position", d.stateDigest("node-1", at+1, "good"), keystead.ReasonPositionUnknown)
	refused("another's key", func() []byte {
		s := ledger.StateDigest{Position: at}.Sign(d.keys["node-2"], "node-1", d.id)
		return s.Entry()
	}(), keystead.ReasonSignatureInvalid)
	refused("another domain", func() []byte {
		s := ledger.StateDigest{Position: at}.Sign(d.keys["node-1"], "node-1", keystead.Sum([]byte("other")))
		return s.Entry()
	}(), keystead.ReasonSignatureInvalid)
	refused("no node", func() []byte {
		s := ledger.StateDigest{Position: at}.Sign(d.keys["node-1"], "node-9", d.id)
		return s.Entry()
	}(), keystead.ReasonSignerUnknown)
	d.ok(d.stateDigest("node-1", at, "good"))
	d.ok(d.stateDigest("node-1", at, "good")) // twice counts once
	refused("a second digest", d.stateDigest("node-1", at, "bad"), keystead.ReasonStateDiffers)
	if d.stable() != 0 {
		t.Fatal("one node of three made a position stable")
	}
	d.ok(d.stateDigest("node-2", at, "good"))
	if p := d.machine.Positions(); p.Stable != at || p.Before != 0 || p.Bytes != 1000 {
		t.Fatalf("want %d stable, got %+v", at, p)
	}
	next := d.position()
	d.ok(d.stateDigest("node-1", next, "good"))
	d.ok(d.stateDigest("node-3", next, "good"))
	if p := d.machine.Positions(); p.Stable != next || p.Before != at || len(p.Kept) != 1 {
		t.Fatalf("want %d stable after %d, got %+v", next, at, p)
	}
	refused("a position of before", d.stateDigest("node-3", at, "good"), keystead.ReasonPositionUnknown)
	if len(d.alarms) != 0 {
		t.Errorf("alarms: %+v", d.alarms)
	}
}

// TestKeysOfYesterday: a digest counts by a key that its node had at the position and has
// still. Who left, came later, or has another key is not counted.
func TestKeysOfYesterday(t *testing.T) {
	d := newDomain(t, 4, version4)
	at := d.position()
	old := d.stateDigest("node-3", at, "good")
	rekey, _ := d.rekeyEntry("node-3", []string{"node-1", "node-2", "node-4"})
	d.ok(rekey)
	d.refused(old, keystead.ReasonSignerUnknown)
	d.refused(d.stateDigest("node-3", at, "good"), keystead.ReasonSignerUnknown) // the new key was not there
	late := d.position()
	d.ok(d.change(without("node-4"), "ada", "ben"))
	d.refused(d.stateDigest("node-4", late, "good"), keystead.ReasonSignerUnknown)
	d.ok(d.change(func(r *receipt.Roster) { r.Nodes = append(r.Nodes, d.newNode("node-5")) }, "ada", "ben"))
	d.refused(d.stateDigest("node-5", late, "good"), keystead.ReasonSignerUnknown)
	d.ok(d.stateDigest("node-1", late, "good"))
	d.ok(d.stateDigest("node-2", late, "good"))
	if d.stable() != 0 {
		t.Error("two of the four nodes of then made a position stable")
	}
	d.ok(d.stateDigest("node-3", late, "good"))
	if d.stable() != late {
		t.Error("three of four nodes did not")
	}
}

// TestStatesDiffer: one log and two states is an alarm, once; two logs are none here.
func TestStatesDiffer(t *testing.T) {
	d := newDomain(t, 3, version4)
	at := d.position()
	fork := ledger.StateDigest{Position: at, Digest: keystead.Sum([]byte("fork"))}.Sign(d.keys["node-3"], "node-3", d.id)
	d.ok(d.stateDigest("node-1", at, "good"))
	d.ok(fork.Entry())
	if len(d.alarms) != 0 {
		t.Fatalf("alarms: %+v", d.alarms)
	}
	at = d.position()
	d.ok(d.stateDigest("node-3", at, "bad"))
	d.ok(d.stateDigest("node-1", at, "good"))
	d.ok(d.stateDigest("node-2", at, "good"))
	if len(d.alarms) != 1 || d.alarms[0].Finding.Reason != keystead.ReasonStateDiffers || !strings.Contains(d.alarms[0].Finding.Want, "node-3") {
		t.Fatalf("want one alarm that names node-3, got %+v", d.alarms)
	}
	if d.stable() != at {
		t.Error("a minority kept the position from being stable")
	}
	at = d.position()
	d.ok(d.stateDigest("node-1", at, "a"))
	d.ok(d.stateDigest("node-2", at, "b"))
	d.ok(d.stateDigest("node-3", at, "c"))
	if len(d.alarms) != 2 || d.stable() == at {
		t.Errorf("three states: %d alarms, stable %d", len(d.alarms), d.stable())
	}
}

// TestFewPositionsAreKept: positions that no majority signs push each other out, and never
// the stable one.
func TestFewPositionsAreKept(t *testing.T) {
	d := newDomain(t, 3, version4)
	at := d.position()
	d.ok(d.stateDigest("node-1", at, "good"))
	d.ok(d.stateDigest("node-2", at, "good"))
	for range 5 {
		d.position()
	}
	p := d.machine.Positions()
	if len(p.Kept) != 3 || p.Kept[0].Index != at || p.Stable != at {
		t.Fatalf("want the stable one and two more, got %+v", p)
	}
	d.ok(d.stateDigest("node-3", at, "good")) // late
	v, err := ledger.NewView(d.store).Positions()
	must(t, err)
	again, err := ledger.Open(d.store, d.id)
	must(t, err)
	if a, b, c := fmt.Sprintf("%+v", d.machine.Positions()), fmt.Sprintf("%+v", v), fmt.Sprintf("%+v", again.Positions()); a != b || a != c {
		t.Errorf("in memory %s\nin the store %s\nopened anew %s", a, b, c)
	}
}

// TestSignedDigestsDoNotServeElsewhere: a digest's signature is none over anything else
// that nodes sign.
func TestSignedDigestsDoNotServeElsewhere(t *testing.T) {
	k, err := key.NewNode(fixed("node"))
	must(t, err)
	domain := keystead.Sum([]byte("d"))
	s := ledger.StateDigest{Position: 7, Bytes: 1}.Sign(k, "node", domain)
	must(t, s.Verify(k.Public(), domain))
	for _, edit := range []func(*ledger.StateDigest){
		func(s *ledger.StateDigest) { s.Position++ }, func(s *ledger.StateDigest) { s.Digest[0] ^= 1 },
		func(s *ledger.StateDigest) { s.Bytes++ }, func(s *ledger.StateDigest) { s.Chain[31] ^= 1 },
	} {
		other := s
		edit(&other)
		wantReason(t, other.Verify(k.Public(), domain), keystead.ReasonSignatureInvalid)
	}
}

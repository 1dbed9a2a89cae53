package ledger_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

func TestGenesisIsFirstAndOnce(t *testing.T) {
	d := newDomain(t, 3)
	d.refused(d.genesis, keystead.ReasonGenesisMisplaced)

	empty := *d
	empty.store = newStore()
	var err error
	empty.machine, err = ledger.Open(empty.store, d.id)
	must(t, err)
	empty.refused(d.tick(1, "node-1", "node-2"), keystead.ReasonGenesisMisplaced)
	other := newDomain(t, 4)
	empty.refused(other.genesis, keystead.ReasonDomainMismatch)
	empty.ok(d.genesis)

	_, err = ledger.Open(empty.store, other.id)
	wantReason(t, err, keystead.ReasonDomainMismatch)
}

func TestGenesisNeedsItsFounders(t *testing.T) {
	d := newDomain(t, 3)
	text, err := (&receipt.Genesis{Name: "example", Created: epoch, Roster: d.roster}).Text()
	must(t, err)
	for name, entry := range map[string][]byte{
		"one founder":       d.sign(text, "ada"),
		"one founder twice": append(d.sign(text, "ada"), lastLine(d.sign(text, "ada"))...),
	} {
		t.Run(name, func(t *testing.T) {
			e, err := receipt.NoteEntry(entry)
			must(t, err)
			m, err := ledger.Open(newStore(), keystead.Sum(e))
			must(t, err)
			out, err := m.Apply([]ledger.Committed{{Index: 1, Data: e}}, newBatch())
			must(t, err)
			wantReason(t, out.Results[0].Err, keystead.ReasonThresholdMissing)
		})
	}
}

func lastLine(b []byte) string {
	s := strings.TrimSuffix(string(b), "\n")
	return s[strings.LastIndexByte(s, '\n')+1:] + "\n"
}

// TestUnknownVersionStops wants a clear stop before anything of the batch is
// applied, and a build that knows the version to go on from there: where members voted
// the version. One that they did not vote is refused, or any node could stop all others.
func TestUnknownVersionStops(t *testing.T) {
	for _, version := range []byte{0, receipt.Version + 1, 255} {
		newDomain(t, 3).refused(append([]byte{version}, "whatever it is"...), keystead.ReasonVersionUnknown)
	}
	d := newDomain(t, 3, fmt.Sprintf("entry-version=%d", receipt.Version+1))
	before := d.store.digest()
	good, future := d.run(put("a", "1")), append([]byte{receipt.Version + 1}, "whatever it is"...)
	b := newBatch()
	_, err := d.machine.Apply([]ledger.Committed{{Index: 1, Offset: 1, Data: good}, {Index: 2, Data: future}}, b)
	var stop *ledger.StopError
	if !errors.As(err, &stop) || stop.Index != 2 || !errors.Is(err, keystead.ReasonVersionUnknown) {
		t.Fatalf("want a stop at entry 2 for version-unknown, got %v", err)
	}
	if len(b.set) != 0 || d.store.digest() != before {
		t.Error("something of the batch was written")
	}
	if _, err := d.machine.Apply([]ledger.Committed{{Index: 1, Offset: 1, Data: good}}, newBatch()); err == nil {
		t.Error("a stopped machine went on")
	}
	d.machine, err = ledger.Open(d.store, d.id)
	must(t, err)
	d.ok(good)
}

// TestCorruptRecordsStop spoils each record of the store in turn: whoever reads
// it stops with a StopError, or the record is not read at all.
func TestCorruptRecordsStop(t *testing.T) {
	d := newDomain(t, 3, version4)
	d.ok(d.stateDigest("node-1", d.position(), "good"))
	d.ok(d.run(put("a", "1")))
	p := proposal(1, "setting", "x-seconds", 0, "5")
	d.ok(p)
	e := d.endorse("node-1", judge(p, 100))
	d.ok(e.Entry())
	d.ok(d.effective(judge(p, 100), "node-1", "node-2"))
	a := d.enrolled("a", 60_000)
	d.ok(d.renewals(pair, d.item("a", a, 70_000)))
	d.ok(d.suspension("node-1", "a", a, "x"))
	d.checkpoint("node-1", "node-2")
	stopped := map[byte]bool{}
	for k, v := range d.store.m {
		s := newStore()
		for k, v := range d.store.m {
			s.m[k] = v
		}
		s.m[k] = v[:len(v)/2]
		_, err := ledger.Open(s, d.id)
		var stop *ledger.StopError
		if err != nil && !errors.As(err, &stop) {
			t.Errorf("%q cut short: %v is no StopError", k, err)
		}
		if err != nil {
			stopped[k[0]] = true
		}
	}
	for _, space := range "acdelnopqrst" { // the spaces that are read at opening
		if !stopped[byte(space)] {
			t.Errorf("no record of space %c was missed when it was cut short", space)
		}
	}
	d.store.m["kkv/a"] = []byte("short")
	tx := ledger.Transaction{Request: d.request(), Contract: ledger.KV, Conditions: []ledger.Condition{{Key: "kv/a", Version: 2}}}
	entry, err := tx.Entry()
	must(t, err)
	_, err = d.machine.Apply([]ledger.Committed{{Index: 99, Data: entry}}, newBatch())
	var stop *ledger.StopError
	if !errors.As(err, &stop) {
		t.Errorf("a corrupt value: want a StopError, got %v", err)
	}
}

func TestTransactionsRefused(t *testing.T) {
	d := newDomain(t, 3)
	tx := func(edit func(*ledger.Transaction)) []byte {
		x := &ledger.Transaction{Request: d.request(), Contract: ledger.KV, Writes: []ledger.Write{{Key: "kv/a"}, {Key: "kv/b", Value: []byte("1")}}}
		edit(x)
		e, err := x.Entry()
		must(t, err)
		return e
	}
	for _, key := range []string{"", "kv", "kv/", "kw/a", "k", "setting/a", "/kv/a", "kv2/a"} {
		e := tx(func(x *ledger.Transaction) { x.Writes[1].Key = key })
		if key == "kv/" {
			d.ok(e) // the empty key is the contract's own
			continue
		}
		d.refused(e, keystead.ReasonWriteOutside)
	}
	d.refused(tx(func(x *ledger.Transaction) { x.Writes[1] = ledger.Write{Key: "kw/a", Delete: true} }), keystead.ReasonWriteOutside)
	d.refused(tx(func(x *ledger.Transaction) { x.Conditions = []ledger.Condition{{Key: "kv/a", Version: 1}} }), keystead.ReasonConditionFailed)
	d.refused(tx(func(x *ledger.Transaction) { x.Request.Deadline = d.machine.Clock() }), keystead.ReasonRequestExpired)
	d.refused(tx(func(x *ledger.Transaction) { x.Request.Deadline = d.machine.Clock() + ledger.Window + 1 }), keystead.ReasonRequestExpired)
	d.refused(tx(func(x *ledger.Transaction) { x.Request.Deadline = math.MaxUint64 }), keystead.ReasonRequestExpired)
}

// TestConcurrentExecutors runs two transactions upon the same state, in one
// batch: the second one must not overwrite the first one's update.
func TestConcurrentExecutors(t *testing.T) {
	d := newDomain(t, 3)
	d.ok(d.run(put("n", "1")))
	add := func(v string) []byte {
		return d.run(ledger.Op{Key: "n", Value: []byte(v), Compare: &ledger.Compare{Value: []byte("1")}})
	}
	one, two := add("2"), add("3")
	r := d.apply(d.run(put("other", "x")), one, two)
	if !r[1].Recorded {
		t.Errorf("the first: %v", r[1].Err)
	}
	wantReason(t, r[2].Err, keystead.ReasonConditionFailed)
	v, err := ledger.NewView(d.store).Get("kv/n")
	must(t, err)
	if string(v.Data) != "2" {
		t.Errorf("n is %q", v.Data)
	}
}

func TestCompareAtExecution(t *testing.T) {
	d := newDomain(t, 3)
	d.ok(d.run(put("a", "1")))
	for _, op := range []ledger.Op{
		{Key: "a", Compare: &ledger.Compare{Absent: true}},
		{Key: "a", Compare: &ledger.Compare{Value: []byte("2")}},
		{Key: "b", Compare: &ledger.Compare{Value: []byte("")}},
	} {
		_, err := ledger.Execute(ledger.NewView(d.store), d.request(), []ledger.Op{put("ok", "1"), op})
		wantReason(t, err, keystead.ReasonConditionFailed)
	}
}

// TestExecutorCannotReachJudgedState lets a contract take the name of a judged
// type: its keys are others.
func TestExecutorCannotReachJudgedState(t *testing.T) {
	d := newDomain(t, 3)
	p := proposal(1, "setting", "x-seconds", 0, "5")
	d.ok(p)
	d.ok(d.effective(judge(p, 100), "node-1", "node-2"))
	e, err := (&ledger.Transaction{Request: d.request(), Contract: "setting", Writes: []ledger.Write{{Key: "setting/x-seconds", Value: []byte("99")}}}).Entry()
	must(t, err)
	d.ok(e)
	v, err := ledger.NewView(d.store).Judged("setting/x-seconds")
	must(t, err)
	if string(v.Data) != "5" {
		t.Errorf("a transaction set the judged value to %q", v.Data)
	}
}

func TestEffectiveRefused(t *testing.T) {
	d := newDomain(t, 5)
	other := newDomain(t, 4)
	d.newNode("node-9") // a key that no roster names
	p := proposal(1, "setting", "x-seconds", 0, "5")
	d.ok(p)
	v := judge(p, 100)
	with := func(edit func(*ledger.Effective)) []byte {
		e, err := ledger.ParseEffective(d.effective(v, "node-1", "node-2", "node-3"))
		must(t, err)
		edit(&e)
		out, err := e.Entry()
		must(t, err)
		return out
	}
	for _, tc := range []struct {
		name string
		edit func(*ledger.Effective)
		want keystead.Reason
	}{
		{"a minority", func(e *ledger.Effective) { e.Endorsements = e.Endorsements[:2] }, keystead.ReasonMajorityMissing},
		{"nobody", func(e *ledger.Effective) { e.Endorsements = nil }, keystead.ReasonMajorityMissing},
		{"one node three times", func(e *ledger.Effective) {
			e.Endorsements[1], e.Endorsements[2] = e.Endorsements[0], e.Endorsements[0]
		}, keystead.ReasonMajorityMissing},
		{"one node under three names", func(e *ledger.Effective) {
			e.Endorsements[1].Signature, e.Endorsements[2].Signature = e.Endorsements[0].Signature, e.Endorsements[0].Signature
		}, keystead.ReasonSignatureInvalid},
		{"a stranger", func(e *ledger.Effective) { e.Endorsements[2] = d.endorse("node-9", v).Signed }, keystead.ReasonSignerUnknown},
		{"endorsements of another domain", func(e *ledger.Effective) {
			e.Endorsements[2] = ledger.Endorse(d.keys["node-3"], "node-3", other.id, v).Signed
		}, keystead.ReasonSignatureInvalid},
		{"endorsements of another verdict", func(e *ledger.Effective) { e.Verdict.Content = []byte("other words") }, keystead.ReasonSignatureInvalid},
		{"other writes than endorsed", func(e *ledger.Effective) { e.Verdict.Writes[0].Value = []byte("6") }, keystead.ReasonSignatureInvalid},
		{"no such proposal", func(e *ledger.Effective) { e.Verdict.Proposal[0]++ }, keystead.ReasonProposalUnknown},
		{"another subject", func(e *ledger.Effective) { e.Verdict.Subject = "y-seconds" }, keystead.ReasonProposalUnknown},
		{"another type", func(e *ledger.Effective) { e.Verdict.Type = "admission" }, keystead.ReasonProposalUnknown},
		{"another base", func(e *ledger.Effective) { e.Verdict.Base++ }, keystead.ReasonProposalUnknown},
		{"a write outside the type", func(e *ledger.Effective) { e.Verdict.Writes[0].Key = "admission/x" }, keystead.ReasonWriteOutside},
		{"a denial", func(e *ledger.Effective) { e.Verdict.Writes = nil }, keystead.ReasonUnprovable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d.t = t
			d.refused(with(tc.edit), tc.want)
		})
	}
	d.t = t
	d.ok(with(func(*ledger.Effective) {}))
}

// TestUnjudgedProposalHasNoReceipt has a leader propose what no node accepts.
func TestUnjudgedProposalHasNoReceipt(t *testing.T) {
	d := newDomain(t, 3)
	p := proposal(1, "setting", "x-seconds", 0, "999999")
	d.ok(p)
	v := judge(p, 100)
	forged := *v
	forged.Writes = []ledger.Write{{Key: "setting/x-seconds", Value: []byte("999999")}}
	e := ledger.NewEffective(&forged, []ledger.Endorsement{d.endorse("node-1", &forged), d.endorse("node-2", v), d.endorse("node-3", v)})
	entry, err := e.Entry()
	must(t, err)
	d.refused(entry, keystead.ReasonMajorityMissing)
	if d.machine.Size() != 1 {
		t.Error("something is in the tree")
	}
}

func TestReorderedAndExpired(t *testing.T) {
	d := newDomain(t, 3)
	one, two := proposal(1, "setting", "x-seconds", 0, "5"), proposal(2, "setting", "x-seconds", 0, "6")
	d.ok(one)
	d.ok(two)
	d.ok(d.effective(judge(two, 100), "node-1", "node-2"))
	d.refused(d.effective(judge(one, 100), "node-1", "node-2"), keystead.ReasonSubjectChanged)
	d.refused(d.effective(judge(two, 100), "node-1", "node-3"), keystead.ReasonProposalClosed)
	d.refused(proposal(3, "setting", "x-seconds", 0, "7"), keystead.ReasonSubjectChanged)
	three, intime := proposal(3, "setting", "x-seconds", 2, "7"), proposal(3, "setting", "y-seconds", 0, "7")
	d.ok(three)
	d.ok(intime)
	d.ok(d.tick(ledger.Window, "node-1", "node-2"))
	d.ok(d.effective(judge(intime, 100), "node-1", "node-2"))
	held := d.effective(judge(three, 100), "node-1", "node-2")
	d.ok(d.tick(1, "node-1", "node-2"))
	d.refused(held, keystead.ReasonProposalExpired)
	d.ok(d.tick(ledger.Window, "node-1", "node-2"))
	d.refused(held, keystead.ReasonProposalUnknown)
}

func TestEndorsementsRefused(t *testing.T) {
	d := newDomain(t, 3)
	p := proposal(1, "setting", "x-seconds", 0, "5")
	d.ok(p)
	good := d.endorse("node-1", judge(p, 100))
	bad := good
	bad.Signature[0]++
	d.refused(bad.Entry(), keystead.ReasonSignatureInvalid)
	bad = good
	bad.Node = "node-2"
	d.refused(bad.Entry(), keystead.ReasonSignatureInvalid)
	bad.Node = "node-7"
	d.refused(bad.Entry(), keystead.ReasonSignerUnknown)
	bad = good
	bad.Proposal[0]++
	d.refused(bad.Entry(), keystead.ReasonProposalUnknown)
	d.ok(good.Entry())
	d.ok(good.Entry())
	if len(d.alarms) != 0 {
		t.Errorf("alarms without a disagreement: %+v", d.alarms)
	}
	second := d.endorse("node-1", judge(p, 1))
	r := d.apply(second.Entry())[0]
	wantReason(t, r.Err, keystead.ReasonVerdictDisagreement)
	if len(d.alarms) != 1 {
		t.Errorf("a node that signed two verdicts raised %d alarms", len(d.alarms))
	}
}

// TestRekeyedNode wants a node's old key to count for nothing once it has a new one.
func TestRekeyedNode(t *testing.T) {
	d := newDomain(t, 3)
	p := proposal(1, "setting", "x-seconds", 0, "5")
	d.ok(p)
	v := judge(p, 100)
	old := d.endorse("node-2", v)
	d.ok(old.Entry())
	e, _ := d.rekeyEntry("node-2", []string{"node-1"})
	d.refused(e, keystead.ReasonMajorityMissing)
	e, _ = d.rekeyEntry("node-2", []string{"node-1", "node-3"})
	d.ok(e)
	entry, err := ledger.NewEffective(v, []ledger.Endorsement{d.endorse("node-1", v), old}).Entry()
	must(t, err)
	d.refused(entry, keystead.ReasonSignatureInvalid)
	d.ok(d.effective(v, "node-1", "node-2"))
	d.checkpoint("node-1", "node-2")
	_, err = receipt.NewVerifier(d.id).Verify(d.receipt(2))
	must(t, err)
}

func TestRekeyChangesKeysOnly(t *testing.T) {
	d := newDomain(t, 3)
	for name, edit := range map[string]func(*receipt.Roster){
		"removal":   without("node-3"),
		"threshold": func(r *receipt.Roster) { r.Threshold = 1 },
		"members":   func(r *receipt.Roster) { r.Members = r.Members[:2] },
		"a rename":  func(r *receipt.Roster) { r.Nodes[2].Name = "node-9" },
		"a TPM":     func(r *receipt.Roster) { r.Nodes[2].AK = forger.New(9).AK() },
		"no TPM":    func(r *receipt.Roster) { r.Nodes[2].AK = key.AKDigest{} },
	} {
		t.Run(name, func(t *testing.T) {
			c := d.nextChange(edit)
			c.Rekey = true
			d.t = t
			d.refused(d.signRekey(c, "node-1", "node-2", "node-3"), keystead.ReasonRosterBroken)
		})
	}
}

func TestRosterChangesRefused(t *testing.T) {
	d, other := newDomain(t, 4), newDomain(t, 3)
	d.refused(d.change(without("node-4"), "ben"), keystead.ReasonThresholdMissing)
	d.refused(other.change(without("node-3"), "ada", "ben"), keystead.ReasonDomainMismatch)
	add := d.change(func(r *receipt.Roster) { r.Nodes = append(r.Nodes, d.newNode("node-5")) }, "ada", "cleo")
	remove := d.change(without("node-4"), "ada", "ben")
	d.ok(add)
	d.refused(add, keystead.ReasonRosterBroken)    // replayed
	d.refused(remove, keystead.ReasonRosterBroken) // reordered: it was signed to follow the genesis roster
	d.ok(d.change(without("node-5"), "ada", "ben"))
	d.refused(add, keystead.ReasonRosterBroken) // replayed after the removal

	fork := newDomain(t, 4) // the same domain, where members signed another first change
	fork.ok(fork.change(without("node-2"), "ada", "ben"))
	fork.ok(fork.change(without("node-3"), "ada", "ben"))
	d.refused(fork.change(without("node-4"), "ada", "ben"), keystead.ReasonRosterBroken)
}

func TestTicksRefused(t *testing.T) {
	d := newDomain(t, 3)
	other := newDomain(t, 4)
	d.ok(d.tick(1000, "node-1", "node-2"))
	entry := func(ticks ...ledger.SignedTick) []byte {
		e, err := ledger.TickEntry(ticks)
		must(t, err)
		return e
	}
	good := d.signTick("node-2", d.now+1000)
	forged := d.signTick("node-1", d.now+1000)
	forged.Time++
	foreign := ledger.NewTick(d.keys["node-1"], "node-1", other.id, d.now+1000, [32]byte{})
	d.refused(entry(good), keystead.ReasonMajorityMissing)
	d.refused(entry(good, good), keystead.ReasonTickReplayed)
	d.refused(entry(good, d.signTick("node-1", d.now)), keystead.ReasonTickReplayed)
	d.refused(entry(good, d.signTick("node-1", d.now-1)), keystead.ReasonTickReplayed)
	d.refused(entry(good, forged), keystead.ReasonSignatureInvalid)
	d.refused(entry(good, foreign), keystead.ReasonSignatureInvalid)
	if d.machine.Clock() != d.now {
		t.Errorf("the clock is %d, not %d", d.machine.Clock(), d.now)
	}
}

// TestMinorityCannotMoveTheClock lets two of five nodes, and a leader that leaves
// out whom it likes, tick far ahead: the clock stays at what honest nodes reached.
func TestMinorityCannotMoveTheClock(t *testing.T) {
	d := newDomain(t, 5)
	d.ok(d.tick(1000, "node-1", "node-2", "node-3", "node-4", "node-5"))
	day := uint64(24 * 3600 * 1000)
	for i := range uint64(5) {
		d.now += 1000
		e, err := ledger.TickEntry([]ledger.SignedTick{d.signTick("node-1", d.now), d.signTick("node-4", d.now+day+i), d.signTick("node-5", d.now+day+i)})
		must(t, err)
		d.ok(e)
		if d.machine.Clock() > d.now {
			t.Fatalf("the clock is %d ms ahead", d.machine.Clock()-d.now)
		}
	}
	back, err := ledger.TickEntry([]ledger.SignedTick{d.signTick("node-1", d.now+1), d.signTick("node-2", d.now-3000), d.signTick("node-3", d.now-3000)})
	must(t, err)
	before := d.machine.Clock()
	d.ok(back)
	if d.machine.Clock() < before {
		t.Error("the clock went backwards")
	}
}

// TestClockNeverGoesBackwards removes a node that was ahead: what a majority of
// those left has reached is earlier, and the clock waits for them.
func TestClockNeverGoesBackwards(t *testing.T) {
	d := newDomain(t, 3)
	tick := func(ticks ...ledger.SignedTick) {
		e, err := ledger.TickEntry(ticks)
		must(t, err)
		d.ok(e)
	}
	tick(d.signTick("node-1", epoch+9000), d.signTick("node-2", epoch+9000), d.signTick("node-3", epoch+1))
	d.ok(d.change(without("node-1"), "ada", "ben"))
	tick(d.signTick("node-2", epoch+9001), d.signTick("node-3", epoch+2))
	if now := d.machine.Clock(); now != epoch+9000 {
		t.Errorf("the clock is at genesis + %d ms, not 9000", now-epoch)
	}
	tick(d.signTick("node-2", epoch+9002), d.signTick("node-3", epoch+9001))
	if now := d.machine.Clock(); now != epoch+9001 {
		t.Errorf("the clock is at genesis + %d ms, not 9001", now-epoch)
	}
}

func TestNonces(t *testing.T) {
	d := newDomain(t, 3)
	if _, ok := d.machine.Nonce(); ok {
		t.Error("a nonce before the first tick")
	}
	d.ok(d.tick(1000, "node-1", "node-2"))
	first, _ := d.machine.Nonce()
	must(t, d.machine.CheckNonce(first))
	d.ok(d.tick(ledger.Window, "node-1", "node-2"))
	must(t, d.machine.CheckNonce(first))
	second, _ := d.machine.Nonce()
	d.ok(d.tick(1, "node-1", "node-2"))
	wantReason(t, d.machine.CheckNonce(first), keystead.ReasonNonceExpired)
	must(t, d.machine.CheckNonce(second))
	wantReason(t, d.machine.CheckNonce(keystead.Sum(nil)), keystead.ReasonNonceMismatch)
	if first == second {
		t.Error("two ticks gave one nonce")
	}
}

func TestVotesRefused(t *testing.T) {
	d := newDomain(t, 3)
	for i := range 5 {
		d.ok(d.run(put(fmt.Sprint(i), "x")))
	}
	head, err := d.machine.Head(4)
	must(t, err)
	vote := func(node string, h receipt.TreeHead) []byte {
		v := ledger.NewVote(d.keys[node], node, h)
		return v.Entry()
	}
	beyond := head
	beyond.Size = 7
	d.refused(vote("node-1", beyond), keystead.ReasonProofInvalid)
	forged := ledger.NewVote(d.keys["node-2"], "node-1", head)
	d.refused(forged.Entry(), keystead.ReasonSignatureInvalid)
	stranger := ledger.NewVote(d.keys["node-2"], "node-8", head)
	d.refused(stranger.Entry(), keystead.ReasonSignerUnknown)
	if len(d.alarms) != 0 {
		t.Fatalf("alarms: %+v", d.alarms)
	}
	fork := head
	fork.Root[0]++
	d.refused(vote("node-3", fork), keystead.ReasonCheckpointConflict)
	if d.voted != nil {
		t.Error("other nodes are to sign a fork")
	}
	if len(d.alarms) != 1 || d.alarms[0].Finding.Reason != keystead.ReasonCheckpointConflict {
		t.Errorf("a node that signed another tree raised %+v", d.alarms)
	}
	d.ok(vote("node-1", head))
	if _, err := ledger.NewProver(d.store); !errors.Is(err, ledger.ErrNoCheckpoint) {
		t.Errorf("one signature of three: %v", err)
	}
	if d.voted == nil || *d.voted != head {
		t.Errorf("other nodes are to sign %+v", d.voted)
	}
	d.ok(vote("node-1", head)) // the same node again
	if _, err := ledger.NewProver(d.store); !errors.Is(err, ledger.ErrNoCheckpoint) {
		t.Errorf("one signature of three, twice: %v", err)
	}
	d.ok(vote("node-2", head))
	p, err := ledger.NewProver(d.store)
	must(t, err)
	if p.Head() != head {
		t.Errorf("%+v, not %+v", p.Head(), head)
	}
	d.ok(vote("node-3", head)) // a third one adds to it
	note, err := ledger.NewView(d.store).Checkpoint()
	must(t, err)
	if n := strings.Count(string(note), "— node-"); n != 3 {
		t.Errorf("%d signatures, not 3", n)
	}
}

func TestWatch(t *testing.T) {
	var w ledger.Watch
	wantReason(t, w.Check(0), keystead.ReasonClockStale)
	w.Start(epoch, 50_000)
	must(t, w.Check(52_000))
	wantReason(t, w.Check(52_001), keystead.ReasonClockStale) // no ticks: the node is cut off
	w.Observe(epoch + 2000)
	must(t, w.Check(52_001))
	wantReason(t, w.Check(49_999), keystead.ReasonClockStale)
	w.Observe(epoch + 9000) // far ahead of the node's own clock
	wantReason(t, w.Check(53_000), keystead.ReasonClockStale)
	must(t, w.Check(57_000))
	day := uint64(24 * 3600 * 1000)
	w.Observe(epoch + day)
	must(t, w.Check(50_000+day+2000+day/10_000)) // oscillators drift
	wantReason(t, w.Check(50_000+day+2010+day/10_000), keystead.ReasonClockStale)
}

func TestTooManyProposals(t *testing.T) {
	d := newDomain(t, 3)
	var all [][]byte
	for i := range ledger.MaxProposals {
		all = append(all, proposal(0, "setting", fmt.Sprintf("s%d", i), 0, ""))
	}
	for _, r := range d.apply(all...) {
		must(t, r.Err)
	}
	d.refused(proposal(0, "setting", "one-more", 0, ""), keystead.ReasonOverloaded)
	d.ok(d.tick(2*ledger.Window, "node-1", "node-2"))
	d.ok(proposal(0, "setting", "one-more", 0, ""))
}

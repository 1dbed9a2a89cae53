package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// history plays a random history on a domain and keeps a simple model beside it:
// a map for the keys, a set for the requests, a compact range for the tree.
type history struct {
	*domain
	rnd      *rand.Rand
	kv       map[string]ledger.Value
	done     map[ledger.RequestID]uint64
	requests [][]byte
	tree     *compact.Range
	results  []ledger.Result
	leases   map[string]*modelLease
	ended    map[string]uint64 // host: domain clock of its last suspension
}

// modelLease is a lease as the model has it.
type modelLease struct {
	version, issued, until uint64
	suspended              bool
}

func newHistory(t testing.TB, seed uint64, steps int) *history {
	var settings []string
	if seed%2 == 1 {
		settings = append(settings, version4)
	}
	h := &history{domain: newDomain(t, 3, settings...), rnd: rand.New(rand.NewPCG(seed, 1)), kv: map[string]ledger.Value{}, done: map[ledger.RequestID]uint64{}, leases: map[string]*modelLease{}, ended: map[string]uint64{}}
	h.tree = (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	must(t, h.tree.Append(rfc6962.DefaultHasher.HashLeaf(h.genesis), nil))
	h.results = []ledger.Result{{Index: 1, Kind: receipt.KindGenesis, ID: receipt.LeafHash(h.genesis), Recorded: true}}
	for range steps {
		h.step()
	}
	return h
}

// send applies an entry and compares what became of it with what the model says.
func (h *history) send(e []byte, recorded bool) ledger.Result {
	h.t.Helper()
	r := h.apply(e)[0]
	h.results = append(h.results, r)
	again, err := ledger.ParseResult(r.Append(nil))
	must(h.t, err)
	if a, b := fmt.Sprintf("%+v", r), fmt.Sprintf("%+v", again); a != b && !strings.Contains(b, string(keystead.ReasonMalformed)) {
		h.t.Fatalf("a result is read back otherwise:\n%s\n%s", a, b)
	}
	if recorded {
		must(h.t, ledger.Check(e))
	}
	if r.Recorded != recorded {
		h.t.Fatalf("log entry %d (%v): recorded %v, the model says %v: %v", r.Index, r.Kind, r.Recorded, recorded, r.Err)
	}
	if recorded {
		if uint64(h.tree.End()) != r.Leaf {
			h.t.Fatalf("log entry %d is leaf %d, the model says %d", r.Index, r.Leaf, h.tree.End())
		}
		must(h.t, h.tree.Append(rfc6962.DefaultHasher.HashLeaf(e), nil))
	}
	return r
}

func (h *history) step() {
	switch n := h.rnd.IntN(100); {
	case n < 50:
		h.transaction()
	case n < 60 && len(h.requests) > 0: // sent again, in time or too late
		e := h.requests[h.rnd.IntN(len(h.requests))]
		tx, err := ledger.ParseTransaction(e)
		must(h.t, err)
		r := h.send(e, false)
		leaf, done := h.done[tx.Request]
		switch late := tx.Request.Deadline <= h.machine.Clock(); {
		case late && !errors.Is(r.Err, keystead.ReasonRequestExpired):
			h.t.Fatalf("a late request: %+v", r)
		case !late && done && (!r.Repeated || r.Leaf != leaf):
			h.t.Fatalf("a repeated request that took effect as leaf %d: %+v", leaf, r)
		}
	case n < 75:
		all := []string{"node-1", "node-2", "node-3"}
		h.rnd.Shuffle(3, func(i, j int) { all[i], all[j] = all[j], all[i] })
		h.send(h.tick(uint64(h.rnd.IntN(3000)+1), all[:2+h.rnd.IntN(2)]...), false)
	case n < 80:
		h.judged()
	case n < 87:
		h.lease()
	case n < 89:
		h.compareStates()
	case n < 95:
		size := h.machine.Size() - uint64(h.rnd.IntN(int(min(h.machine.Size(), 3))))
		h.send(h.vote(fmt.Sprintf("node-%d", 1+h.rnd.IntN(3)), size), false)
	case n < 97:
		h.rekey()
	case n < 98:
		h.send(nil, false)
	default:
		garbage := make([]byte, h.rnd.IntN(100))
		for i := range garbage {
			garbage[i] = byte(h.rnd.Uint32())
		}
		h.send(append([]byte{receipt.Version}, garbage...), false)
	}
}

// compareStates asks for a position, or has a node sign what it came to at one.
func (h *history) compareStates() {
	kept := h.machine.Positions().Kept
	if len(kept) == 0 || h.rnd.IntN(3) == 0 {
		h.send(ledger.PositionEntry(), false)
		return
	}
	node, what := fmt.Sprintf("node-%d", 1+h.rnd.IntN(3)), "good"
	if h.rnd.IntN(10) == 0 {
		what = "bad"
	}
	h.send(h.stateDigest(node, kept[h.rnd.IntN(len(kept))].Index, what), false)
}

func (h *history) transaction() {
	tx := ledger.Transaction{Request: h.request(), Contract: ledger.KV}
	tx.Request.Deadline = h.machine.Clock() + 1 + uint64(h.rnd.IntN(ledger.Window))
	good := true
	for range h.rnd.IntN(3) {
		k := h.key()
		version := h.kv[k].Version
		if h.rnd.IntN(8) == 0 {
			version += uint64(h.rnd.IntN(2))
		}
		good = good && version == h.kv[k].Version
		tx.Conditions = append(tx.Conditions, ledger.Condition{Key: k, Version: version})
	}
	for range 1 + h.rnd.IntN(3) {
		tx.Writes = append(tx.Writes, ledger.Write{Key: h.key(), Delete: h.rnd.IntN(4) == 0, Value: bytes.Repeat(fmt.Append(nil, h.rnd.Uint64()), 1+h.rnd.IntN(2)*h.rnd.IntN(30))})
	}
	if h.rnd.IntN(20) == 0 {
		good = false
		tx.Writes[0].Key = "kw/" + tx.Writes[0].Key
	}
	for i, w := range tx.Writes {
		if w.Delete {
			tx.Writes[i].Value = nil
		}
	}
	e, err := tx.Entry()
	must(h.t, err)
	h.requests = append(h.requests, e)
	r := h.send(e, good)
	if !good {
		return
	}
	h.done[tx.Request] = r.Leaf
	for _, w := range tx.Writes {
		if w.Delete {
			delete(h.kv, w.Key)
		} else {
			h.kv[w.Key] = ledger.Value{Version: r.Leaf + 1, Data: w.Value}
		}
	}
}

func (h *history) key() string { return fmt.Sprintf("kv/%d", h.rnd.IntN(10)) }

func (h *history) judged() {
	subject := fmt.Sprintf("s%d-seconds", h.rnd.IntN(3))
	base, err := ledger.NewView(h.store).Subject("setting", subject)
	must(h.t, err)
	p := proposal(byte(h.rnd.Uint32()), "setting", subject, base, fmt.Sprint(1+h.rnd.IntN(4000)))
	h.send(p, false)
	for _, node := range []string{"node-1", "node-2", "node-3"}[:h.rnd.IntN(4)] {
		e := h.endorse(node, judge(p, 3600-h.rnd.IntN(2)*3000))
		h.send(e.Entry(), false)
	}
	v := judge(p, 3600)
	nodes := []string{"node-1", "node-2", "node-3"}[h.rnd.IntN(3):]
	h.send(h.effective(v, nodes...), len(nodes) >= 2 && len(v.Writes) > 0)
}

// lease admits a host, renews leases, or suspends one, rightly or not.
func (h *history) lease() {
	clock := h.machine.Clock()
	host := func() string { return fmt.Sprintf("host-%d", h.rnd.IntN(4)) }
	version := func(name string) uint64 {
		v := uint64(h.rnd.IntN(50))
		if l := h.leases[name]; l != nil && h.rnd.IntN(5) > 0 {
			v = l.version
		}
		return v
	}
	switch name := host(); h.rnd.IntN(4) {
	case 0:
		until, issued := clock+uint64(h.rnd.IntN(30_000)), clock-uint64(h.rnd.IntN(5_000))
		p, v := h.ruling(admit.TypeLease, name, leaseWrite(name, issued, until, 1))
		h.send(p, false)
		r := h.send(h.effective(v, "node-1", "node-2"), true)
		at, ended := h.ended[name]
		h.leases[name] = &modelLease{version: r.Leaf + 1, issued: issued, until: until, suspended: ended && at >= issued}
	case 1:
		v := version(name)
		l := h.leases[name]
		counts := l != nil && l.version == v && !l.suspended
		h.send(h.suspension(fmt.Sprintf("node-%d", 1+h.rnd.IntN(3)), name, v, "x"), counts)
		if counts {
			l.suspended, h.ended[name] = true, clock
		}
	default:
		var items []ledger.RenewalItem
		counts := false
		for i := range 4 {
			x := h.item(fmt.Sprintf("host-%d", i), version(fmt.Sprintf("host-%d", i)), uint64(h.rnd.IntN(100_000)))
			if h.rnd.IntN(4) == 0 {
				continue
			}
			items = append(items, x)
			if l := h.leases[x.Host]; l != nil && l.version == x.Lease && !l.suspended && l.until > clock && x.Until > l.until && x.Until <= clock+90_000 {
				l.until, counts = x.Until, true
			}
		}
		if len(items) > 0 {
			h.send(h.renewals([]string{"node-1", fmt.Sprintf("node-%d", 2+h.rnd.IntN(2))}, items...), counts)
		}
	}
}

// checkLeases compares the leases with the model's.
func (h *history) checkLeases() {
	v := ledger.NewView(h.store)
	for host, want := range h.leases {
		x, err := v.Judged(admit.LeaseKey(host))
		must(h.t, err)
		r, err := v.Renewal(host)
		must(h.t, err)
		s, err := v.Suspension(host)
		must(h.t, err)
		until, issued := admit.RecordTimes(x.Data)
		if r.Lease == x.Version {
			until = r.Until
		}
		if got := (modelLease{x.Version, issued, until, s.Lease != 0 && (s.Lease == x.Version || s.Time >= issued)}); got != *want {
			h.t.Errorf("%s is %+v, the model says %+v", host, got, *want)
		}
	}
}

func (h *history) rekey() {
	name := fmt.Sprintf("node-%d", 1+h.rnd.IntN(3))
	signers := []string{"node-1", "node-2", "node-3"}
	e, counts := h.rekeyEntry(name, signers[:1+h.rnd.IntN(3)])
	h.send(e, counts)
}

// rekeyEntry makes a rekey signed by nodes and says whether it counts.
func (d *domain) rekeyEntry(name string, signers []string) ([]byte, bool) {
	before := d.keys[name]
	next := d.newNode(name)
	after := d.keys[name]
	d.keys[name] = before
	c := d.nextRekey(next)
	e := d.signRekey(c, signers...)
	counts := len(signers) >= 2
	if counts {
		d.keys[name] = after
	}
	return e, counts
}

// nextRekey makes a rekey to a node's next key, which the node's TPM certifies.
func (d *domain) nextRekey(next receipt.Node) *receipt.Change {
	d.t.Helper()
	c := d.nextChange(func(r *receipt.Roster) {
		for i := range r.Nodes {
			if r.Nodes[i].Name == next.Name {
				r.Nodes[i] = next
			}
		}
	})
	c.Rekey = true
	c.Certificates = []receipt.Certificate{{Node: next.Name, Certification: d.tpms[next.Name].Certify(receipt.KeyBinding(d.id, c.After, next.Name, next.Key))}}
	return c
}

// signRekey has nodes sign a rekey with the keys that they have.
func (d *domain) signRekey(c *receipt.Change, signers ...string) []byte {
	d.t.Helper()
	text, err := c.Text()
	must(d.t, err)
	signed := append(text, '\n')
	for _, s := range signers {
		signed = receipt.AppendSignature(signed, receipt.Node{Name: s, Key: d.keys[s].Public()}, d.keys[s].Sign(text))
	}
	e, err := receipt.NoteEntry(signed)
	must(d.t, err)
	return e
}

func TestRandomHistories(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			h := newHistory(t, seed, 700)
			h.checkModel()
			h.checkReplays()
		})
	}
}

// checkModel compares the state with the model.
func (h *history) checkModel() {
	h.checkLeases()
	n := 0
	err := ledger.NewView(h.store).Keys("kv/", func(k string, v ledger.Value) bool {
		if want := h.kv[k]; want.Version != v.Version || string(want.Data) != string(v.Data) {
			h.t.Errorf("%s is %+v, the model says %+v", k, v, want)
		}
		n++
		return true
	})
	must(h.t, err)
	if n != len(h.kv) {
		h.t.Errorf("%d keys, the model has %d", n, len(h.kv))
	}
	head, err := h.machine.Head(h.machine.Size())
	must(h.t, err)
	want, err := h.tree.GetRootHash(nil)
	must(h.t, err)
	if keystead.Digest(want) != head.Root {
		h.t.Errorf("root %v, the model says %x", head.Root, want)
	}
}

// checkReplays applies the log in other batches, to machines that are opened anew
// and given entries twice: state, tree and results are the same to the byte.
func (h *history) checkReplays() {
	want := h.store.digest()
	for _, reopen := range []bool{false, true} {
		s := newStore()
		m, err := ledger.Open(s, h.id)
		must(h.t, err)
		var results []ledger.Result
		for from := 0; from < len(h.log); {
			to := min(len(h.log), from+1+h.rnd.IntN(100))
			again := 0
			if reopen {
				m, err = ledger.Open(s, h.id)
				must(h.t, err)
				again = min(from, 7)
			}
			b := newBatch()
			out, err := m.Apply(h.log[from-again:to], b)
			must(h.t, err)
			s.commit(b)
			results = append(results, out.Results[again:]...)
			from = to
		}
		if got := s.digest(); got != want {
			h.t.Errorf("reopened %v: state %v, want %v", reopen, got, want)
		}
		if !slices.EqualFunc(results, h.results, func(a, b ledger.Result) bool { return bytes.Equal(a.Append(nil), b.Append(nil)) }) {
			h.t.Errorf("reopened %v: other results", reopen)
		}
	}
}

// failing fails at one write or read.
type failing struct {
	*batch
	r    ledger.Reader
	left int
}

var errDisk = errors.New("the disk is full")

func (f *failing) fail() error {
	f.left--
	if f.left == 0 {
		return errDisk
	}
	return nil
}

func (f *failing) Set(k, v []byte) error { return errors.Join(f.fail(), f.batch.Set(k, v)) }
func (f *failing) Delete(k []byte) error { return errors.Join(f.fail(), f.batch.Delete(k)) }

func (f *failing) Get(k []byte) ([]byte, bool, error) {
	if err := f.fail(); err != nil {
		return nil, false, err
	}
	return f.r.Get(k)
}

func (f *failing) Scan(from, to []byte, visit func(k, v []byte) bool) error {
	return errors.Join(f.fail(), f.r.Scan(from, to, visit))
}

// TestFailuresLeaveNothing lets every store operation of a history fail in turn:
// the machine stops, says why, and nothing of the batch is in the store; opened
// anew, it ends where an undisturbed one does.
func TestFailuresLeaveNothing(t *testing.T) {
	h := newHistory(t, 99, 150)
	want := h.store.digest()
	s := newStore()
	faults, from := 0, 0
	for n := 1; ; n++ {
		f := &failing{r: s, left: -1}
		m, err := ledger.Open(f, h.id)
		must(t, err)
		if s.digest() == want {
			break
		}
		before := s.digest()
		f.batch, f.left = newBatch(), n
		_, err = m.Apply(h.log[from:min(from+20, len(h.log))], f)
		if err == nil {
			s.commit(f.batch)
			from, n = from+20, 0
			continue
		}
		faults++
		var stop *ledger.StopError
		if !errors.As(err, &stop) || !errors.Is(err, errDisk) {
			t.Fatalf("want a StopError for the disk, got %v", err)
		}
		if _, again := m.Apply(nil, newBatch()); again == nil || again.Error() != err.Error() {
			t.Fatalf("a stopped machine applied more: %v", again)
		}
		if s.digest() != before {
			t.Fatal("a failed batch changed the store")
		}
	}
	if from < len(h.log) || faults < 200 {
		t.Errorf("after %d faults and %d entries", faults, from)
	}
}

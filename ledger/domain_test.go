package ledger_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// store is an ordered store in memory, with batches.
type store struct {
	m    map[string][]byte
	keys []string // sorted; nil when stale
}

func newStore() *store { return &store{m: map[string][]byte{}} }

func (s *store) Get(k []byte) ([]byte, bool, error) { v, ok := s.m[string(k)]; return v, ok, nil }

func (s *store) Scan(from, to []byte, visit func(k, v []byte) bool) error {
	if s.keys == nil {
		for k := range s.m {
			s.keys = append(s.keys, k)
		}
		slices.Sort(s.keys)
	}
	i, _ := slices.BinarySearch(s.keys, string(from))
	for _, k := range s.keys[i:] {
		if k >= string(to) || !visit([]byte(k), s.m[k]) {
			return nil
		}
	}
	return nil
}

// digest names the whole content of the store.
func (s *store) digest() keystead.Digest {
	h := sha256.New()
	s.Scan([]byte{0}, []byte{255}, func(k, v []byte) bool {
		fmt.Fprintf(h, "%d %d ", len(k), len(v))
		h.Write(k)
		h.Write(v)
		return true
	})
	return keystead.Digest(h.Sum(nil))
}

type batch struct {
	set map[string][]byte // nil value: delete
}

func newBatch() *batch { return &batch{map[string][]byte{}} }

func (b *batch) Set(k, v []byte) error { b.set[string(k)] = append([]byte{}, v...); return nil }
func (b *batch) Delete(k []byte) error { b.set[string(k)] = nil; return nil }

func (s *store) commit(b *batch) {
	for k, v := range b.set {
		if v == nil {
			delete(s.m, k)
		} else {
			s.m[k] = v
		}
	}
	s.keys = nil
}

// fixed is randomness that is the same in every run.
func fixed(seed string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(seed))) }

// domain is a domain with its keys and one machine that applies its log.
type domain struct {
	t       testing.TB
	id      keystead.Digest
	genesis []byte
	members map[string]key.Member
	keys    map[string]*key.Node
	tpms    map[string]*forger.Forger
	roster  receipt.Roster
	store   *store
	machine *ledger.Machine
	log     []ledger.Committed
	perLog  int // entries in one log entry
	random  io.Reader
	now     uint64
	alarms  []ledger.Alarm
	voted   *receipt.TreeHead // of the last batch
}

const epoch = 1_790_000_000_000 // Unix milliseconds

func newDomain(t testing.TB, nodes int, settings ...string) *domain {
	d := &domain{t: t, members: map[string]key.Member{}, keys: map[string]*key.Node{}, tpms: map[string]*forger.Forger{}, random: fixed("requests"), now: epoch, perLog: 3}
	for _, name := range []string{"ada", "ben", "cleo"} {
		m, err := key.NewMember(fixed(name), name)
		must(t, err)
		d.members[name] = m
		d.roster.Members = append(d.roster.Members, m.Public())
	}
	d.roster.Threshold = 2
	for i := range nodes {
		d.roster.Nodes = append(d.roster.Nodes, d.newNode(fmt.Sprintf("node-%d", i+1)))
	}
	text, err := (&receipt.Genesis{Name: "example", Created: epoch, Settings: settings, Roster: d.roster}).Text()
	must(t, err)
	d.genesis, err = receipt.NoteEntry(d.sign(text, "ada", "ben"))
	must(t, err)
	d.id = keystead.Sum(d.genesis)
	d.store = newStore()
	d.machine, err = ledger.Open(d.store, d.id)
	must(t, err)
	d.ok(d.genesis)
	return d
}

// newNode makes a node key; each one is another. The node's TPM, which is made up,
// stays.
func (d *domain) newNode(name string) receipt.Node {
	k, err := key.NewNode(fixed(fmt.Sprint(name, len(d.log))))
	must(d.t, err)
	d.keys[name] = k
	if d.tpms[name] == nil {
		d.tpms[name] = forger.New(name[len(name)-1])
	}
	return receipt.Node{Name: name, Key: k.Public(), AK: d.tpms[name].AK()}
}

func (d *domain) sign(text []byte, members ...string) []byte {
	d.t.Helper()
	out, err := d.members[members[0]].Sign(text)
	for _, m := range members[1:] {
		must(d.t, err)
		out, err = d.members[m].Cosign(out)
	}
	must(d.t, err)
	return out
}

// apply applies entries as one batch of the log.
func (d *domain) apply(entries ...[]byte) []ledger.Result {
	d.t.Helper()
	var batchOf []ledger.Committed
	for _, e := range entries {
		c := ledger.Committed{Index: uint64(len(d.log)/d.perLog + 1), Offset: len(d.log) % d.perLog, Term: 1, Data: e}
		d.log = append(d.log, c)
		batchOf = append(batchOf, c)
	}
	b := newBatch()
	out, err := d.machine.Apply(batchOf, b)
	must(d.t, err)
	d.store.commit(b)
	d.alarms, d.voted = append(d.alarms, out.Alarms...), out.Voted
	return out.Results
}

// ok applies one entry that must not be refused.
func (d *domain) ok(entry []byte) ledger.Result {
	d.t.Helper()
	r := d.apply(entry)[0]
	must(d.t, r.Err)
	return r
}

// refused applies one entry that must be refused for the reason, without a trace.
func (d *domain) refused(entry []byte, want keystead.Reason) {
	d.t.Helper()
	before := d.state()
	r := d.apply(entry)[0]
	wantReason(d.t, r.Err, want)
	if r.Recorded || d.state() != before {
		d.t.Errorf("an entry that was refused with %v left a trace", want)
	}
}

// state names the store's content without the head record and alarms, which a
// refused entry may change.
func (d *domain) state() keystead.Digest {
	s := newStore()
	for k, v := range d.store.m {
		if k[0] != 'a' && k[0] != 'x' {
			s.m[k] = v
		}
	}
	return s.digest()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantReason(t testing.TB, err error, want keystead.Reason) {
	t.Helper()
	deny, ok := err.(*keystead.DenyError)
	if !ok || deny.Findings[0].Reason != want {
		t.Errorf("want %s, got %v", want, err)
	}
}

func (d *domain) request() ledger.RequestID {
	r := ledger.RequestID{Deadline: d.machine.Clock() + 10_000}
	io.ReadFull(d.random, r.ID[:])
	return r
}

// run executes operations of the key-value contract.
func (d *domain) run(ops ...ledger.Op) []byte {
	d.t.Helper()
	t, err := ledger.Execute(ledger.NewView(d.store), d.request(), ops)
	must(d.t, err)
	e, err := t.Entry()
	must(d.t, err)
	return e
}

func put(k, v string) ledger.Op { return ledger.Op{Key: k, Value: []byte(v)} }

// tick advances the nodes' clocks by ms and returns their tick entry.
func (d *domain) tick(ms uint64, nodes ...string) []byte {
	d.t.Helper()
	d.now += ms
	var ticks []ledger.SignedTick
	for _, n := range nodes {
		ticks = append(ticks, d.signTick(n, d.now))
	}
	e, err := ledger.TickEntry(ticks)
	must(d.t, err)
	return e
}

func (d *domain) signTick(node string, time uint64) ledger.SignedTick {
	var random [32]byte
	binary.BigEndian.PutUint64(random[:], time)
	copy(random[8:], node)
	return ledger.NewTick(d.keys[node], node, d.id, time, random)
}

func (d *domain) vote(node string, size uint64) []byte {
	d.t.Helper()
	h, err := d.machine.Head(size)
	must(d.t, err)
	v := ledger.NewVote(d.keys[node], node, h)
	return v.Entry()
}

// checkpoint has nodes sign the tree as it stands.
func (d *domain) checkpoint(nodes ...string) {
	d.t.Helper()
	size := d.machine.Size()
	for _, n := range nodes {
		d.ok(d.vote(n, size))
	}
}

// change makes a roster entry from the roster in force.
func (d *domain) change(edit func(*receipt.Roster), members ...string) []byte {
	d.t.Helper()
	c := d.nextChange(edit)
	text, err := c.Text()
	must(d.t, err)
	e, err := receipt.NoteEntry(d.sign(text, members...))
	must(d.t, err)
	return e
}

func (d *domain) nextChange(edit func(*receipt.Roster)) *receipt.Change {
	r, seq := d.machine.Roster()
	r.Nodes, r.Members = slices.Clone(r.Nodes), slices.Clone(r.Members)
	edit(&r)
	chain, err := ledger.NewView(d.store).Chain(seq)
	must(d.t, err)
	return &receipt.Change{Domain: d.id, Sequence: seq + 1, After: keystead.Sum(chain[seq]), Roster: r}
}

func without(node string) func(*receipt.Roster) {
	return func(r *receipt.Roster) {
		r.Nodes = slices.DeleteFunc(r.Nodes, func(n receipt.Node) bool { return n.Name == node })
	}
}

func proposal(id byte, kind, subject string, base uint64, content string) []byte {
	e, err := (&ledger.Proposal{ID: [16]byte{id}, Type: kind, Subject: subject, Base: base, Content: []byte(content)}).Entry()
	if err != nil {
		panic(err)
	}
	return e
}

// judge is the judging function of these tests: a setting of seconds is a number
// from 1 to limit. Nodes of other builds have other limits.
func judge(proposal []byte, limit int) *ledger.Verdict {
	p, err := ledger.ParseProposal(proposal)
	if err != nil {
		panic(err)
	}
	v, err := ledger.NewVerdict(proposal)
	if err != nil {
		panic(err)
	}
	var n int
	if _, err := fmt.Sscanf(string(p.Content), "%d", &n); err != nil || n < 1 || n > limit || !strings.HasSuffix(p.Subject, "-seconds") {
		v.Content = fmt.Appendf(nil, "denied: seconds are 1 to %d", limit)
		return &v
	}
	v.Content = []byte("accepted")
	v.Writes = []ledger.Write{{Key: p.Type + "/" + p.Subject, Value: bytes.TrimSpace(p.Content)}}
	return &v
}

func (d *domain) endorse(node string, v *ledger.Verdict) ledger.Endorsement {
	return ledger.Endorse(d.keys[node], node, d.id, v)
}

func (d *domain) effective(v *ledger.Verdict, nodes ...string) []byte {
	d.t.Helper()
	var all []ledger.Endorsement
	for _, n := range nodes {
		all = append(all, d.endorse(n, v))
	}
	e, err := ledger.NewEffective(v, all).Entry()
	must(d.t, err)
	return e
}

// receipt proves a leaf under the last checkpoint.
func (d *domain) receipt(leaf uint64) []byte {
	d.t.Helper()
	p, err := ledger.NewProver(d.store)
	must(d.t, err)
	r, err := p.Receipt(leaf)
	must(d.t, err)
	return r.Bytes()
}

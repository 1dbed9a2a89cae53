package domain

import (
	"bytes"
	"slices"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// Bounds that the observer holds nodes to. Nodes speak five times a second; one that hears
// nothing of a majority any more counts it for heads.Fresh still.
const (
	found     = time.Second
	bound     = found + heads.Fresh*time.Millisecond
	patience  = 10 * time.Second // without a receipt, in a domain that must not close
	dethroned = 3 * time.Second  // until a leader that is proven bad is followed no more
)

// pair is two honest hosts.
type pair [2]*Node

// split is what is known of two hosts whose logs differ.
type split struct {
	since time.Duration // when it was seen
	index uint64        // the first entry that differs
	told  time.Duration // when the liar had told both that their log is its own; 0 for not
}

// observer compares what honest hosts have, as none of them can.
type observer struct {
	splits      map[pair]*split
	minority    map[*Node]time.Duration // since when a host stands with too few others
	detected    map[*Node]bool
	proved      map[*Node]bool
	led         map[*Node]time.Duration // since when a host follows whom it has proven bad
	claims      map[*Node][]claim
	agreed      map[*Node]uint64        // the furthest entry by which the liar told a host that its log is its own
	vouched     map[*Node]time.Duration // when it last said so
	forkedAt    time.Duration
	turned      []string                           // subjects that are to be suspended
	suspendedAt map[string]map[*Node]time.Duration // when a host applied a lease's suspension
	calm        time.Duration                      // since when no honest host is down
	lastReceipt time.Duration
	wholeSince  time.Duration // since when a majority of honest hosts has one log; 0 while none has
	signed      map[uint64][]checkpoint
	noted       map[*Node]uint64
	states      map[uint64]map[*Node]replica.StateHeader // of honest hosts, by position
}

// claim is what the liar told a host of its log, and when.
type claim struct {
	log heads.Log
	at  time.Duration
}

type checkpoint struct {
	root keystead.Digest
	by   int
}

func (o *observer) init() {
	*o = observer{splits: map[pair]*split{}, minority: map[*Node]time.Duration{}, detected: map[*Node]bool{}, proved: map[*Node]bool{},
		led: map[*Node]time.Duration{}, claims: map[*Node][]claim{}, agreed: map[*Node]uint64{}, vouched: map[*Node]time.Duration{},
		suspendedAt: map[string]map[*Node]time.Duration{}, signed: map[uint64][]checkpoint{}, noted: map[*Node]uint64{}, states: map[uint64]map[*Node]replica.StateHeader{}}
}

// differ returns the first entry by which two hosts' logs differ; 0 if none is known.
func differ(a, b *Node) uint64 {
	at := min(a.applied(), b.applied())
	x, ok := a.link(at)
	y, known := b.link(at)
	if !ok || !known || x == y {
		return 0
	}
	return 1 + uint64(sort.Search(int(at), func(i int) bool {
		x, ok := a.link(uint64(i + 1))
		y, known := b.link(uint64(i + 1))
		return ok && known && x != y
	}))
}

// applied and link are of the host's log, also while it is down.
func (n *Node) applied() uint64 { return uint64(len(n.links)) }

func (n *Node) link(i uint64) (keystead.Digest, bool) {
	if i == 0 || i > uint64(len(n.links)) || n.links[i-1].IsZero() {
		return keystead.Digest{}, false
	}
	return n.links[i-1], true
}

// remember notes the links of the host's log as it stands.
func (n *Node) remember() {
	if !n.host.Up() {
		return
	}
	s := n.host.Store()
	for i := uint64(len(n.links)) + 1; i <= s.Applied(); i++ {
		h, _ := s.Link(i)
		n.links = append(n.links, h)
	}
}

// observe looks at all honest hosts.
func (d *Domain) observe() {
	var honest []*Node
	for _, n := range d.nodes {
		if n.honest {
			n.remember()
			honest = append(honest, n)
		}
	}
	for i, a := range honest {
		for _, b := range honest[:i] {
			d.compare(pair{a, b})
		}
	}
	for _, n := range honest {
		d.judge(n, honest)
		d.subjection(n)
	}
	d.evict()
	d.receipts()
	for _, n := range d.nodes {
		if n.up() {
			d.note(n, n.host.Store())
		}
	}
	d.liveness()
}

func (d *Domain) compare(p pair) {
	at := differ(p[0], p[1])
	s := d.splits[p]
	if at == 0 || s != nil {
		if s != nil {
			d.told(p, s)
		}
		return
	}
	d.c.Trace("%s and %s differ from entry %d on", p[0].name, p[1].name, at)
	d.splits[p] = &split{since: d.c.Now(), index: at}
	d.Forks++
	if d.forkedAt == 0 {
		d.forkedAt = d.c.Now()
	}
	if d.liar == nil || !d.liar.forks() {
		d.c.Fail("%s and %s differ from entry %d on, and nobody forked the log", p[0].name, p[1].name, at)
	}
}

// told notes when the liar has agreed, beyond the fork, with both sides, and demands its
// conviction by both.
func (d *Domain) told(p pair, s *split) {
	for _, n := range p {
		d.claims[n] = slices.DeleteFunc(d.claims[n], func(c claim) bool {
			h, ok := n.link(c.log.Index)
			if ok && h == c.log.Hash && c.log.Start != 0 {
				d.agreed[n] = max(d.agreed[n], c.log.Index)
				d.vouched[n] = max(d.vouched[n], c.at)
			}
			return c.log.Index <= n.applied()
		})
	}
	both := d.agreed[p[0]] >= s.index && d.agreed[p[1]] >= s.index && p[0].up() && p[1].up()
	switch {
	case !both:
		s.told = 0
	case s.told == 0:
		s.told = max(d.c.Now(), d.calm)
	}
	since := max(s.told, d.calm)
	for _, n := range p {
		if s.told != 0 && d.c.Now() > since+bound && !d.proved[n] {
			d.c.Fail("%s has not proven bad who told it and another two stories, %v after", n.name, d.c.Now()-since)
		}
	}
}

// judge notes since when a host stands with too few honest ones while it could know.
func (d *Domain) judge(n *Node, honest []*Node) {
	with, apart := 0, false
	for _, o := range honest {
		if o == n || differ(n, o) == 0 {
			with++
		} else if o.up() {
			apart = true
		}
	}
	if d.sided(n) {
		with++
	}
	since, was := d.minority[n]
	switch {
	case !n.up() || with >= d.roster.Majority() || !apart:
		delete(d.minority, n)
	case !was:
		d.minority[n] = d.c.Now()
	case n.store == n.host.Store() && n.closedAt != 0 && !d.detected[n]:
		d.detected[n] = true
		d.Detected = append(d.Detected, max(0, n.closedAt-since))
	}
}

// sided reports whether the liar has told this host's side, and it alone, that its log is
// theirs, beyond the place where the sides part, and tells it still. Then it signed nothing
// that is not so there, and no honest node can tell it from one of their own: the side is a
// majority with it.
func (d *Domain) sided(n *Node) bool {
	if d.liar == nil || d.proved[n] || d.c.Now() > d.vouched[n]+found {
		return false
	}
	for p, s := range d.splits {
		for i, x := range p {
			if x == n && (d.agreed[n] < s.index || d.agreed[p[1-i]] >= s.index) {
				return false
			}
		}
	}
	return true
}

// acts hears that a host signs, grants or answers a read.
func (d *Domain) acts(n *Node, what string) {
	if !n.honest {
		return
	}
	if since, ok := d.minority[n]; ok && d.c.Now() > max(since, d.calm)+bound {
		d.c.Fail("%s: %s, %v after it came to stand with a minority", n.name, what, d.c.Now()-since)
	}
	if what != tick && d.unconfirmed(n) {
		d.c.Fail("%s: %s, by a state that no majority has come to", n.name, what)
	}
}

// granted hears that a host granted something to a subject. A suspension that a host of
// another log applied binds it not: what has a majority is not there.
func (d *Domain) granted(n *Node, subject string) {
	for _, o := range d.nodes {
		if since, ok := d.suspendedAt[subject][o]; ok && differ(n, o) == 0 && d.c.Now() > max(since, d.calm)+bound {
			d.c.Fail("%s: granted to %s, %v after %s applied the suspension of its lease", n.name, subject, d.c.Now()-since, o.name)
		}
	}
}

// subjection notes suspensions, and whom a host follows.
func (d *Domain) subjection(n *Node) {
	if !n.up() {
		return
	}
	for s := range n.machine().suspended {
		if d.suspendedAt[s] == nil {
			d.suspendedAt[s] = map[*Node]time.Duration{}
		}
		if _, ok := d.suspendedAt[s][n]; !ok {
			d.suspendedAt[s][n] = d.c.Now()
		}
	}
	if !d.proved[n] || !d.liarLeads(n) {
		delete(d.led, n)
	} else if since, ok := d.led[n]; !ok {
		d.led[n] = d.c.Now()
	} else if d.c.Now() > max(since, d.calm)+dethroned {
		d.c.Fail("%s follows a leader that it has proven bad, for %v", n.name, d.c.Now()-since)
	}
}

// heard hears what a host was told.
func (d *Domain) heard(n, from *Node, s *heads.Statement) {
	if d.liar != nil && n.honest && from == d.liar.n && s.Node == from.name {
		if c := append(d.claims[n], claim{s.Log, d.c.Now()}); len(c) > 64 {
			d.claims[n] = c[1:]
		} else {
			d.claims[n] = c
		}
	}
}

// convicted hears of a proof.
func (d *Domain) convicted(n *Node, p *heads.Proof) {
	if !n.honest {
		return
	}
	d.c.Trace("%s: %s", n.name, p)
	if d.byName[p.Node].honest {
		d.c.Fail("%s holds an honest node to be proven bad: %s", n.name, p)
	}
	if !d.proved[n] {
		d.proved[n] = true
		d.Convicted++
		if d.forkedAt != 0 {
			d.Proved = append(d.Proved, d.c.Now()-d.forkedAt)
		}
	}
}

// note takes a store's newest checkpoint, and looks for another tree of that size.
func (d *Domain) note(n *Node, s *replica.Store) {
	var note []byte
	err := s.View(func(v replica.View) (err error) { note, err = ledger.NewView(v).Checkpoint(); return err })
	if err != nil {
		d.c.Fail("%s: checkpoint: %v", n.name, err)
	}
	if note == nil {
		return
	}
	h, err := receipt.ParseCheckpoint(note)
	if err != nil {
		d.c.Fail("%s: checkpoint: %v", n.name, err)
		return
	}
	c := checkpoint{h.Root, bytes.Count(note, []byte("\n\u2014 "))}
	for _, o := range d.signed[h.Size] {
		if o == c {
			return
		}
	}
	for _, o := range d.signed[h.Size] {
		if o.root == c.root {
			continue
		}
		d.Forged++
		if o.by+c.by-len(d.nodes) > 1 { // two honest nodes at least signed both
			d.c.Fail("two trees of size %d have %d and %d signatures of %d", h.Size, o.by, c.by, len(d.nodes))
		}
	}
	d.signed[h.Size] = append(d.signed[h.Size], c)
}

// liveness demands receipts where a liar may not close the domain: while honest hosts have
// one log, and also once some were led astray but a majority is not.
func (d *Domain) liveness() {
	if d.end == 0 || d.liar != nil && d.liar.stalls() {
		return
	}
	if !d.whole() {
		d.wholeSince = 0
		return
	}
	if d.wholeSince == 0 {
		d.wholeSince = d.c.Now()
	}
	since := max(d.lastReceipt, d.calm, d.wholeSince)
	if d.forkedAt != 0 {
		since += dethroned
	}
	if d.c.Now() > since+patience {
		d.c.Fail("the domain is closed: no receipt for %v", d.c.Now()-d.lastReceipt)
	}
}

// whole reports whether so many honest hosts have one log as make a majority.
func (d *Domain) whole() bool {
	for _, n := range d.nodes {
		with := 0
		for _, o := range d.nodes {
			if n.honest && o.honest && !o.forsaken && (o == n || differ(n, o) == 0) {
				with++
			}
		}
		if with >= d.roster.Majority() {
			return true
		}
	}
	return false
}

// check holds the end of the run against its history.
func (d *Domain) check() {
	if d.c.Err() != nil {
		return
	}
	if d.forkedAt == 0 {
		for _, n := range d.nodes {
			if n.honest && n.up() {
				d.kept(n)
			}
		}
	}
	if d.liar != nil && d.liar.has(Swaps) {
		return // values that nobody put are in every log alike
	}
	if res := porcupine.CheckOperationsTimeout(model, d.history, time.Minute); res != porcupine.Ok {
		d.c.Fail("the history of %d operations is not linearizable: %v", len(d.history), res)
	}
}

// kept demands that what was acknowledged is there, once.
func (d *Domain) kept(n *Node) {
	seen := map[keystead.Digest]uint64{}
	err := n.host.Store().View(func(s replica.View) error {
		v := ledger.NewView(s)
		for leaf := range n.machine().m.Size() {
			e, err := v.Entry(leaf)
			if err != nil {
				return err
			}
			id := keystead.Sum(e)
			if before, ok := seen[id]; ok {
				d.c.Fail("%s: one entry is leaf %d and leaf %d", n.name, before, leaf)
			}
			seen[id] = leaf
		}
		return nil
	})
	if err != nil {
		d.c.Fail("%s: %v", n.name, err)
	}
	for _, p := range d.puts {
		if leaf, ok := seen[keystead.Sum(p.entry)]; p.leaf < n.machine().m.Size() && (!ok || leaf != p.leaf) {
			d.c.Fail("%s: %s acknowledged a put as leaf %d, and it is not there", n.name, p.by.name, p.leaf)
		}
	}
}

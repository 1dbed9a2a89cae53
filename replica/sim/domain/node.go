package domain

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
)

// Pace of a node, as package node has it.
const (
	stepEvery  = 25 * time.Millisecond
	headsEvery = 200 * time.Millisecond
	tickEvery  = time.Second
	tickMax    = 3 * time.Second
	voteLate   = 100 * time.Millisecond
)

const tick = "tick" // is signed also while a state is not confirmed

// A Node does on a simulated host what package node does with the pure cores: it signs ticks
// and checkpoints, exchanges heads, and grants what its own state and the gate allow.
type Node struct {
	d        *Domain
	host     *sim.Host
	name     string
	key      *key.Node
	honest   bool
	proofs   []*heads.Proof // kept on disk
	forsaken bool           // it stopped, and waits for its members
	back     bool           // it began anew, and signs again
	verifier *receipt.Verifier
	links    []keystead.Digest // of its log, by entry
	random   *rand.Rand
	known    receipt.Roster // the newest that it ever knew; kept on disk

	// of this start
	store    *replica.Store
	book     *heads.Book
	opens    int // of the machine, when the book was last looked at
	shunned  map[keystead.Digest]bool
	ticks    map[string]arrived
	watch    pace
	signed   uint64        // size of the tree that it signed last
	votedAt  time.Duration // when
	next     map[string]time.Duration
	closedAt time.Duration // since when the gate is closed; 0 while open
}

type arrived struct {
	ledger.SignedTick
	at time.Duration
}

// pace is that of package node: a point from which the domain clock is compared.
type pace struct {
	watch                ledger.Watch
	caughtUp, running    bool
	domain, boot, settle uint64
}

func (p *pace) observe(domain, boot uint64) {
	p.watch.Observe(domain)
	switch {
	case !p.caughtUp:
		return
	case !p.running:
		p.running, p.settle = true, boot+30_000
	case boot >= p.settle || int64(domain-p.domain) <= int64(boot-p.boot):
		return
	}
	p.domain, p.boot = domain, boot
	p.watch.Start(domain, boot)
}

func (n *Node) machine() *machine { return n.host.Machine.(*machine) }

func (n *Node) own() standing { return standing{n.host.Store(), n.machine()} }

// up reports whether the node runs on a ledger that has begun.
func (n *Node) up() bool { return n.host.Running() && n.machine().m != nil && n.machine().m.Size() > 0 }

func (d *Domain) millis() int64 { return int64(d.c.Now()/time.Millisecond) + 1 }

// wall is what a node's clock shows.
func (d *Domain) wall() uint64 { return epoch + uint64(d.c.Now()/time.Millisecond) }

func (n *Node) due(what string, every time.Duration) bool {
	if n.d.c.Now() < n.next[what] {
		return false
	}
	n.next[what] = n.d.c.Now() + every
	return true
}

// step is what the node's loops do.
func (n *Node) step() {
	if !n.host.Running() {
		return
	}
	if n.store != n.host.Store() { // started
		n.store, n.book = n.host.Store(), heads.NewBook(n.name)
		for _, p := range n.proofs {
			n.book.Convict(p)
		}
		n.opens = n.machine().opens
		n.shunned, n.ticks, n.watch, n.signed, n.next, n.closedAt = nil, map[string]arrived{}, pace{}, 0, map[string]time.Duration{}, 0
	}
	if !n.up() {
		return
	}
	for _, c := range n.machine().clocks {
		n.watch.observe(c, uint64(n.d.millis()))
	}
	n.machine().clocks = nil
	if n.due("heads", headsEvery) {
		n.look()
		for _, to := range n.d.nodes {
			if to != n {
				n.show(to, true)
			}
		}
	}
	if n.due("tick", tickEvery) {
		n.tick()
	}
	if n.due("position", positionEvery) {
		n.known = *n.roster()
		n.position()
	}
	n.vote()
}

func (n *Node) roster() *receipt.Roster { r, _ := n.machine().m.Roster(); return &r }

// agreed is the gate: a majority of the roster stands where this node does.
func (n *Node) agreed() error {
	err := n.book.Check(n.roster(), n.d.millis())
	switch {
	case err == nil:
		n.closedAt = 0
	case n.closedAt == 0:
		n.closedAt = n.d.c.Now()
	}
	if n.d.opts.Defect == NoGate {
		return nil
	}
	return err
}

// sound is the gate of all but heads, digests and ticks: a majority stands where this node
// does, and came to the same state.
func (n *Node) sound() error {
	if err := n.agreed(); err != nil || n.d.opts.Defect == Unconfirmed {
		return err
	}
	return n.machine().check()
}

// fresh refuses while the node may not grant.
func (n *Node) fresh() error {
	if err := n.sound(); err != nil {
		return err
	}
	return n.watch.watch.Check(uint64(n.d.millis()))
}

// sign is every signature of this node but those of heads and of its state: the gate is
// asked, and the observer told.
func (n *Node) sign(what string, do func()) bool {
	gate := n.sound
	if what == tick {
		gate = n.agreed
	}
	if gate() != nil || !n.honest && n.d.liar.tells(NoVotes) {
		return false
	}
	n.d.acts(n, what)
	do()
	return true
}

// show gives another node this one's statement, and what it heard if some stand elsewhere.
func (n *Node) show(to *Node, answer bool) {
	own, heard := n.d.statements(n, to)
	n.d.c.Carry(n.host, to.host, func() {
		if !to.up() || to.store != to.host.Store() {
			return
		}
		to.take(n, own)
		for _, h := range heard {
			to.take(n, h)
		}
		if answer {
			to.show(n, false)
		}
	})
}

// shows is what an honest node has to say.
func (n *Node) shows() (own []byte, heard [][]byte) {
	if s, ok := n.own().says(n); ok {
		own = s.Bytes()
	}
	if n.book.Parted(n.roster(), n.d.millis()) || len(n.book.Proofs()) > 0 {
		heard = n.book.Said()
	}
	return own, heard
}

// take takes a statement that a node handed over.
func (n *Node) take(from *Node, raw []byte) {
	n.replaced()
	s, err := heads.Parse(raw)
	if err != nil {
		return
	}
	node, ok := n.roster().Node(s.Node)
	if !ok || !n.d.verifies(&s, node.Key, raw) {
		return
	}
	direct := s.Node == from.name || n.d.opts.Defect == Gossip
	p, err := n.book.Hear(s, node.Key, direct, n.own(), n.d.millis())
	if err != nil {
		n.d.c.Fail("%s: heads: %v", n.name, err)
	}
	if p != nil {
		n.convict(p)
	}
	n.d.heard(n, from, &s)
	n.host.Core().Reached(n.d.byName[s.Node].host.Key, s.Log.Index)
}

func (n *Node) look() {
	n.replaced()
	proofs, err := n.book.Look(n.own())
	if err != nil {
		n.d.c.Fail("%s: heads: %v", n.name, err)
	}
	for _, p := range proofs {
		n.convict(p)
	}
	n.shun()
}

// replaced has what was compared forgotten once the state is another.
func (n *Node) replaced() {
	if x := n.machine(); n.opens != x.opens {
		n.opens = x.opens
		n.book.Replaced()
	}
}

func (n *Node) convict(p *heads.Proof) {
	n.proofs = append(n.proofs, p)
	n.d.convicted(n, p)
	n.shun()
}

func (n *Node) shun() {
	bad := map[keystead.Digest]bool{}
	for _, node := range n.roster().Nodes {
		if n.book.Liar(node) {
			bad[n.d.byName[node.Name].host.Key] = true
		}
	}
	if len(bad) != len(n.shunned) && n.d.opts.Defect != NoShun {
		n.shunned = bad
		n.host.Core().Shun(maps.Clone(bad))
	}
}

// tick signs this node's tick, and as leader proposes everyone's.
func (n *Node) tick() {
	s := n.host.Status()
	if !n.watch.caughtUp {
		store := n.store
		n.host.Read(func(err error) {
			if err == nil && n.store == store {
				n.watch.caughtUp = true
			}
		})
	}
	n.sign(tick, func() {
		var random [32]byte
		binary.BigEndian.PutUint64(random[:], n.random.Uint64())
		t := ledger.NewTick(n.key, n.name, n.d.id, n.d.wall(), random)
		n.ticks[n.name] = arrived{t, n.d.c.Now()}
		m, _ := s.Members.ByID(s.Leader)
		if to := n.d.byKey[m.Key]; to != nil && to != n {
			n.d.c.Carry(n.host, to.host, func() { to.ticked(t) })
		}
	})
	if s.Leader != s.ID || s.ID == 0 {
		return
	}
	var out []ledger.SignedTick
	for _, node := range n.roster().Nodes {
		if t, ok := n.ticks[node.Name]; ok && t.Time > n.machine().m.LastTick(node.Name) && n.d.c.Now()-t.at < tickMax && !n.book.Liar(node) {
			out = append(out, t.SignedTick)
		}
	}
	if len(out) < n.roster().Majority() {
		return
	}
	if e, err := ledger.TickEntry(out); err == nil {
		n.host.Propose(e, func([]byte, error) {})
	}
}

func (n *Node) ticked(t ledger.SignedTick) {
	if !n.up() || n.ticks == nil {
		return
	}
	node, ok := n.roster().Node(t.Node)
	if ok && t.Verify(node.Key, n.d.id) == nil && t.Time > n.ticks[t.Node].Time {
		n.ticks[t.Node] = arrived{t, n.d.c.Now()}
	}
}

// vote signs the tree: the leader begins, others follow, or begin if it is late.
func (n *Node) vote() {
	x := n.machine()
	size := x.m.Size()
	s := n.host.Status()
	switch late := n.d.c.Now()-n.votedAt >= voteLate; {
	case x.asked > n.signed:
		size = x.asked
	case size == n.signed || s.Leader != s.ID && !late:
		return
	}
	head, err := x.m.Head(size)
	if err != nil {
		n.d.c.Fail("%s: head: %v", n.name, err)
		return
	}
	n.votedAt = n.d.c.Now()
	if _, sequence := x.m.Roster(); sequence != head.Roster {
		n.signed = size
		return
	}
	n.sign("vote", func() {
		v := ledger.NewVote(n.key, n.name, head)
		n.signed = size
		n.host.Propose(v.Entry(), func(_ []byte, err error) {
			if err != nil && n.signed == size {
				n.signed = 0 // again
			}
		})
	})
}

// grant gives a subject what its lease allows, if the node may.
func (n *Node) grant(subject string, done func(granted bool)) {
	if n.fresh() != nil {
		done(false)
		return
	}
	store := n.store
	n.host.Read(func(err error) {
		if err != nil || n.store != store || n.fresh() != nil {
			done(false)
			return
		}
		err = store.View(func(v replica.View) error {
			_, err := admit.Current(ledger.NewView(v), subject)
			return err
		})
		if err == nil {
			n.d.acts(n, "grant")
		}
		done(err == nil)
	})
}

// suspend ends a lease on this node's word, and tries until it is ended.
func (n *Node) suspend(subject string) {
	if n.up() {
		var version uint64
		err := n.host.Store().View(func(v replica.View) error {
			st, err := admit.Look(ledger.NewView(v), subject)
			if err == nil && st.Record != nil && st.Suspension == nil {
				version = st.Version
			}
			return err
		})
		if err != nil {
			n.d.c.Fail("%s: lease: %v", n.name, err)
		}
		if version == 0 {
			return
		}
		n.sign("suspension", func() {
			s := ledger.Suspend(n.key, n.name, n.d.id, subject, version, "file-unknown", keystead.Digest{})
			if e, err := s.Entry(); err == nil {
				n.host.Propose(e, func([]byte, error) {})
			}
		})
	}
	n.d.c.After(300*time.Millisecond, func() { n.suspend(subject) })
}

package domain

import (
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
	"go.etcd.io/raft/v3"
)

// Pace of positions. Package node asks for one by the bytes of the log; a run has few.
const (
	positionEvery = 200 * time.Millisecond
	muchLog       = time.Second
)

// confirmed is what a node knows of its own state, since it was opened.
type confirmed struct {
	opened  uint64 // log index
	settled bool   // a majority came to the same at a position after that
	differs bool   // or to another
	own     map[uint64]replica.StateHeader
	sent    map[uint64]bool
	stable  uint64
	asking  bool
	wanted  bool // a member needs a snapshot
}

func (c *confirmed) reopen(s ledger.Status) {
	*c = confirmed{opened: s.Applied, settled: s.Size == 0, own: map[uint64]replica.StateHeader{}, sent: map[uint64]bool{}}
}

// check refuses while no majority has confirmed the state.
func (c *confirmed) check() error {
	switch {
	case c.differs:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStateDiffers, Where: "state"})
	case !c.settled:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStateUnproven, Where: "state"})
	}
	return nil
}

// positions are the hooks of the simulated hosts.
func (d *Domain) positions() *sim.Positions {
	return &sim.Positions{
		Came: func(h *sim.Host, header replica.StateHeader) {
			n := d.byKey[h.Key]
			n.machine().own[header.Index] = header
			d.came(n, header)
		},
		Wanted: func(h *sim.Host) { d.byKey[h.Key].machine().wanted = true },
		Approve: func(h *sim.Host, header replica.StateHeader, proof []byte) error {
			return d.byKey[h.Key].approve(header, proof)
		},
	}
}

// position asks for positions, hands in what this node came to, and goes by what a majority did.
func (n *Node) position() {
	x := n.machine()
	now := x.m.Positions()
	if now.Stable != 0 && now.Stable != x.stable {
		x.stable = now.Stable
		n.store.Stable(now.Stable)
		n.store.KeepFrom(now.Before)
	}
	n.compare(&now)
	newest := ledger.Position{}
	if k := len(now.Kept); k > 0 {
		newest = now.Kept[k-1]
	}
	for _, at := range now.Kept {
		if h, ok := x.own[at.Index]; ok && at.Digest(n.name) == nil && !x.sent[at.Index] {
			n.handIn(h)
		}
	}
	leads := n.host.Status().State == raft.StateLeader
	much := x.m.Clock() > newest.Clock+uint64(muchLog/time.Millisecond)
	_, read := x.own[newest.Index]
	if newest.Index > x.opened && !read || x.differs || x.asking || x.m.Due() != nil {
		return
	}
	if !x.settled || leads && (x.wanted || much) {
		x.asking = true
		n.host.Propose(ledger.PositionEntry(), func([]byte, error) { x.asking, x.wanted = false, false })
	}
}

// compare settles this node, or finds out that a majority came to another state.
func (n *Node) compare(now *ledger.Positions) {
	x := n.machine()
	own, ok := x.own[now.Stable]
	agreed := n.agreedAt(now)
	if !ok || agreed == nil || now.Stable <= x.opened {
		return
	}
	s := said(own)
	x.settled, x.differs = s.Same(agreed), !s.Same(agreed)
}

// agreedAt returns what a majority signed at the stable position.
func (n *Node) agreedAt(now *ledger.Positions) *ledger.StateDigest {
	at := now.At(now.Stable)
	if n.d.opts.Defect == OneWord && len(now.Kept) > 0 { // the first digest at a position stands for all
		if at = &now.Kept[len(now.Kept)-1]; len(at.Digests) > 0 {
			now.Stable = at.Index
			return &at.Digests[0]
		}
	}
	if at == nil {
		return nil
	}
	then, err := n.machine().m.RosterOf(at.Roster)
	if err != nil {
		n.d.c.Fail("%s: roster of a position: %v", n.name, err)
		return nil
	}
	return at.Agreed(then.Majority())
}

func said(h replica.StateHeader) ledger.StateDigest {
	return ledger.StateDigest{Position: h.Index, Digest: h.Digest(), Bytes: h.Bytes, Chain: h.Chain}
}

// handIn signs what this node came to at a position, and puts it into the log.
func (n *Node) handIn(h replica.StateHeader) {
	if n.agreed() != nil {
		return
	}
	s := said(h)
	if !n.honest && n.d.liar.tells(Digests) {
		n.d.liar.told(Digests)
		s.Digest = n.d.liar.madeUp()
	}
	s = s.Sign(n.key, n.name, n.d.id)
	x := n.machine()
	x.sent[h.Index] = true
	n.host.Propose(s.Entry(), func([]byte, error) { delete(x.sent, h.Index) })
}

// vouches is what this node answers another that was offered a state: its own digest at that
// position, or what a majority signed where its own state is confirmed.
func (n *Node) vouches(want *ledger.StateDigest) (s ledger.StateDigest, ok bool) {
	if !n.up() || n.store != n.host.Store() || n.d.opts.Defect == NoVouch {
		return s, false
	}
	if !n.honest && n.d.liar.tells(Snapshots) {
		return want.Sign(n.key, n.name, n.d.id), true // whatever it is
	}
	x, now := n.machine(), n.machine().m.Positions()
	if own, had := x.own[want.Position]; had {
		s, ok = said(own), true
	} else if agreed := n.agreedAt(&now); agreed != nil && now.Stable == want.Position && x.settled {
		s, ok = *agreed, true
	}
	if !n.honest && n.d.liar.tells(Digests) {
		s.Digest = n.d.liar.madeUp()
	}
	return s.Sign(n.key, n.name, n.d.id), ok
}

// approve decides whether a snapshot is the state that a majority of the nodes has: of the
// newest roster that this node ever knew, and of the one in force at the position. That the
// others answer takes no time here.
func (n *Node) approve(h replica.StateHeader, proof []byte) error {
	then, err := n.d.rosterOf(proof)
	if err != nil {
		return err
	}
	newest := then
	if len(n.known.Nodes) > 0 {
		newest = n.known
	}
	want := said(h)
	signed := map[string]bool{}
	for _, o := range n.d.nodes {
		node, in := newest.Node(o.name)
		if o == n || !in || n.d.c.Parted(n.host, o.host) {
			continue
		}
		s, ok := o.vouches(&want)
		signed[o.name] = ok && s.Same(&want) && s.Verify(node.Key, n.d.id) == nil
	}
	for _, r := range []receipt.Roster{newest, then} {
		count := 0
		for _, node := range r.Nodes {
			if signed[node.Name] {
				count++
			}
		}
		if need := r.Majority(); count < need && (n.d.opts.Defect != OneVoucher || count == 0) {
			if n.honest {
				n.d.Refused++
			}
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSnapshotUnproven, Where: fmt.Sprintf("state at %d", h.Index), Want: fmt.Sprint(need), Got: fmt.Sprint(count)})
		}
	}
	if n.honest {
		n.d.Taken++
	}
	return nil
}

// came hears to what state a host came. By one log, honest hosts come to one.
func (d *Domain) came(n *Node, h replica.StateHeader) {
	if !n.honest {
		return
	}
	for _, o := range d.nodes {
		if x, ok := d.states[h.Index][o]; ok && o != n && x.Chain == h.Chain && x.Digest() != h.Digest() {
			d.c.Fail("%s has a state at position %d that is not that of %s, by one log", n.name, h.Index, o.name)
		}
	}
	if d.states[h.Index] == nil {
		d.states[h.Index] = map[*Node]replica.StateHeader{}
	}
	d.states[h.Index][n] = h
}

// unconfirmed reports whether a host acts on a state that it was given or found on its disk,
// and too few have come to the same since.
func (d *Domain) unconfirmed(n *Node) bool {
	x := n.machine()
	if x.opened == 0 {
		return false
	}
	return !slices.ContainsFunc(x.positionsRead(), func(at uint64) bool {
		own, with := x.own[at], 1 // the liar may have said the same
		for _, o := range d.states[at] {
			if o.Digest() == own.Digest() {
				with++
			}
		}
		return at > x.opened && with >= d.roster.Majority()
	})
}

func (c *confirmed) positionsRead() (out []uint64) {
	for at := range c.own {
		out = append(out, at)
	}
	return out
}

// joined hears of the id that a host goes on as. A honest host gave it that one.
func (d *Domain) joined(h *sim.Host, id uint64) {
	n := d.byKey[h.Key]
	if !n.honest {
		return
	}
	for _, o := range d.nodes {
		if !o.honest || !o.host.Running() {
			continue
		}
		if m, ok := o.host.Store().Membership().ByKey(h.Key); ok && m.ID == id {
			d.Rejoined++
			return
		}
	}
	d.c.Fail("%s gives up its state to go on as id %d, which no honest host gave it", n.name, id)
}

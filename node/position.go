package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/replica"
)

// positionEvery is how often a node looks whether a position is wanted, when nothing rings.
const positionEvery = 200 * time.Millisecond

// confirmed is what this node knows of its own state: whether a majority of the nodes came
// to the same, at a position after it opened the state or took it in.
type confirmed struct {
	mu      sync.Mutex
	fresh   bool                           // this node has never had a state
	had     uint64                         // log index that the state had reached when the node started
	version uint8                          // up to which entries counted, by any state that this node had
	opened  uint64                         // and when it was last opened
	settled bool                           // a majority came to the same since
	differs error                          // why not: it came to another
	own     map[uint64]replica.StateHeader // by position
	sent    map[uint64]bool                // own digests that are on their way into the log
	stable  uint64                         // the last position that was told to the replica
	asking  bool                           // for a position
	wanted  bool                           // a member needs a snapshot, and there is none
	offered time.Time                      // when this node last offered its state of now
	bell    bell
}

// reopened takes note of a state that was opened. One in which positions are not in use,
// or that is empty, can be confirmed by nobody and needs it not: all of it comes from the
// log that this node follows.
func (c *confirmed) reopened(v ledger.View) error {
	s, err := v.Status()
	if err != nil {
		return err
	}
	version, err := v.EntryVersion()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == nil {
		c.had = s.Applied
	}
	c.version = max(c.version, version)
	c.opened, c.settled, c.differs = s.Applied, s.Size == 0 || version < 4, nil
	c.own, c.sent, c.stable = map[uint64]replica.StateHeader{}, map[uint64]bool{}, 0
	return nil
}

// check refuses while no majority has confirmed this node's state (state-unproven), or one
// came to another (state-differs).
func (c *confirmed) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.differs != nil:
		return c.differs
	case !c.settled:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonStateUnproven, Where: "this node's state",
			Want: fmt.Sprintf("a digest of its own, at a position after log entry %d, that a majority of the nodes came to as well", c.opened), Got: "none yet"})
	}
	return nil
}

// states is what nodes make of their states: positions, digests, and whom they take a state from.
type states struct {
	*guard
}

// digested takes what this node came to at a position.
func (n *states) digested(h replica.StateHeader) {
	c := &n.confirmed
	c.mu.Lock()
	c.own[h.Index] = h
	c.mu.Unlock()
	c.bell.ring()
}

// want says that a member needs a snapshot, and that there is none to send.
func (c *confirmed) want() {
	c.mu.Lock()
	c.wanted = true
	c.mu.Unlock()
	c.bell.ring()
}

// positionLoop asks for positions when they are wanted, hands in what this node came to,
// and goes by what the others did.
func (n *states) positionLoop() {
	every := time.NewTicker(positionEvery)
	defer every.Stop()
	for {
		rung := n.confirmed.bell.wait()
		n.positionOnce()
		select {
		case <-rung:
		case <-every.C:
		case <-n.running.Done():
			return
		}
	}
}

func (n *states) positionOnce() {
	now := n.machine.positions()
	c := &n.confirmed
	c.mu.Lock()
	moved := now.Stable != 0 && now.Stable != c.stable
	c.stable = now.Stable
	n.compare(&now)
	unsent := c.unsent(&now.Positions, n.name)
	offer := c.wanted && time.Since(c.offered) > offerEvery && n.alone(&now)
	if offer {
		c.wanted, c.offered = false, time.Now()
	}
	ask := now.due == nil && !c.asking && n.asks(&now)
	c.asking = c.asking || ask
	c.mu.Unlock()
	if offer {
		if err := n.replica.Offer(); err != nil {
			n.log.Warn("state not offered", "because", err)
		}
	}
	if moved {
		n.replica.Stable(now.Stable, now.Before)
	}
	for _, h := range unsent {
		n.background(func() { n.handIn(h) })
	}
	if ask {
		n.background(n.askForPosition)
	}
}

// offerEvery is how often a node reads its state through for members that join it.
const offerEvery = 2 * time.Second

// alone reports whether no majority of the roster's nodes has a state to come to a digest
// of: the domain grows from few nodes, or goes on from one disk. What this node then sends to
// members who join is its own word.
func (n *states) alone(now *positionsNow) bool {
	s := n.replica.Status()
	return s.Leader != 0 && s.Leader == s.ID && s.Members != nil && len(s.Members.Voters()) < now.majority
}

// compare settles this node, or finds out that its state is not what a majority has. It
// holds confirmed.mu.
func (n *states) compare(now *positionsNow) {
	c := &n.confirmed
	own, ok := c.own[now.Stable]
	if !ok || now.agreed == nil || now.Stable <= c.opened {
		return
	}
	if s := said(own); s.Same(now.agreed) {
		c.settled, c.differs = true, nil
		return
	}
	if c.differs == nil {
		n.alarm("this node's state is not the one that a majority of the nodes came to by the same log; it signs and grants nothing", "reason", keystead.ReasonStateDiffers, "position", now.Stable)
	}
	c.settled = false
	c.differs = keystead.Deny(keystead.Finding{Reason: keystead.ReasonStateDiffers, Where: fmt.Sprintf("this node's state at position %d", now.Stable),
		Want: "the digest " + now.agreed.Digest.String() + " of a majority", Got: said(own).Digest.String()})
}

// said is what a node says of a state, unsigned.
func said(h replica.StateHeader) ledger.StateDigest {
	return ledger.StateDigest{Position: h.Index, Digest: h.Digest(), Bytes: h.Bytes, Chain: h.Chain}
}

// unsent returns what this node came to at positions that do not have it yet, and forgets
// what no position is of any more. What it offered last is at no position: who joins may be sent
// it still, and asks for its digest.
func (c *confirmed) unsent(p *ledger.Positions, name string) (out []replica.StateHeader) {
	newest, offered := uint64(0), uint64(0)
	if n := len(p.Kept); n > 0 {
		newest = p.Kept[n-1].Index
	}
	for index := range c.own {
		if p.At(index) == nil {
			offered = max(offered, index)
		}
	}
	for index, h := range c.own {
		at := p.At(index)
		switch {
		case at == nil && index < newest && index < offered:
			delete(c.own, index)
			delete(c.sent, index)
		case at != nil && at.Digest(name) == nil && !c.sent[index]:
			c.sent[index] = true
			out = append(out, h)
		}
	}
	return out
}

// asks reports whether a position is wanted: at the start of a node, by a member that
// lags, or because there is much log since the last. It holds confirmed.mu.
func (n *states) asks(now *positionsNow) bool {
	c := &n.confirmed
	s := n.replica.Status()
	leads := s.Leader != 0 && s.Leader == s.ID
	newest := uint64(0)
	if n := len(now.Kept); n > 0 {
		newest = now.Kept[n-1].Index
	}
	reading := newest > c.opened && c.own[newest].Index == 0
	switch {
	case reading: // it would be told to read two at once
		return false
	case !c.settled && c.differs == nil:
		return true
	case c.differs != nil: // until the cause is gone: members start it with an empty directory
		return false
	case c.wanted && leads:
		return true
	}
	return leads && now.logged >= now.Much()
}

func (n *states) askForPosition() {
	c := &n.confirmed
	ctx, cancel := context.WithTimeout(n.running, 5*time.Second)
	defer cancel()
	_, err := n.propose(ctx, ledger.PositionEntry())
	if err != nil && !errors.Is(err, keystead.ReasonPositionEarly) {
		n.log.Debug("no position", "because", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking = false
	c.wanted = c.wanted && err != nil
}

// handIn signs what this node came to at a position, and puts it into the log.
func (n *states) handIn(h replica.StateHeader) {
	n.proposeOwn(func() ([]byte, error) {
		s, err := n.signState(h)
		return s.Entry(), err
	})
	n.confirmed.mu.Lock()
	defer n.confirmed.mu.Unlock()
	delete(n.confirmed.sent, h.Index) // if it did not get there, it is handed in again
}

// signState signs with whatever key of its own the roster names: this is what a node signs
// before its state is confirmed.
func (n *states) signState(h replica.StateHeader) (ledger.StateDigest, error) {
	k, err := n.namedKey()
	if err == nil {
		err = n.agreed()
	}
	if err != nil {
		return ledger.StateDigest{}, err
	}
	s := said(h)
	if lie := n.opts.lies.state; lie != nil {
		lie(&s)
	}
	return s.Sign(k, n.name, n.cfg.Domain), nil
}

// ownState returns what this node can vouch for at a position: what it came to itself, or
// what a majority signed in a state that was confirmed.
func (n *states) ownState(position uint64) (h ledger.StateDigest, ok bool) {
	now := n.machine.positions()
	c := &n.confirmed
	c.mu.Lock()
	defer c.mu.Unlock()
	if own, ok := c.own[position]; ok {
		return said(own), true
	}
	if now.agreed == nil || now.Stable != position || !c.settled {
		return h, false
	}
	return *now.agreed, true
}

// positionsNow are the positions that the ledger keeps.
type positionsNow struct {
	ledger.Positions
	due    error               // why none is due, or nil
	logged uint64              // bytes of log since the last
	agreed *ledger.StateDigest // at the stable one

	majority int // of the nodes of the roster in force
}

func (x *machine) positions() (now positionsNow) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now = positionsNow{Positions: x.m.Positions(), due: x.m.Due(), logged: x.m.Logged()}
	roster, _ := x.m.Roster()
	now.majority = roster.Majority()
	if at := now.At(now.Stable); at != nil {
		if then, err := x.m.RosterOf(at.Roster); err == nil {
			now.agreed = at.Agreed(then.Majority())
		}
	}
	return now
}

// stable returns the log index of the last position at which a majority came to one state; 0
// for none.
func (x *machine) stable() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		return 0 // not opened yet
	}
	p := x.m.Positions()
	return p.Stable
}

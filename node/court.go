package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// court judges what is proposed: every node signs its own verdict, and whoever sees
// that a majority signed the same joins the signatures into an effective entry.
type court struct {
	node  *library
	types map[string]part.JudgedType
	wake  chan struct{}
	took  func(*ledger.Verdict)   // told of what took effect; may be nil
	bench chan struct{}           // a place for each judge at work
	bad   func(receipt.Node) bool // whose signatures count no more

	mu    sync.Mutex
	heard [][]byte
	cases map[keystead.Digest]*inquiry // open, and of late
	open  map[keystead.Digest]*inquiry // not effective yet
	order []keystead.Digest            // of cases, the oldest first
}

// inquiry is an open proposal as this node knows it.
type inquiry struct {
	opened       time.Time
	judged       bool            // this node has begun to judge it
	verdict      *ledger.Verdict // this node's; nil if it refused, or has not concluded
	refusal      error
	endorsements []ledger.Endorsement
	done         chan struct{} // closed once it took effect
	refused      chan struct{} // closed once this node refused
	ruled        chan struct{} // closed once it did that, or endorsed
	sent         time.Time     // the effective entry, by this node
}

// endorse keeps a node's endorsement in the place of its last one. The ledger
// lets only one verdict of a node pass, but the same one any number of times.
func (x *inquiry) endorse(e ledger.Endorsement) {
	by := func(old ledger.Endorsement) bool { return old.Node == e.Node }
	x.endorsements = append(slices.DeleteFunc(x.endorsements, by), e)
}

// matching returns the endorsements of this node's verdict by nodes of the roster that are
// not proven bad.
func (x *inquiry) matching(r *receipt.Roster, bad func(receipt.Node) bool) (out []ledger.Endorsement) {
	verdict := keystead.Sum(x.verdict.Bytes())
	for _, e := range x.endorsements {
		if node, in := r.Node(e.Node); in && e.Verdict == verdict && !bad(node) {
			out = append(out, e)
		}
	}
	return out
}

const (
	courtPatience = ledger.Window * time.Millisecond
	courtLate     = 300 * time.Millisecond // for the leader to join the signatures, before others do
	maxJudges     = 64                     // at work at a time; most of them wait for the log or another node
)

func (c *court) init(n *library, took func(*ledger.Verdict), types []part.JudgedType) {
	c.node, c.took, c.wake, c.bench = n, took, make(chan struct{}, 1), make(chan struct{}, maxJudges)
	c.cases, c.open = map[keystead.Digest]*inquiry{}, map[keystead.Digest]*inquiry{}
	c.types = map[string]part.JudgedType{}
	for _, t := range types {
		c.types[t.Type] = t
	}
}

// hear takes applied entries; it must not block.
func (c *court) hear(entries [][]byte) {
	if len(entries) == 0 {
		return
	}
	c.mu.Lock()
	c.heard = append(c.heard, entries...)
	c.mu.Unlock()
	c.ring()
}

func (c *court) ring() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *court) loop() {
	again := time.NewTicker(courtLate)
	defer again.Stop()
	for {
		select {
		case <-c.wake:
		case <-again.C:
		case <-c.node.running.Done():
			return
		}
		c.mu.Lock()
		entries := c.heard
		c.heard = nil
		c.mu.Unlock()
		for _, e := range entries {
			c.take(e)
		}
		c.conclude()
	}
}

// of returns the case of a proposal, and opens it if it is new.
func (c *court) of(id keystead.Digest) *inquiry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cases[id] == nil {
		x := &inquiry{opened: time.Now(), done: make(chan struct{}), refused: make(chan struct{}), ruled: make(chan struct{})}
		c.cases[id], c.open[id] = x, x
		c.order = append(c.order, id)
	}
	return c.cases[id]
}

// take takes an applied entry.
func (c *court) take(entry []byte) {
	switch kind, _, _ := receipt.Split(entry); kind {
	case receipt.KindProposal:
		c.judge(entry)
	case receipt.KindEndorsement:
		if e, err := ledger.ParseEndorsement(entry); err == nil {
			x := c.of(e.Proposal)
			c.mu.Lock()
			x.endorse(e)
			c.mu.Unlock()
		}
	case receipt.KindEffective:
		if e, err := ledger.ParseEffective(entry); err == nil {
			x := c.of(e.Verdict.Proposal)
			c.mu.Lock()
			delete(c.open, e.Verdict.Proposal)
			c.mu.Unlock()
			if c.took != nil {
				c.took(&e.Verdict)
			}
			select {
			case <-x.done:
			default:
				close(x.done)
			}
		}
	}
}

// judge has this node come to its verdict and endorse it, beside other work.
func (c *court) judge(entry []byte) {
	id := keystead.Sum(entry)
	x := c.of(id)
	c.mu.Lock()
	begun := x.judged
	x.judged = true
	c.mu.Unlock()
	if begun {
		return
	}
	select {
	case c.bench <- struct{}{}:
	case <-c.node.running.Done():
		return
	}
	c.node.background(func() {
		defer func() { <-c.bench }()
		c.rule(x, entry)
	})
}

// rule comes to this node's verdict, and endorses it.
func (c *court) rule(x *inquiry, entry []byte) {
	n := c.node
	ctx, cancel := context.WithTimeout(n.running, courtPatience)
	defer cancel()
	verdict, err := c.appraise(ctx, entry)
	c.mu.Lock()
	if x.refusal = err; err == nil {
		x.verdict = verdict
	}
	c.mu.Unlock()
	close(x.ruled)
	if err != nil {
		close(x.refused)
		n.log.Warn("proposal not endorsed", "proposal", keystead.Sum(entry), "because", err)
		return
	}
	c.sign(verdict)
	c.ring()
}

// sign proposes this node's endorsement.
func (c *court) sign(v *ledger.Verdict) {
	n := c.node
	n.proposeOwn(func() ([]byte, error) {
		k, err := n.signer()
		if err != nil {
			return nil, err
		}
		e := ledger.Endorse(k, n.name, n.cfg.Domain, v)
		return e.Entry(), nil
	})
}

// endorseAgain signs open verdicts by a new key: signatures by the old one count no
// more.
func (c *court) endorseAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.open {
		if v := x.verdict; v != nil {
			c.node.background(func() { c.sign(v) })
		}
	}
}

func (c *court) appraise(ctx context.Context, entry []byte) (*ledger.Verdict, error) {
	p, err := ledger.ParseProposal(entry)
	if err != nil {
		return nil, err
	}
	judged, err := c.typeOf(&p)
	if err != nil {
		return nil, err
	}
	v, err := ledger.NewVerdict(entry)
	if err != nil {
		return nil, err
	}
	roster, _, _ := c.node.machine.roster()
	read := func(read func(ledger.View) error) error {
		return c.node.replica.Snapshot(func(s replicaView) error { return read(ledger.NewView(s)) })
	}
	objects := func(ctx context.Context, d keystead.Digest, kind string) ([]byte, error) {
		return c.node.object(ctx, d, mostOf(kind))
	}
	return &v, judged.Judge(ctx, &part.Hearing{Roster: &roster, Domain: c.node.cfg.Domain, Proposal: &p, Read: read, Object: objects}, &v)
}

func (c *court) typeOf(p *ledger.Proposal) (part.JudgedType, error) {
	if t, ok := c.types[p.Type]; ok {
		return t, nil
	}
	return part.JudgedType{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonPolicyUnusable, Where: "proposal", Want: "a type that this build judges", Got: p.Type})
}

// conclude proposes the effective entries that a majority's signatures allow, as
// leader at once and otherwise when the leader is late, and forgets old cases.
func (c *court) conclude() {
	n := c.node
	s := n.replica.Status()
	roster, _, _ := n.machine.roster()
	for _, x := range c.due(s.Leader == s.ID, &roster) {
		n.background(func() {
			n.proposeOwn(func() ([]byte, error) {
				return ledger.NewEffective(x.verdict, x.endorsements).Entry()
			})
		})
	}
}

func (c *court) due(leads bool, r *receipt.Roster) (out []inquiry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.order) > 0 && time.Since(c.cases[c.order[0]].opened) > 2*courtPatience {
		delete(c.cases, c.order[0])
		delete(c.open, c.order[0])
		c.order = c.order[1:]
	}
	for _, x := range c.open {
		if x.verdict == nil || !leads && time.Since(x.opened) < courtLate || time.Since(x.sent) < courtLate {
			continue
		}
		if signed := x.matching(r, c.bad); len(signed) >= r.Majority() {
			x.sent = time.Now()
			out = append(out, inquiry{verdict: x.verdict, endorsements: signed})
		}
	}
	return out
}

// Submit implements serve.Domain.
func (n *Node) Submit(ctx context.Context, entry, contact, evidence []byte) (part.Outcome, error) {
	kind, _, err := receipt.Split(entry)
	if err != nil {
		return part.Outcome{}, err
	}
	if o, ok := n.enrolled(entry); ok {
		return o, nil // sent again
	}
	if kind == receipt.KindRoster && len(contact) > 0 {
		judge := func() error { return n.muster.judgeNewcomer(ctx, contact, evidence) }
		if err := n.membership.introduce(ctx, entry, contact, judge); err != nil {
			return part.Outcome{}, err
		}
	}
	if kind == receipt.KindProposal {
		roster := n.roster()
		if err := n.court.mayPropose(entry, part.CallerOf(ctx), &roster); err != nil {
			return part.Outcome{}, err
		}
		o, err := n.court.hearing(ctx, entry)
		return n.effects.of(entry, o), err
	}
	r, err := n.propose(ctx, entry)
	if o, ok := n.enrolled(entry); ok && err != nil {
		return o, nil // an earlier attempt took effect
	}
	if err != nil || !r.Recorded && !r.Repeated {
		return part.Outcome{Applied: err == nil}, err
	}
	return n.outcome(r)
}

// mayPropose refuses, before the log has them, proposals that nobody would endorse: of the kinds
// that nodes alone make, for to judge one costs every node a search for evidence, or work
// with secrets; and of what too few members signed, for the ledger keeps so many proposals and
// no more. What members sign anybody may hand in.
func (c *court) mayPropose(entry []byte, from part.Caller, r *receipt.Roster) error {
	p, err := ledger.ParseProposal(entry)
	if err != nil || from.Node != "" {
		return err
	}
	judged, err := c.typeOf(&p)
	if err != nil {
		return err
	}
	where := "proposal of type " + p.Type
	if judged.Statement == "" {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: where, Want: "a connection of a node of the domain", Got: "another client"})
	}
	by, err := judged.Open(p.Content, r.Members...)
	if err == nil && len(by) < r.Threshold {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonThresholdMissing, Where: where, Want: fmt.Sprintf("signatures of %d of %d members", r.Threshold, len(r.Members)), Got: fmt.Sprint(len(by))})
	}
	return err
}

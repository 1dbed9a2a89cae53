package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/serve"
)

// A Judge appraises a proposal: it fills in the verdict's content and writes, or
// refuses. It is a pure function of the view and the proposal, so that all nodes of
// a build come to the same verdict; it runs outside of Apply.
type Judge func(v ledger.View, roster *receipt.Roster, domain keystead.Digest, p *ledger.Proposal, out *ledger.Verdict) error

// court judges what is proposed: every node signs its own verdict, and whoever sees
// that a majority signed the same joins the signatures into an effective entry.
type court struct {
	node   *Node
	judges map[string]Judge
	wake   chan struct{}

	mu    sync.Mutex
	heard [][]byte
	cases map[keystead.Digest]*inquiry
}

// inquiry is an open proposal as this node knows it.
type inquiry struct {
	opened       time.Time
	verdict      *ledger.Verdict // this node's; nil if it refused
	refusal      error
	endorsements []ledger.Endorsement
	done         chan struct{} // closed once it took effect
	sent         time.Time     // the effective entry, by this node
}

// endorse keeps a node's endorsement in the place of its last one. The ledger
// lets only one verdict of a node pass, but the same one any number of times.
func (x *inquiry) endorse(e ledger.Endorsement) {
	by := func(old ledger.Endorsement) bool { return old.Node == e.Node }
	x.endorsements = append(slices.DeleteFunc(x.endorsements, by), e)
}

// matching returns the endorsements of this node's verdict by nodes of the roster.
func (x *inquiry) matching(r *receipt.Roster) (out []ledger.Endorsement) {
	verdict := keystead.Sum(x.verdict.Bytes())
	for _, e := range x.endorsements {
		if _, in := r.Node(e.Node); in && e.Verdict == verdict {
			out = append(out, e)
		}
	}
	return out
}

const (
	courtPatience = ledger.Window * time.Millisecond
	courtLate     = 300 * time.Millisecond // for the leader to join the signatures, before others do
)

func (c *court) init(n *Node, judges ...map[string]Judge) {
	c.node, c.wake, c.cases = n, make(chan struct{}, 1), map[keystead.Digest]*inquiry{}
	c.judges = map[string]Judge{admit.TypeSetting: SettingJudge}
	for _, more := range judges {
		maps.Copy(c.judges, more)
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
		c.cases[id] = &inquiry{opened: time.Now(), done: make(chan struct{})}
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
			select {
			case <-x.done:
			default:
				close(x.done)
			}
		}
	}
}

// judge comes to this node's verdict and endorses it.
func (c *court) judge(entry []byte) {
	n := c.node
	x := c.of(keystead.Sum(entry))
	if x.verdict != nil || x.refusal != nil {
		return
	}
	verdict, err := c.appraise(entry)
	c.mu.Lock()
	x.verdict, x.refusal = verdict, err
	c.mu.Unlock()
	if err != nil {
		n.log.Warn("proposal not endorsed", "proposal", keystead.Sum(entry), "because", err)
		return
	}
	n.propose1(func() ([]byte, error) {
		e := ledger.Endorse(n.self.Node, n.name, n.cfg.Domain, verdict)
		return e.Entry(), nil
	})
}

func (c *court) appraise(entry []byte) (*ledger.Verdict, error) {
	p, err := ledger.ParseProposal(entry)
	if err != nil {
		return nil, err
	}
	judge := c.judges[p.Type]
	if judge == nil {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonPolicyUnusable, Where: "proposal", Want: "a type that this build judges", Got: p.Type})
	}
	v, err := ledger.NewVerdict(entry)
	if err != nil {
		return nil, err
	}
	roster, _, _ := c.node.machine.roster()
	err = c.node.replica.Snapshot(func(s replicaView) error {
		return judge(ledger.NewView(s), &roster, c.node.cfg.Domain, &p, &v)
	})
	return &v, err
}

// conclude proposes the effective entries that a majority's signatures allow, as
// leader at once and otherwise when the leader is late, and forgets old cases.
func (c *court) conclude() {
	n := c.node
	s := n.replica.Status()
	roster, _, _ := n.machine.roster()
	for _, x := range c.due(s.Leader == s.ID, &roster) {
		n.propose1(func() ([]byte, error) {
			return ledger.NewEffective(x.verdict, x.endorsements).Entry()
		})
	}
}

func (c *court) due(leads bool, r *receipt.Roster) (out []inquiry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, x := range c.cases {
		closed := false
		select {
		case <-x.done:
			closed = true
		default:
		}
		age := time.Since(x.opened)
		switch {
		case age > 2*courtPatience:
			delete(c.cases, id)
		case closed || x.verdict == nil || !leads && age < courtLate || time.Since(x.sent) < courtLate:
		default:
			if signed := x.matching(r); len(signed) >= r.Majority() {
				x.sent = time.Now()
				out = append(out, inquiry{verdict: x.verdict, endorsements: signed})
			}
		}
	}
	return out
}

// Submit implements serve.Domain.
func (n *Node) Submit(ctx context.Context, entry, contact []byte) (serve.Outcome, error) {
	kind, _, err := receipt.Split(entry)
	if err != nil {
		return serve.Outcome{}, err
	}
	if kind == receipt.KindRoster && len(contact) > 0 {
		if err := n.introduce(ctx, entry, contact); err != nil {
			return serve.Outcome{}, err
		}
	}
	if kind == receipt.KindProposal {
		return n.court.hearing(ctx, entry)
	}
	r, err := n.propose(ctx, entry)
	if err != nil || !r.Recorded && !r.Repeated {
		return serve.Outcome{Applied: err == nil}, err
	}
	return n.outcome(r)
}

// hearing proposes and waits until the proposal has taken effect. It ends early
// with this node's own refusal.
func (c *court) hearing(ctx context.Context, entry []byte) (serve.Outcome, error) {
	n, id := c.node, keystead.Sum(entry)
	x := c.of(id)
	if _, err := n.propose(ctx, entry); err != nil {
		return serve.Outcome{}, err
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-x.done:
			return serve.Outcome{Applied: true}, nil
		case <-poll.C:
			c.mu.Lock()
			refusal := x.refusal
			c.mu.Unlock()
			if refusal != nil {
				return serve.Outcome{}, refusal
			}
		case <-ctx.Done():
			c.mu.Lock()
			got := len(x.endorsements)
			c.mu.Unlock()
			return serve.Outcome{}, errors.Join(keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "proposal " + id.String(),
				Want: "matching endorsements of a majority", Got: fmt.Sprintf("%d endorsements", got)}), ctx.Err())
		}
	}
}

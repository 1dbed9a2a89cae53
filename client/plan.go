package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
)

// What a plan says of somebody, the worst first.
const (
	FallsOut     = "falls-out"     // passes by the terms in force, and not by the planned ones
	FailsAlready = "fails-already" // by that evidence, by the terms in force
	Stays        = "stays"
	Unknown      = "unknown" // no node that answered has evidence
)

var outcomes = []string{FallsOut, FailsAlready, Stays, Unknown}

// Planned is what would become of a host, or of a node, by terms that are not in force.
type Planned struct {
	Name     string
	Node     bool
	Outcome  string              // the worst that a node says
	Because  *keystead.DenyError // what speaks against it, by one of these nodes; nil for nothing
	Evidence uint64              // when the evidence was judged that this is about, Unix milliseconds; 0 for none
	From     uint64              // from when on, likewise; 0 for at once
	Said     int                 // how many nodes say so
	Known    int                 // how many have evidence of it
}

// Plan is what would become of all.
type Plan struct {
	Hosts []Planned // nodes first, by name
	Asked []string  // nodes that answered
	Clock uint64    // of the domain, Unix milliseconds: the least of the answers
}

// maxPlanned bounds the hosts that one node may tell of.
const maxPlanned = 1 << 20

// PlanTerms asks every node what would become of hosts by the text of terms, for a reading of its
// digest that members signed ([Client.Reading]), and wants the answers of a majority of the roster.
// Each answer is that node's word: who says the worst is shown, with how many say so.
func (c *Client) PlanTerms(ctx context.Context, terms, reading []byte) (*Plan, error) {
	v, err := c.Show(ctx)
	if err != nil {
		return nil, err
	}
	nodes := c.all()
	answers := make(chan planAnswer, len(nodes))
	asking, stop := context.WithCancel(ctx)
	defer stop()
	for _, n := range nodes {
		go func() { answers <- n.planPatiently(asking, terms, reading) }()
	}
	out := &Plan{}
	by := map[string]*Planned{}
	var errs []error
	var refused error
	for range nodes {
		a := <-answers
		if _, in := v.Roster.Node(a.node); !in || slices.Contains(out.Asked, a.node) {
			continue
		}
		if a.err != nil {
			if errs = append(errs, fmt.Errorf("node %s: %w", a.node, a.err)); !Unavailable(a.err) {
				refused = a.err // the other nodes would say the same
			}
			continue
		}
		if out.Asked = append(out.Asked, a.node); len(out.Asked) == v.Roster.Majority() {
			time.AfterFunc(planLate, stop)
		}
		if out.Clock == 0 || a.clock < out.Clock {
			out.Clock = a.clock
		}
		for _, h := range a.hosts {
			take(by, h)
		}
	}
	switch {
	case len(out.Asked) >= v.Roster.Majority():
	case refused != nil:
		return nil, refused
	case len(errs) == 0:
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "plan", Want: fmt.Sprintf("answers of %d nodes", v.Roster.Majority()), Got: fmt.Sprint(len(out.Asked))})
	default:
		return nil, errors.Join(errs...)
	}
	for _, p := range by {
		out.Hosts = append(out.Hosts, *p)
	}
	slices.Sort(out.Asked)
	slices.SortFunc(out.Hosts, func(a, b Planned) int {
		if a.Node != b.Node {
			return cmp.Compare(0, map[bool]int{true: 1, false: -1}[a.Node])
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return out, nil
}

// take adds what one node says of a host.
func take(by map[string]*Planned, h *apiv1.PlannedHost) {
	rank := slices.Index(outcomes, h.GetOutcome())
	if rank < 0 {
		return // of another role, or a word that this client does not know
	}
	name := fmt.Sprintf("%t/%s", h.GetNode(), h.GetName())
	p := by[name]
	if p == nil {
		p = &Planned{Name: h.GetName(), Node: h.GetNode(), Outcome: Unknown}
		by[name] = p
	}
	if h.GetOutcome() != Unknown {
		p.Known++
	}
	switch was := slices.Index(outcomes, p.Outcome); {
	case rank < was || p.Said == 0:
		p.Outcome, p.Because, p.Evidence, p.From, p.Said = h.GetOutcome(), refusal.Parse(h.GetBecause()), h.GetEvidenceMs(), h.GetFromMs(), 1
	case rank == was:
		p.Said++
	}
}

// planLate is how long nodes have that a majority answered before, or that do not answer at all.
const planLate = 3 * time.Second

type planAnswer struct {
	node  string
	hosts []*apiv1.PlannedHost
	clock uint64
	err   error
}

// planPatiently asks one node until it answers, or refuses for good.
func (n *node) planPatiently(ctx context.Context, terms, reading []byte) (a planAnswer) {
	a.node = n.Name
	for {
		hosts, clock, err := n.planTerms(ctx, terms, reading)
		if a.err == nil || !late(err) { // what it said before is more than that time is over
			a.err = err
		}
		if err == nil || !Unavailable(err) {
			a.hosts, a.clock, a.err = hosts, clock, err
			return a
		}
		select {
		case <-time.After(pauseMax):
		case <-ctx.Done():
			return a
		}
	}
}

// planTerms asks one node, page by page.
func (n *node) planTerms(ctx context.Context, terms, reading []byte) (hosts []*apiv1.PlannedHost, clock uint64, err error) {
	after := ""
	for {
		r, err := n.host.PlanTerms(ctx, connect.NewRequest(&apiv1.PlanTermsRequest{Terms: terms, Reading: reading, After: after}))
		if err != nil {
			return nil, 0, refusal.Decode(err)
		}
		before := after
		for _, h := range r.Msg.GetHosts() {
			if !h.GetNode() && h.GetName() <= after || len(hosts) == maxPlanned {
				return nil, 0, &keystead.FormatError{Format: "plan", Field: "hosts", Problem: "are not each told once, in the order of names"}
			}
			if hosts = append(hosts, h); !h.GetNode() {
				after = h.GetName()
			}
		}
		if clock = r.Msg.GetClockMs(); !r.Msg.GetMore() {
			return hosts, clock, nil
		}
		if after == before {
			return nil, 0, &keystead.FormatError{Format: "plan", Field: "more", Problem: "is said of a page without a host"}
		}
	}
}

package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/part"
)

// opinionLate is how long a proposal has for its effect before the other nodes are asked
// what they hold against it: that takes no part in what becomes of it, and tells
// whoever waits.
const opinionLate = time.Second

// maxCases bounds the proposals that a node keeps in mind for others that ask.
const maxCases = 1 << 16

// opinion is what another node holds against a proposal.
type opinion struct {
	node    string
	refusal *keystead.DenyError
}

// findings are the refusal's, each with the node that has it.
func (o *opinion) findings() []keystead.Finding {
	out := slices.Clone(o.refusal.Findings)
	for i := range out {
		out[i].Where = "node " + o.node + ": " + out[i].Where
	}
	return out
}

// opinions asks the other nodes for their refusals of a proposal that has not taken effect
// in time. Each is sent as it comes, until the context ends.
func (c *court) opinions(ctx context.Context, id keystead.Digest) <-chan opinion {
	out := make(chan opinion)
	c.node.background(func() {
		select {
		case <-time.After(opinionLate):
		case <-ctx.Done():
			return
		}
		for _, p := range c.node.peers.others() {
			c.node.background(func() {
				r, err := p.nodes.GetRuling(ctx, connect.NewRequest(&apiv1.GetRulingRequest{Proposal: id[:]}))
				if err != nil {
					return // it can not be asked, or has not heard of it
				}
				if refused := refusal.Parse(r.Msg.GetRefusal()); refused != nil {
					select {
					case out <- opinion{p.Name, refused}:
					case <-ctx.Done():
					}
				}
			})
		}
	})
	return out
}

// GetRuling implements serve.Nodes: it waits until this node has come to something.
func (c *court) GetRuling(ctx context.Context, proposal keystead.Digest) (*apiv1.GetRulingResponse, error) {
	c.mu.Lock()
	full := c.cases[proposal] == nil && len(c.cases) >= maxCases
	c.mu.Unlock()
	if full {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "proposals", Want: fmt.Sprintf("at most %d", maxCases), Got: "more"})
	}
	x := c.of(proposal)
	select {
	case <-x.ruled:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.refusal == nil {
		return &apiv1.GetRulingResponse{}, nil
	}
	return &apiv1.GetRulingResponse{Refusal: wireRefusal(x.refusal)}, nil
}

// wireRefusal is why this node does not go along, as other nodes are told. Trouble of its
// own it keeps to its log.
func wireRefusal(err error) *apiv1.Refusal {
	d := refusal.Deny(err)
	if d == nil {
		d = keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "judgement", Want: "a verdict", Got: "trouble of the node's own; its log has it"})
	}
	return refusal.Message(d)
}

// hearing proposes and waits until the proposal has taken effect. It ends early with
// this node's own refusal, or with those of so many others that no majority is left.
func (c *court) hearing(ctx context.Context, entry []byte) (part.Outcome, error) {
	n, id := c.node, keystead.Sum(entry)
	x := c.of(id)
	if _, err := n.propose(ctx, entry); err != nil {
		return part.Outcome{}, err
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	opinions := c.opinions(asking, id)
	var held []keystead.Finding
	for against := 0; ; {
		select {
		case <-x.done:
			return part.Outcome{Applied: true}, nil
		case <-x.refused:
			c.mu.Lock()
			defer c.mu.Unlock()
			return part.Outcome{}, x.refusal
		case o := <-opinions:
			held = append(held, o.findings()...)
			roster, _, _ := n.machine.roster()
			if against++; against > len(roster.Nodes)-roster.Majority() {
				return part.Outcome{}, keystead.Deny(held...)
			}
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			late := keystead.Finding{Reason: keystead.ReasonTimeout, Where: "proposal " + id.String(),
				Want: "matching endorsements of a majority", Got: fmt.Sprintf("%d endorsements", len(x.endorsements))}
			return part.Outcome{}, keystead.Deny(append([]keystead.Finding{late}, held...)...)
		}
	}
}

package node

import (
	"context"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// host is the node as one of its parts knows it: what the part did not declare, it refuses.
type host struct {
	node     *Node
	name     string // of the part
	declared part.Declaration
}

// Self implements part.Host.
func (h *host) Self() part.Self {
	n := h.node
	return part.Self{Name: n.name, Domain: n.cfg.Domain, Dir: n.cfg.Dir, Log: n.log.With("part", h.name)}
}

// State implements part.Host.
func (h *host) State() part.State { return hostState{h.node} }

// Log implements part.Host.
func (h *host) Log() part.Log { return h }

// Peers implements part.Host.
func (h *host) Peers() part.Peers { return hostPeers{h.node} }

// Go implements part.Host.
func (h *host) Go(name string, task func(context.Context) error) {
	n := h.node
	n.background(func() {
		if err := task(n.running); err != nil && n.running.Err() == nil {
			n.log.Error("a task of a part ended", "part", h.name, "task", name, "because", err)
		}
	})
}

// hostState implements part.State.
type hostState struct{ node *Node }

// Snapshot implements part.State.
func (s hostState) Snapshot(read func(ledger.View) error) error { return s.node.snapshot(read) }

// Until implements part.State.
func (s hostState) Until(ctx context.Context, cond func(ledger.View) (bool, error)) error {
	return s.node.until(ctx, cond)
}

// Current implements part.State.
func (s hostState) Current(ctx context.Context) error { return s.node.mayGrant(ctx) }

// Roster implements part.State.
func (s hostState) Roster() (receipt.Roster, uint64) {
	r, sequence, _ := s.node.machine.roster()
	return r, sequence
}

// Grown implements part.State.
func (s hostState) Grown() <-chan struct{} { return s.node.grown.wait() }

// Propose implements part.Log.
func (h *host) Propose(ctx context.Context, entries ...[]byte) (out []part.Outcome, err error) {
	for _, entry := range entries {
		if err := h.declared.MayPropose(h.name, entry); err != nil {
			return nil, err
		}
	}
	done := make([]chan *replica.Proposal, len(entries))
	for i, entry := range entries {
		answer := make(chan *replica.Proposal, 1)
		done[i] = answer
		h.node.replica.Submit(&replica.Proposal{Command: entry, Done: func(p *replica.Proposal) { answer <- p }})
	}
	for _, answer := range done {
		select {
		case p := <-answer:
			if p.Err != nil {
				return out, gone(p.Err)
			}
			r, err := parseResult(p.Result)
			if err != nil {
				return out, err
			}
			out = append(out, part.Outcome{Applied: true, Repeated: r.Repeated, Leaf: r.Leaf, ID: r.ID})
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
	return out, nil
}

// Transact implements part.Log.
func (h *host) Transact(ctx context.Context, contract string, writes []ledger.Write, conditions ...ledger.Condition) error {
	if err := h.declared.MayWrite(h.name, contract); err != nil {
		return err
	}
	return h.node.transact(ctx, contract, writes, conditions...)
}

// Decide implements part.Log.
func (h *host) Decide(ctx context.Context, p *ledger.Proposal) (out part.Outcome, err error) {
	if err := h.declared.MayDecide(h.name, p.Type); err != nil {
		return out, err
	}
	entry, err := p.Entry()
	if err != nil {
		return out, err
	}
	out, err = h.node.court.hearing(ctx, entry)
	return h.node.effects.of(entry, out), err
}

// Sign implements part.Log.
func (h *host) Sign(context string, message []byte) (none key.NodeSignature, err error) {
	if err := h.declared.MaySign(h.name, context); err != nil {
		return none, err
	}
	k, err := h.node.signer()
	if err != nil {
		return none, err
	}
	return k.Sign(part.Signed(context, message)), nil
}

// Leads implements part.Log.
func (h *host) Leads() bool {
	s := h.node.replica.Status()
	return s.Leader == s.ID
}

// hostPeers implements part.Peers.
type hostPeers struct{ node *Node }

// Others implements part.Peers.
func (p hostPeers) Others() (names []string) {
	for _, o := range p.node.peers.others() {
		names = append(names, o.Name)
	}
	return names
}

// Object implements part.Peers.
func (p hostPeers) Object(ctx context.Context, d keystead.Digest, kind string) ([]byte, error) {
	return p.node.object(ctx, d, mostOf(kind))
}

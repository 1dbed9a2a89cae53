package parttest

import (
	"context"
	"log/slog"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// host is the bench as its part knows it.
type host struct{ b *Bench }

var (
	_ part.Host   = host{}
	_ part.Leases = (*Bench)(nil)
)

// Self implements part.Host.
func (h host) Self() part.Self {
	return part.Self{Name: h.b.names[0], Domain: h.b.domain, Dir: h.b.dir, Log: slog.New(slog.DiscardHandler)}
}

// State implements part.Host.
func (h host) State() part.State { return hostState(h) }

// Log implements part.Host.
func (h host) Log() part.Log { return h }

// Peers implements part.Host.
func (h host) Peers() part.Peers { return hostPeers(h) }

// Go implements part.Host.
func (h host) Go(name string, task func(context.Context) error) {
	h.b.tasks.Go(func() {
		if err := task(h.b.running); err != nil && h.b.running.Err() == nil {
			h.b.t.Errorf("task %s ended: %v", name, err)
		}
	})
}

// Propose implements part.Log.
func (h host) Propose(_ context.Context, entries ...[]byte) (out []part.Outcome, err error) {
	for _, entry := range entries {
		if err := h.b.Declared.MayPropose(h.b.Part.Name(), entry); err != nil {
			return out, err
		}
		r, err := h.b.Apply(entry)
		if err != nil {
			return out, err
		}
		out = append(out, part.Outcome{Applied: true, Repeated: r.Repeated, Leaf: r.Leaf, ID: r.ID})
	}
	return out, nil
}

// Transact implements part.Log.
func (h host) Transact(_ context.Context, contract string, writes []ledger.Write, conditions ...ledger.Condition) error {
	if err := h.b.Declared.MayWrite(h.b.Part.Name(), contract); err != nil {
		return err
	}
	var clock uint64
	if err := h.b.View(func(v ledger.View) (err error) { clock, err = v.Clock(); return err }); err != nil {
		return err
	}
	tx := ledger.Transaction{Request: ledger.RequestID{ID: newID(), Deadline: clock + ledger.Window/2}, Contract: contract, Conditions: conditions, Writes: writes}
	entry, err := tx.Entry()
	if err != nil {
		return err
	}
	_, err = h.b.Apply(entry)
	return err
}

// Decide implements part.Log.
func (h host) Decide(ctx context.Context, p *ledger.Proposal) (part.Outcome, error) {
	if err := h.b.Declared.MayDecide(h.b.Part.Name(), p.Type); err != nil {
		return part.Outcome{}, err
	}
	return h.b.Decide(ctx, p)
}

// Sign implements part.Log.
func (h host) Sign(context string, message []byte) (none key.NodeSignature, err error) {
	if err := h.b.Declared.MaySign(h.b.Part.Name(), context); err != nil {
		return none, err
	}
	if h.b.Closed != nil {
		return none, h.b.Closed
	}
	return h.b.nodes[0].Sign(part.Signed(context, message)), nil
}

// Leads implements part.Log.
func (h host) Leads() bool { return true }

// hostState is the bench's state as its part knows it.
type hostState struct{ b *Bench }

// Snapshot implements part.State.
func (s hostState) Snapshot(read func(ledger.View) error) error { return s.b.View(read) }

// Until implements part.State.
func (s hostState) Until(ctx context.Context, cond func(ledger.View) (bool, error)) error {
	for {
		grown, done := s.Grown(), false
		if err := s.b.View(func(v ledger.View) (err error) { done, err = cond(v); return err }); err != nil || done {
			return err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Current implements part.State.
func (s hostState) Current(context.Context) error { return s.b.Closed }

// Roster implements part.State.
func (s hostState) Roster() (receipt.Roster, uint64) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.machine.Roster()
}

// Grown implements part.State.
func (s hostState) Grown() <-chan struct{} {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.grown
}

// hostPeers are the other nodes, which have nothing.
type hostPeers struct{ b *Bench }

// Others implements part.Peers.
func (p hostPeers) Others() []string { return p.b.names[1:] }

// Object implements part.Peers.
func (p hostPeers) Object(_ context.Context, d keystead.Digest, _ string) ([]byte, error) {
	if b, ok := p.b.Objects[d]; ok {
		return b, nil
	}
	return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMissing, Where: "object", Want: d.String(), Got: "none"})
}

// Lease implements part.Leases, by Bench.Host.
func (b *Bench) Lease(_ context.Context, _ part.Caller, name string, grant func(ledger.View, *part.Granted) error) error {
	if b.Closed != nil {
		return b.Closed
	}
	if b.Host == nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseUnknown, Where: "host " + name, Want: "a lease", Got: "none"})
	}
	g, err := b.Host(name)
	if err != nil {
		return err
	}
	return b.View(func(v ledger.View) error { return grant(v, g) })
}

// Evidence implements part.Leases.
func (b *Bench) Evidence(ctx context.Context, from part.Caller, name string, grant func(ledger.View, *part.Granted) error) error {
	return b.Lease(ctx, from, name, grant)
}

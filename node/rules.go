package node

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
)

// rulebook keeps terms opened: reading reference sets takes a while.
type rulebook struct {
	mu   sync.Mutex
	open map[string]*openRules // by role: those in force last
}

// openRules are being opened, or are.
type openRules struct {
	digest keystead.Digest
	once   sync.Once
	rules  *admit.Rules
	err    error
	done   atomic.Bool // rules are opened
}

// opened returns the terms of a role that were in force last, if they are open; nil
// else. Whoever judges by them finds out if others are in force.
func (b *rulebook) opened(role string) *admit.Rules {
	b.mu.Lock()
	x := b.open[role]
	b.mu.Unlock()
	if x == nil || !x.done.Load() {
		return nil
	}
	return x.rules
}

// rules returns the terms in force for a role, opened. Objects of theirs that are not
// here other nodes hand over.
func (n *library) rules(ctx context.Context, role string) (*admit.Rules, error) {
	f, err := n.inForce(role)
	if err != nil {
		return nil, err
	}
	b := &n.rulebook
	b.mu.Lock()
	x := b.open[role]
	if x == nil || x.digest != f.Digest {
		if b.open == nil {
			b.open = map[string]*openRules{}
		}
		x = &openRules{digest: f.Digest}
		b.open[role] = x
	}
	b.mu.Unlock()
	x.once.Do(func() {
		x.rules, x.err = f.Open(n.termsObjects(ctx, f.Text))
		x.done.Store(x.err == nil)
		if x.err == nil && role == admit.RoleHost {
			n.replayed.clear()
		}
	})
	if x.err != nil { // another time they may be to be had
		b.mu.Lock()
		if b.open[role] == x {
			delete(b.open, role)
		}
		b.mu.Unlock()
	}
	return x.rules, x.err
}

// termsObjects returns objects of terms, each no longer than those of its kind are. The text
// is nil where it is an object itself, the first that is asked for.
func (n *library) termsObjects(ctx context.Context, text []byte) admit.Objects {
	most := map[keystead.Digest]int64{}
	learn := func(text []byte) {
		t, err := admit.ParseTerms(text)
		if err != nil {
			return // who opens them says so
		}
		for _, o := range t.Objects() {
			most[o.Digest] = mostOf(o.Kind)
		}
	}
	learn(text)
	return func(d keystead.Digest) ([]byte, error) {
		if size, ok := most[d]; ok {
			return n.public(ctx, d, size)
		}
		b, err := n.public(ctx, d, key.MaxNote)
		if err == nil {
			learn(b)
		}
		return b, err
	}
}

// founded is a state that knows the genesis entry even before the ledger has begun.
type founded struct {
	ledger.View
	node *core
}

// Founding returns a setting of the genesis entry, or "".
func (s founded) Founding(setting string) (string, error) {
	return s.node.genesis.Setting(setting), nil
}

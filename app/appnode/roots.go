package appnode

import (
	"context"
	"fmt"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// rooted are the roots for applications that terms name.
type rooted struct {
	terms keystead.Digest
	roots *app.Roots
}

// rootbook keeps those of the terms that were in force last.
type rootbook struct {
	mu   sync.Mutex
	last rooted
}

// termsOf returns what names the terms for hosts.
func termsOf(v ledger.View) (admit.InForce, error) { return admit.TermsOf(v, admit.RoleHost) }

// inForce returns the roots of the terms in force. Terms that name none vouch for nobody.
func (b *rootbook) inForce(ctx context.Context, h part.Host) (rooted, error) {
	var f admit.InForce
	if err := h.State().Snapshot(func(v ledger.View) (err error) { f, err = termsOf(v); return err }); err != nil {
		return rooted{}, err
	}
	b.mu.Lock()
	last := b.last
	b.mu.Unlock()
	if last.terms == f.Digest {
		return last, nil
	}
	roots, err := read(ctx, h.Peers(), f)
	if err != nil {
		return rooted{}, err
	}
	last = rooted{f.Digest, roots}
	b.mu.Lock()
	b.last = last
	b.mu.Unlock()
	return last, nil
}

// read opens the terms and the roots that they name.
func read(ctx context.Context, peers part.Peers, f admit.InForce) (*app.Roots, error) {
	text := f.Text
	if text == nil { // founding terms are an object
		var err error
		if text, err = peers.Object(ctx, f.Digest, admit.ObjectCodeSet); err != nil { // as long as a note may be
			return nil, err
		}
	}
	t, err := admit.ParseTerms(text)
	if err != nil {
		return nil, err
	}
	d := t.System(admit.ObjectAppRoots)
	if d.IsZero() {
		return &app.Roots{}, nil
	}
	object, err := peers.Object(ctx, d, admit.ObjectAppRoots)
	if err != nil {
		return nil, err
	}
	roots, err := app.ParseRoots(object)
	if err != nil {
		return nil, fmt.Errorf("object %v: %w", d, err)
	}
	return roots, nil
}

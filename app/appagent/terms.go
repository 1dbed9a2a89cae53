package appagent

import (
	"context"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/agent/part"
	"github.com/keystead/keystead/app"
)

// Ages of what the part knows of the domain, and bounds of asking. Nodes look at each release.
const (
	termsAge   = 5 * time.Second
	termsTime  = 5 * time.Second
	maxDenials = 1024
)

// terms are what the domain says of applications, as a node told of late.
type terms struct {
	ledger func() part.Ledger

	mu     sync.Mutex // held while a node is asked: one question serves all who wait
	roots  *app.Roots
	object keystead.Digest // that roots were read from
	text   []byte          // of the object
	asked  time.Time
	denied map[keystead.Digest]denial
}

// denial is what a node said of a digest.
type denial struct {
	denied bool
	asked  time.Time
}

// verify finds out who a program is.
func (t *terms) verify(ctx context.Context, note *app.Note, m app.Measured) (app.Identity, error) {
	info, err := app.ReadCertificate(note.Certificate)
	if err != nil {
		return app.Identity{}, err
	}
	roots, denied, err := t.now(ctx, info.Key, note.File)
	if err != nil {
		return app.Identity{}, err
	}
	return note.Verify(m, roots, func(d keystead.Digest) bool { return denied[d] }, time.Now())
}

// now returns the roots, and which of the digests are denied. Where no node answers, what was
// known has to do: a lease ends before it is long out of date.
func (t *terms) now(ctx context.Context, digests ...keystead.Digest) (*app.Roots, map[keystead.Digest]bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, termsTime)
	defer cancel()
	if t.roots == nil || time.Since(t.asked) > termsAge {
		if err := t.learn(ctx); err != nil && t.roots == nil {
			return nil, nil, err
		}
	}
	if err := t.deny(ctx, digests); err != nil {
		return nil, nil, err
	}
	out := map[keystead.Digest]bool{}
	for _, d := range digests {
		out[d] = t.denied[d].denied
	}
	return t.roots, out, nil
}

// known returns the text of the roots as they are known.
func (t *terms) known() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text
}

func (t *terms) learn(ctx context.Context) error {
	text, err := t.ledger().Terms(ctx)
	if err != nil {
		return err
	}
	var object keystead.Digest
	if text != nil {
		terms, err := admit.ParseTerms(text)
		if err != nil {
			return err
		}
		object = terms.System(admit.ObjectAppRoots)
	}
	roots, content := &app.Roots{}, []byte(nil)
	switch {
	case !object.IsZero() && object == t.object:
		roots, content = t.roots, t.text
	case !object.IsZero():
		if content, err = t.ledger().Object(ctx, object); err != nil {
			return err
		}
		if roots, err = app.ParseRoots(content); err != nil {
			return err
		}
	}
	t.roots, t.object, t.text, t.asked = roots, object, content, time.Now()
	return nil
}

// deny learns of digests that were not asked for of late. One that is known to be denied stays so
// while nobody answers; one that was never asked for is an error.
func (t *terms) deny(ctx context.Context, digests []keystead.Digest) error {
	if len(t.denied) > maxDenials || t.denied == nil {
		t.denied = map[keystead.Digest]denial{}
	}
	var subjects []string
	var old []keystead.Digest
	for _, d := range digests {
		if time.Since(t.denied[d].asked) > termsAge {
			subjects, old = append(subjects, admit.DenyApp(d)), append(old, d)
		}
	}
	if len(old) == 0 {
		return nil
	}
	said, err := t.ledger().Denied(ctx, subjects...)
	for i, d := range old {
		switch known := t.denied[d]; {
		case err == nil:
			t.denied[d] = denial{said[i], time.Now()}
		case known.asked.IsZero():
			return err
		}
	}
	return nil
}

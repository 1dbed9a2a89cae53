package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/cli"
)

// warn says what is not refused, on stderr.
func (a *app) warn(lines ...string) {
	for _, l := range lines {
		fmt.Fprintf(a.Stderr, "keystead: warning: %s\n", cli.Printable(l))
	}
}

// doubtRoots warns of roots that are taken for vendors' and look like those of software TPMs.
func (a *app) doubtRoots(r tpm2.Roots) { a.warn(r.Doubts(time.Now())...) }

// doubtObjects does so for those objects that are roots.
func (a *app) doubtObjects(objects ...[]byte) {
	for _, o := range objects {
		if r, err := admit.ParseRoots(o); err == nil {
			a.doubtRoots(r)
		}
	}
}

// rootsTime is how long the roots of a domain are asked for: what is shown beside them does not wait
// longer for it.
const rootsTime = 3 * time.Second

// doubtsOf returns what is to be said of the roots by which a domain judges, by role.
func doubtsOf(ctx context.Context, cl *client.Client) (out []string) {
	ctx, cancel := context.WithTimeout(ctx, rootsTime)
	defer cancel()
	for _, role := range []string{admit.RoleHost, admit.RoleNode} {
		r, ok, err := rootsOf(ctx, cl, role)
		switch {
		case err != nil:
			return append(out, fmt.Sprintf("by which roots TPMs are trusted could not be seen: %v", err))
		case ok && len(r.Test) > 0:
			out = append(out, fmt.Sprintf("terms for %s accept software TPMs (test roots), at the level test", role))
		}
		for _, d := range r.Doubts(time.Now()) {
			out = append(out, fmt.Sprintf("terms for %s: %s", role, d))
		}
	}
	return out
}

// rootsOf returns the endorsement roots in the terms of a role; false if it has none.
func rootsOf(ctx context.Context, cl *client.Client, role string) (r tpm2.Roots, ok bool, err error) {
	text, _, err := termsInForce(ctx, cl, role)
	if errors.Is(err, keystead.ReasonTermsMissing) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	t, err := admit.ParseTerms(text)
	if err != nil {
		return r, false, err
	}
	b, err := cl.GetObject(ctx, t.Roots)
	if err != nil {
		return r, false, err
	}
	r, err = admit.ParseRoots(b)
	return r, err == nil, err
}

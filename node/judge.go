package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
	"github.com/keystead/keystead/refval/rpm"
)

// statementJudges judge what members sign.
func statementJudges() map[string]Judge {
	plain := func(judge func(admit.State, admit.Case, []byte) (admit.Ruling, error)) Judge {
		return func(_ context.Context, h *Hearing, out *ledger.Verdict) error {
			return h.Read(func(v ledger.View) error { return adopt(out)(judge(v, h.statement(), h.Proposal.Content)) })
		}
	}
	return map[string]Judge{
		admit.TypeSetting:   plain(admit.JudgeSetting),
		admit.TypeEnrolment: plain(admit.JudgeEnrolment),
		admit.TypeDenial:    plain(admit.JudgeDenial),
		admit.TypeTerms:     judgeTerms,
		admit.TypeObject:    judgeObject,
	}
}

// statement is the case of a proposal whose content is a statement.
func (h *Hearing) statement() admit.Case {
	return admit.Case{Domain: h.Domain, Subject: h.Proposal.Subject, Base: h.Proposal.Base, Roster: h.Roster}
}

// adopt puts a ruling into a verdict.
func adopt(out *ledger.Verdict) func(admit.Ruling, error) error {
	return func(r admit.Ruling, err error) error {
		if err != nil {
			return err
		}
		out.Content = r.Content
		for _, w := range r.Writes {
			out.Writes = append(out.Writes, ledger.Write(w))
		}
		return nil
	}
}

// at gives objects to a room that asks for them by digest.
func (h *Hearing) at(ctx context.Context) admit.Objects {
	return func(d keystead.Digest) ([]byte, error) { return h.Object(ctx, d) }
}

// judgeTerms endorses terms whose objects are endorsed or founding, and here. Objects
// come before the state is read: another node may have to hand them over.
func judgeTerms(ctx context.Context, h *Hearing, out *ledger.Verdict) error {
	t, err := admit.OpenTerms(h.Proposal.Content, h.statement())
	if err != nil {
		return err
	}
	here := map[keystead.Digest][]byte{}
	founding := map[string]string{}
	err = h.Read(func(v ledger.View) (err error) {
		for _, role := range []string{admit.RoleHost, admit.RoleNode} {
			if founding[role], err = v.Founding(admit.FoundingSetting(role)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range t.Collateral { // which terms join
		if here[d], err = h.ObjectOf(ctx, d, admit.ObjectCollateral); err != nil && !errors.Is(err, keystead.ReasonObjectMissing) {
			return err
		}
	}
	for _, hex := range founding {
		if hex == "" {
			continue
		}
		d, err := keystead.ParseDigest("sha256:" + hex)
		if err != nil {
			return err
		}
		if here[d], err = h.ObjectOf(ctx, d, admit.ObjectCodeSet); err != nil { // terms: a note
			return err
		}
	}
	var ruling admit.Ruling
	err = h.Read(func(v ledger.View) (err error) {
		ruling, err = admit.JudgeTerms(v, h.statement(), h.Proposal.Content, func(d keystead.Digest) ([]byte, error) { return here[d], nil })
		return err
	})
	if err != nil {
		return err
	}
	for _, o := range t.Objects() { // endorsed, but perhaps not here yet
		if _, err := h.ObjectOf(ctx, o.Digest, o.Kind); err != nil {
			return err
		}
	}
	return adopt(out)(ruling, nil)
}

// judgeObject endorses an object that is here and is what its statement says. A
// reference set it builds again.
func judgeObject(ctx context.Context, h *Hearing, out *ledger.Verdict) error {
	o, err := admit.OpenObject(h.Proposal.Content, h.statement())
	if err != nil {
		return err
	}
	content, err := h.ObjectOf(ctx, o.Digest, o.Kind)
	if err != nil {
		return err
	}
	var rebuilt keystead.Digest
	if o.Kind == admit.ObjectReferences {
		if rebuilt, err = rebuild(ctx, h, &o); err != nil {
			return err
		}
	}
	return h.Read(func(v ledger.View) error {
		return adopt(out)(admit.JudgeObject(v, h.statement(), h.Proposal.Content, content, rebuilt))
	})
}

// recipeAhead is how far a recipe may be ahead of the domain clock, which is behind its
// nodes' by design, and whose members' clocks may be ahead of theirs: a set that was
// built a moment ago is not of the future.
const recipeAhead = time.Minute

// rebuild builds the reference set of a statement's recipe, which is not of the future.
func rebuild(ctx context.Context, h *Hearing, o *admit.Object) (keystead.Digest, error) {
	if len(o.Recipe) != 1 || o.Recipe[0].Role != admit.IngredientRecipe {
		return keystead.Digest{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMismatch, Where: "reference set " + o.Digest.String(),
			Want: "one recipe", Got: fmt.Sprintf("%d ingredients that are none", len(o.Recipe))})
	}
	text, err := h.objects(ctx, o.Recipe[0].Digest, deb.MaxRecipe)
	if err != nil {
		return keystead.Digest{}, err
	}
	at, build, err := parseRecipe(text)
	if err != nil {
		return keystead.Digest{}, err
	}
	var clock uint64
	if err := h.Read(func(v ledger.View) (err error) { clock, err = v.Clock(); return err }); err != nil {
		return keystead.Digest{}, err
	}
	if now := time.UnixMilli(int64(clock)).Add(recipeAhead); at.After(now) {
		return keystead.Digest{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexFuture, Where: "recipe", Want: "a time of judgement by " + now.UTC().Format(time.RFC3339), Got: at.Format(time.RFC3339)})
	}
	set, err := build(h.at(ctx))
	if err != nil {
		return keystead.Digest{}, err
	}
	return set.Digest(), nil
}

// parseRecipe reads a recipe of either format: its time, and what builds its set.
func parseRecipe(text []byte) (at time.Time, build func(get func(keystead.Digest) ([]byte, error)) (*refval.Set, error), err error) {
	if bytes.HasPrefix(text, []byte(rpm.RecipeMagic+"\n")) {
		r, err := rpm.ParseRecipe(text)
		if err != nil {
			return time.Time{}, nil, err
		}
		return r.At, r.Rebuild, nil
	}
	r, err := deb.ParseRecipe(text)
	if err != nil {
		return time.Time{}, nil, err
	}
	return r.At, func(get func(keystead.Digest) ([]byte, error)) (*refval.Set, error) { return deb.Rebuild(r, get) }, nil
}

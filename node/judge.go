package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
	"github.com/keystead/keystead/refval/rpm"
)

// statementJudges judge what members sign. Readers are those of the kinds of objects that systems
// read.
func (m *muster) statementJudges(readers func() map[string]admit.Reader) []part.JudgedType {
	plain := func(judge func(admit.State, admit.Case, []byte) (admit.Ruling, error)) part.Judge {
		return func(_ context.Context, h *part.Hearing, out *ledger.Verdict) error {
			return h.Read(func(v ledger.View) error { return adopt(out)(judge(v, statementOf(h), h.Proposal.Content)) })
		}
	}
	return []part.JudgedType{
		{Type: admit.TypeSetting, Statement: key.KindSetting, Judge: plain(admit.JudgeSetting)},
		{Type: admit.TypeEnrolment, Statement: key.KindEnrolment, Judge: plain(admit.JudgeEnrolment)},
		{Type: admit.TypeDenial, Statement: key.KindDenial, Judge: m.judgeDenial},
		{Type: admit.TypeTerms, Statement: key.KindTerms, Judge: m.judgeTerms},
		{Type: admit.TypeObject, Statement: key.KindObject, Judge: judgeObject(readers)},
	}
}

// statementOf is the case of a proposal whose content is a statement.
func statementOf(h *part.Hearing) admit.Case {
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

// objectsAt gives objects to a room that asks for them by digest.
func objectsAt(ctx context.Context, h *part.Hearing) admit.Objects {
	return func(d keystead.Digest) ([]byte, error) { return h.Object(ctx, d, "") }
}

// judgeDenial endorses a denial that leaves the nodes that are needed.
func (m *muster) judgeDenial(ctx context.Context, h *part.Hearing, out *ledger.Verdict) error {
	d, err := admit.OpenDenial(h.Proposal.Content, statementOf(h))
	if err != nil {
		return err
	}
	err = h.Read(func(v ledger.View) error {
		return adopt(out)(admit.JudgeDenial(v, statementOf(h), h.Proposal.Content))
	})
	if err != nil || d.Lifted || !d.OfHardware() {
		return err
	}
	return m.spare(ctx, out.Proposal, h.Roster, change{where: "denial of " + d.Subject, most: d.MayExclude, denied: d.Subject})
}

// judgeTerms endorses terms whose objects are endorsed or founding, and here, and of terms for nodes
// those that leave the nodes that are needed. Objects come before the state is read: another node may have to hand them over.
func (m *muster) judgeTerms(ctx context.Context, h *part.Hearing, out *ledger.Verdict) error {
	t, err := admit.OpenTerms(h.Proposal.Content, statementOf(h))
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
		if here[d], err = h.Object(ctx, d, admit.ObjectCollateral); err != nil && !errors.Is(err, keystead.ReasonObjectMissing) {
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
		if here[d], err = h.Object(ctx, d, admit.ObjectCodeSet); err != nil { // terms: a note
			return err
		}
	}
	var ruling admit.Ruling
	err = h.Read(func(v ledger.View) (err error) {
		ruling, err = admit.JudgeTerms(v, statementOf(h), h.Proposal.Content, func(d keystead.Digest) ([]byte, error) { return here[d], nil })
		return err
	})
	if err != nil {
		return err
	}
	for _, o := range t.Objects() { // endorsed, but perhaps not here yet
		if _, err := h.Object(ctx, o.Digest, o.Kind); err != nil {
			return err
		}
	}
	if t.Role == admit.RoleNode {
		if err := m.spareTerms(ctx, out.Proposal, h.Roster, &t, ruling); err != nil {
			return err
		}
	}
	return adopt(out)(ruling, nil)
}

// spareTerms opens terms for nodes as they would be in force, and judges the nodes by them.
func (m *muster) spareTerms(ctx context.Context, proposal keystead.Digest, roster *receipt.Roster, t *admit.Terms, ruling admit.Ruling) error {
	if m.own == nil || len(ruling.Writes) != 1 {
		return nil
	}
	text := ruling.Writes[0].Value
	rules, err := admit.InForce{Role: t.Role, Digest: keystead.Sum(text), Text: text}.Open(m.termsObjects(ctx, text))
	if err != nil {
		return err
	}
	return m.spare(ctx, proposal, roster, change{where: "terms for " + t.Role, most: t.MayExclude, rules: rules})
}

// judgeObject endorses an object that is here and is what its statement says. A
// reference set it builds again.
func judgeObject(readers func() map[string]admit.Reader) part.Judge {
	return func(ctx context.Context, h *part.Hearing, out *ledger.Verdict) error {
		o, err := admit.OpenObject(h.Proposal.Content, statementOf(h))
		if err != nil {
			return err
		}
		content, err := h.Object(ctx, o.Digest, o.Kind)
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
			return adopt(out)(admit.JudgeObject(v, statementOf(h), h.Proposal.Content, content, rebuilt, readers()))
		})
	}
}

// recipeAhead is how far a recipe may be ahead of the domain clock, which is behind its
// nodes' by design, and whose members' clocks may be ahead of theirs: a set that was
// built a moment ago is not of the future.
const recipeAhead = time.Minute

// rebuild builds the reference set of a statement's recipe, which is not of the future.
func rebuild(ctx context.Context, h *part.Hearing, o *admit.Object) (keystead.Digest, error) {
	if len(o.Recipe) != 1 || o.Recipe[0].Role != admit.IngredientRecipe {
		return keystead.Digest{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMismatch, Where: "reference set " + o.Digest.String(),
			Want: "one recipe", Got: fmt.Sprintf("%d ingredients that are none", len(o.Recipe))})
	}
	text, err := h.Object(ctx, o.Recipe[0].Digest, admit.IngredientRecipe)
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
	set, err := build(objectsAt(ctx, h))
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

package part

import (
	"context"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// A JudgedType is a type of proposal that nodes judge.
type JudgedType struct {
	Type string
	// Statement is the kind of note that members sign to propose it: a majority of them as
	// the roster says, before the log has it. 0: nodes alone propose it.
	Statement key.Kind
	Newer     []key.Kind // versions of that kind which the judge takes as well
	Judge     Judge
}

// Open opens a proposal's statement, of whichever version (key.Open).
func (t *JudgedType) Open(signed []byte, members ...key.MemberPublic) (by []key.MemberPublic, err error) {
	_, by, err = key.Open(signed, key.OneOf(signed, append([]key.Kind{t.Statement}, t.Newer...)...), members...)
	return by, err
}

// A Judge appraises a proposal: it fills in the verdict's content and writes, or
// refuses. What it concludes follows from the view, the roster, the proposal and the
// objects that the proposal names, so that all nodes of a build come to the same
// verdict; it runs outside of Apply, and several at a time.
type Judge func(ctx context.Context, h *Hearing, out *ledger.Verdict) error

// A Hearing is what a judge is given.
type Hearing struct {
	Roster   *receipt.Roster
	Domain   keystead.Digest
	Proposal *ledger.Proposal

	// Read calls read with the state of one moment, not before the proposal. It must not
	// wait for others in there.
	Read func(read func(ledger.View) error) error
	// Object returns an object of a kind by its digest, from another node if it is not
	// here. Of kind "" it may be as long as any.
	Object func(ctx context.Context, d keystead.Digest, kind string) ([]byte, error)
}

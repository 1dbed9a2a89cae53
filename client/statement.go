package client

import (
	"bytes"
	"strings"

	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
)

// Propose returns the proposal, to be handed in, of a statement that members
// signed. Whether enough did, and whether it holds, is for the nodes to judge.
func Propose(signed []byte) (ledger.Proposal, error) {
	text, _, err := key.Peek(signed)
	if err != nil {
		return ledger.Proposal{}, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	lines := text
	if i := bytes.Index(text, []byte("\npolicy\n")); i >= 0 { // and a policy, which has lines of its own
		lines = text[:i+1]
	}
	s, err := admit.ParseStatement(key.Kind(first), lines)
	if err != nil {
		return ledger.Proposal{}, err
	}
	kind, _, _ := strings.Cut(strings.TrimPrefix(first, "keystead-"), "/")
	return ledger.Proposal{ID: [16]byte(NewRequestID()), Type: kind, Subject: s.Subject, Base: s.Base, Content: signed}, nil
}

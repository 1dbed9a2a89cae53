package attest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// TestTurns: evidence waits for its turn if the TPM signed it for this question. Who only
// knows a TPM's keys takes none of its turns, and is refused all the same.
func TestTurns(t *testing.T) {
	s := onStage(t)
	bob, alice := s.config(s.bob, s.alice), s.config(s.alice, s.bob)
	var taken, ended atomic.Int32
	full := keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "judgement", Want: "a turn", Got: "none"})
	var refusal error
	knowing := s.knowing(s.alice)
	bob.Verifier = NewAppraiser(func(ctx context.Context, id keystead.Digest) (Terms, error) {
		terms, err := knowing(ctx, id)
		terms.Turn = func(context.Context) (func(), error) {
			taken.Add(1)
			return func() { ended.Add(1) }, refusal
		}
		return terms, err
	})
	if c, d := meet(t, alice, bob); c.err != nil || d.err != nil || taken.Load() != 1 || ended.Load() != 1 {
		t.Fatalf("client %v; server %v; %d turns taken, %d ended", c.err, d.err, taken.Load(), ended.Load())
	}
	mallory := s.config(s.carol, s.bob)
	liar := s.alice.as()
	for what, sign := range map[string]func(evidence.Binding) (evidence.Bundle, error){
		"a signature that is another's": func(b evidence.Binding) (evidence.Bundle, error) {
			own, _, err := s.carol.prover.Prove(ctx, b, nil)
			if err != nil {
				return own, err
			}
			p := own.Parts()
			p.TPM.AKPublic = s.alice.keys.AKPublic
			return evidence.New(p)
		},
		"evidence for another question": func(b evidence.Binding) (evidence.Bundle, error) {
			kept, _, err := s.alice.prover.Prove(ctx, evidence.Binding{Purpose: b.Purpose, Nonce: make([]byte, 32), SubjectKey: b.SubjectKey}, nil)
			if err != nil {
				return kept, err
			}
			p := kept.Parts()
			p.Binding = b
			return evidence.New(p)
		},
	} {
		liar.prove = func(b evidence.Binding, _ *evidence.Credential) (evidence.Bundle, []byte, error) {
			bundle, err := sign(b)
			return bundle, nil, err
		}
		mallory.Prover = liar
		if _, d := meet(t, mallory, bob); d.err == nil || taken.Load() != 1 {
			t.Errorf("%s: %v, took a turn of the TPM's: %t", what, d.err, taken.Load() != 1)
		}
	}
	refusal = full
	_, d := meet(t, alice, bob)
	demand(t, "no turn", d.err, keystead.ReasonOverloaded)
}

package attest

import (
	"bytes"
	"context"
	"crypto/x509"
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

// TestRoom: memory for evidence is asked for by its size and the TLS key alone, before it
// is read; who has none is told, and it is given back however the connection ends.
func TestRoom(t *testing.T) {
	s := onStage(t)
	bob, alice := s.config(s.bob, s.alice), s.config(s.alice, s.bob)
	var asked, left atomic.Int32
	var refusal error
	leaf, err := x509.ParseCertificate(s.alice.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	bob.Room = func(key []byte, size int) (func(), error) {
		if !bytes.Equal(key, leaf.RawSubjectPublicKeyInfo) || size < 1000 {
			t.Errorf("asked for %d bytes for the key %x", size, key)
		}
		asked.Add(1)
		if refusal != nil {
			return nil, refusal
		}
		return func() { left.Add(1) }, nil
	}
	if c, d := meet(t, alice, bob); c.err != nil || d.err != nil || asked.Load() != 1 || left.Load() != 1 {
		t.Errorf("client %v; server %v; asked %d times, left %d", c.err, d.err, asked.Load(), left.Load())
	}
	liar := s.alice.as()
	liar.prove = func(b evidence.Binding, c *evidence.Credential) (evidence.Bundle, []byte, error) {
		b.Nonce = make([]byte, 32)
		return s.alice.prover.Prove(ctx, b, c)
	}
	alice.Prover = liar
	if _, d := meet(t, alice, bob); d.err == nil || asked.Load() != 2 || left.Load() != 2 {
		t.Errorf("refused evidence: %v; asked %d times, left %d", d.err, asked.Load(), left.Load())
	}
	refusal = keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "connection", Want: "less", Got: "more"})
	c, d := meet(t, alice, bob)
	demand(t, "no room: server", d.err, keystead.ReasonOverloaded)
	demand(t, "no room: client", c.err, keystead.ReasonOverloaded)
	if !isTold(c.err) || left.Load() != 2 {
		t.Errorf("the client is told %v; left %d times", c.err, left.Load())
	}
}

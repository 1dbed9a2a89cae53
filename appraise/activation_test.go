package appraise_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

// TestChallenge: what no activation would make good is refused before one is made,
// and only the secret is an answer.
func TestChallenge(t *testing.T) {
	s := onStage(t)
	roots := tpm2.Roots{Test: []*x509.Certificate{s.ca.Root}}
	good := evidence.TPMKeys{AKPublic: s.taken["packaged"].AKPublic, EKPublic: s.key.EKPublic, EKCertificate: s.key.EKCertificate}
	for _, tc := range []struct {
		what  string
		edit  func(*evidence.TPMKeys)
		roots tpm2.Roots
		want  keystead.Reason
	}{
		{"an unrestricted key", func(k *evidence.TPMKeys) { k.AKPublic = s.unrestrictedKey }, roots, keystead.ReasonKeyUnsuitable},
		{"the endorsement key for attestation", func(k *evidence.TPMKeys) { k.AKPublic = k.EKPublic }, roots, keystead.ReasonKeyUnsuitable},
		{"the attestation key for endorsement", func(k *evidence.TPMKeys) { k.EKPublic = k.AKPublic }, roots, keystead.ReasonEKMismatch},
		{"no certificate", func(k *evidence.TPMKeys) { k.EKCertificate = nil }, roots, keystead.ReasonEKUntrusted},
		{"a root that is not configured", func(*evidence.TPMKeys) {}, tpm2.Roots{}, keystead.ReasonEKUntrusted},
	} {
		keys := good
		tc.edit(&keys)
		if a, err := appraise.Challenge(rand.Reader, keys, tc.roots, time.Now()); a != nil || !errors.Is(err, tc.want) {
			t.Errorf("%s: want %s and no challenge, got %v, %v", tc.what, tc.want, a, err)
		}
	}
	var format *keystead.FormatError
	if _, err := appraise.Challenge(rand.Reader, evidence.TPMKeys{}, roots, time.Now()); !errors.As(err, &format) {
		t.Errorf("no keys: want a FormatError, got %v", err)
	}
	if _, err := appraise.Challenge(bytes.NewReader(nil), good, roots, time.Now()); err == nil {
		t.Error("without randomness there must be no challenge")
	}
	a, err := appraise.Challenge(rand.Reader, good, roots, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for what, answer := range map[string][]byte{"none": nil, "another": make([]byte, len(a.Secret)), "half": a.Secret[:16]} {
		if k, err := a.Accept(answer, time.Now()); !k.IsZero() || !errors.Is(err, keystead.ReasonCredentialInvalid) {
			t.Errorf("answer %s: want credential-invalid and no key, got %+v, %v", what, k, err)
		}
	}
	if k, err := new(appraise.Activation).Accept(nil, time.Now()); !k.IsZero() || !errors.Is(err, keystead.ReasonCredentialInvalid) {
		t.Errorf("no challenge: want credential-invalid and no key, got %+v, %v", k, err)
	}
}

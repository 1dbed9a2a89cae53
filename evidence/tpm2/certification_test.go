package tpm2_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/key"
)

var bound = evidence.Binding{Purpose: evidence.PurposeNodeKey, Nonce: []byte("nonce"), SubjectKey: []byte("a node's key")}

// TestCertificationRefused tries each part of a certification in the place of another.
func TestCertificationRefused(t *testing.T) {
	honest, other := forger.New(1), forger.New(2)
	good := honest.Certify(bound)
	if _, err := good.Verify(honest.AK(), bound); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		ak    key.AKDigest
		cert  *tpm2.Certification
		alter func(*evidence.Binding)
		want  keystead.Reason
	}{
		{"another TPM", honest.AK(), other.Certify(bound), nil, keystead.ReasonKeyForeign},
		{"no key pinned", key.AKDigest{}, good, nil, keystead.ReasonKeyForeign},
		{"no key pinned, none shown", key.AKDigest{}, &tpm2.Certification{}, nil, keystead.ReasonKeyForeign},
		{"an unrestricted key", forger.Unrestricted(1).AK(), forger.Unrestricted(1).Certify(bound), nil, keystead.ReasonKeyUnsuitable},
		{"another's quote under the key", honest.AK(), &tpm2.Certification{AKPublic: good.AKPublic, Attest: other.Certify(bound).Attest, Signature: other.Certify(bound).Signature}, nil, keystead.ReasonSignatureInvalid},
		{"another purpose", honest.AK(), good, func(b *evidence.Binding) { b.Purpose = evidence.PurposeVerify }, keystead.ReasonNonceMismatch},
		{"another nonce", honest.AK(), good, func(b *evidence.Binding) { b.Nonce = []byte("once") }, keystead.ReasonNonceMismatch},
		{"another subject key", honest.AK(), good, func(b *evidence.Binding) { b.SubjectKey = []byte("b node's key") }, keystead.ReasonNonceMismatch},
		{"no subject key", honest.AK(), good, func(b *evidence.Binding) { b.SubjectKey = nil }, keystead.ReasonNonceMismatch},
	} {
		b := bound
		if tc.alter != nil {
			tc.alter(&b)
		}
		if q, err := tc.cert.Verify(tc.ak, b); q != nil || !errors.Is(err, tc.want) {
			t.Errorf("%s: want %s, got %v", tc.name, tc.want, err)
		}
	}
}

func FuzzParseCertification(f *testing.F) {
	honest := forger.New(1)
	f.Add(honest.Certify(bound).Bytes())
	f.Add((&tpm2.Certification{}).Bytes())
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := tpm2.ParseCertification(b)
		if err != nil {
			var e *keystead.FormatError
			if !errors.As(err, &e) {
				t.Errorf("%v", err)
			}
			return
		}
		if !bytes.Equal(c.Bytes(), b) || len(b) > tpm2.MaxCertification {
			t.Errorf("two spellings of %x", b)
		}
		if _, err := c.Verify(honest.AK(), bound); err == nil && !bytes.Equal(c.Attest, honest.Certify(bound).Attest) {
			t.Errorf("a forgery holds: %x", b)
		}
	})
}

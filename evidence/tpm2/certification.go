package tpm2

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
)

// A Certification is a TPM's word on something that the TPM does not hold, such as
// a node's key: a quote whose qualifying data binds it (evidence.Binding), with the
// attestation key that made it. Register values are not part of it.
type Certification struct {
	AKPublic  []byte // TPMT_PUBLIC
	Attest    []byte // TPMS_ATTEST
	Signature []byte // TPMT_SIGNATURE
}

// Bounds of a certification, in bytes. An ECC one has some 330.
const (
	certificationVersion = 1
	maxAttest            = 512
	maxSignature         = 600
	MaxCertification     = 1 + 2 + maxPublic + 2 + maxAttest + 2 + maxSignature
)

// Bytes returns the certification as ParseCertification reads it.
func (c *Certification) Bytes() []byte {
	b := []byte{certificationVersion}
	for _, field := range [][]byte{c.AKPublic, c.Attest, c.Signature} {
		b = cursor.AppendSized16(b, field)
	}
	return b
}

// ParseCertification reads a certification: a version byte, 1, and three fields of
// two bytes' length each. It fails with a *keystead.FormatError. The fields alias b.
func ParseCertification(b []byte) (*Certification, error) {
	c := cursor.New("certification", binary.BigEndian, b)
	if v := c.U8("version"); v != certificationVersion {
		c.Fail("version", "is %d, want %d", v, certificationVersion)
	}
	out := &Certification{
		AKPublic:  c.Sized16(maxPublic, "attestation key"),
		Attest:    c.Sized16(maxAttest, "attest"),
		Signature: c.Sized16(maxSignature, "signature"),
	}
	c.End()
	if err := c.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// Verify checks that the certification is by the attestation key ak (key-foreign),
// which is fit to attest (key-unsuitable), by its signature (signature-invalid), and
// over the binding b (nonce-mismatch): of the same purpose, nonce and subject key.
// It returns the quote, whose registers are the caller's to check.
func (c *Certification) Verify(ak key.AKDigest, b evidence.Binding) (*Quote, error) {
	if got := key.DigestAK(c.AKPublic); ak.None() || got != ak {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "certification", Want: "the attestation key " + ak.String(), Got: got.String()})
	}
	public, err := ParsePublic(c.AKPublic)
	if err != nil {
		return nil, err
	}
	q, err := VerifyQuote(public, c.Attest, c.Signature)
	if err != nil {
		return nil, err
	}
	if want := b.QualifyingData(); !bytes.Equal(q.ExtraData, want) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "certification",
			Want: "qualifying data " + hex.EncodeToString(want) + ", of purpose " + b.Purpose, Got: hex.EncodeToString(q.ExtraData)})
	}
	return q, nil
}

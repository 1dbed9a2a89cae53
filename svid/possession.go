package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// possessionContext opens what the key of an SVID signs. No context of the house begins with
// another.
const possessionContext = "keystead/svid-possession/1\x00"

// Bounds of what a host sends, in bytes.
const (
	maxKey   = 256 // PKIX DER
	maxProof = 72  // ECDSA on P-256, DER
)

// possession is the digest of what a key signs: for one domain, one host and one lease.
func possession(domain keystead.Digest, host string, lease uint64, public []byte) []byte {
	b := append([]byte(possessionContext), domain[:]...)
	b = cursor.AppendSized16(b, host)
	b = binary.BigEndian.AppendUint64(b, lease)
	d := sha256.Sum256(cursor.AppendSized16(b, public))
	return d[:]
}

// Prove returns the public half of a key of ECDSA on P-256 (PKIX DER), and the proof that the host
// with that lease has the key.
func Prove(random io.Reader, k *ecdsa.PrivateKey, domain keystead.Digest, host string, lease uint64) (public, proof []byte, err error) {
	if public, err = x509.MarshalPKIXPublicKey(k.Public()); err != nil {
		return nil, nil, err
	}
	proof, err = k.Sign(random, possession(domain, host, lease, public), crypto.SHA256)
	return public, proof, err
}

// OpenKey returns the key (PKIX DER) that a host shows to have. It refuses one that is none of ECDSA
// on P-256 (malformed), and one without proof (signature-invalid).
func OpenKey(public, proof []byte, domain keystead.Digest, host string, lease uint64) (crypto.PublicKey, error) {
	deny := func(reason keystead.Reason, want, got string) (crypto.PublicKey, error) {
		return nil, keystead.Deny(keystead.Finding{Reason: reason, Where: "key of an SVID", Want: want, Got: got})
	}
	if len(public) > maxKey || len(proof) > maxProof {
		return deny(keystead.ReasonMalformed, "a key and its signature", fmt.Sprintf("%d and %d bytes", len(public), len(proof)))
	}
	parsed, err := x509.ParsePKIXPublicKey(public)
	k, ok := parsed.(*ecdsa.PublicKey)
	switch {
	case err != nil:
		return deny(keystead.ReasonMalformed, "a public key (PKIX DER)", err.Error())
	case !ok || k.Curve != elliptic.P256():
		return deny(keystead.ReasonMalformed, "a key of ECDSA on P-256", fmt.Sprintf("a %T", parsed))
	case !ecdsa.VerifyASN1(k, possession(domain, host, lease, public), proof):
		return deny(keystead.ReasonSignatureInvalid, "proof that the host has the key", "another signature")
	}
	return k, nil
}

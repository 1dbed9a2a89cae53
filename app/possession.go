package app

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hpke"
	"fmt"
	"io"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// An Algorithm is what a key of a statement is for, and its form.
type Algorithm string

// The algorithms that this build knows.
const (
	AlgorithmX25519   Algorithm = "x25519"          // 32 bytes; sealed to (HPKE)
	AlgorithmMLKEM768 Algorithm = "mlkem768-x25519" // 1,216 bytes; sealed to (HPKE)
	AlgorithmEd25519  Algorithm = "ed25519"         // 32 bytes; signs
	AlgorithmP256     Algorithm = "ecdsa-p256"      // 65 bytes, uncompressed; signs, DER with low s
	possessionContext           = "keystead/application-possession/1\x00"
	statementContext            = "keystead/application-statement/1\x00"
)

// Possession returns what a signing key of the application signs, so that the statement
// can say that the application has it: for one challenge, one use and one program.
// Ed25519 signs the bytes, ECDSA their SHA-256.
func (s *Statement) Possession(a Algorithm, public []byte) []byte {
	b := append([]byte(possessionContext), s.Domain[:]...)
	b = append(b, s.Challenge[:]...)
	b = cursor.AppendSized16(b, string(s.Use))
	b = append(b, s.Program.File[:]...)
	b = cursor.AppendSized16(b, string(a))
	return cursor.AppendSized16(b, public)
}

// checkKey refuses a key that is none (malformed) or whose possession is not shown
// (signature-invalid).
func (s *Statement) checkKey(k Key) error {
	message := s.Possession(k.Algorithm, k.Public)
	shown := len(k.Proof) == 0
	var err error
	switch k.Algorithm {
	case AlgorithmX25519:
		_, err = hpke.DHKEM(ecdh.X25519()).NewPublicKey(k.Public)
	case AlgorithmMLKEM768:
		_, err = hpke.MLKEM768X25519().NewPublicKey(k.Public)
	case AlgorithmEd25519:
		if len(k.Public) != ed25519.PublicKeySize {
			err = fmt.Errorf("%d bytes", len(k.Public))
			break
		}
		shown = ed25519.Verify(k.Public, message, k.Proof)
	case AlgorithmP256:
		var public *ecdsa.PublicKey
		if public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Public); err == nil {
			shown = verifyLow(public, signed("", message), k.Proof)
		}
	default:
		err = fmt.Errorf("an algorithm that this build does not know")
	}
	switch {
	case err != nil:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "application's key", Want: "a key of " + string(k.Algorithm), Got: err.Error()})
	case !shown:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "application's key", Want: "proof that the application has its key of " + string(k.Algorithm), Got: "another signature"})
	}
	return nil
}

// ProveP256 returns the proof of a key of ECDSA on P-256.
func (s *Statement) ProveP256(random io.Reader, key *ecdsa.PrivateKey) (Key, error) {
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return Key{}, err
	}
	proof, err := signLow(random, key, signed("", s.Possession(AlgorithmP256, public)))
	return Key{AlgorithmP256, public, proof}, err
}

// ProveEd25519 returns the proof of a key of Ed25519.
func (s *Statement) ProveEd25519(key ed25519.PrivateKey) Key {
	public := slices.Clone(key.Public().(ed25519.PublicKey))
	return Key{AlgorithmEd25519, public, ed25519.Sign(key, s.Possession(AlgorithmEd25519, public))}
}

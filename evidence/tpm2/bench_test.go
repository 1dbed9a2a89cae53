package tpm2

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/keystead/keystead/evidence"
)

// BenchmarkVerifyQuote stands beside the bare verification of the same signature:
// what is added is parsing.
func BenchmarkVerifyQuote(b *testing.B) {
	attest := softAttest(sel(evidence.SHA256, 0xFF, 0xFF, 0xFF))
	signature := softSign(attest)
	ak, err := ParsePublic(softPublic)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ecdsa-p256/quote", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := VerifyQuote(ak, attest, signature); err != nil {
				b.Fatal(err)
			}
		}
	})
	sig, err := parseSignature(signature)
	if err != nil {
		b.Fatal(err)
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig.r), new(big.Int).SetBytes(sig.s)})
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(attest)
	b.Run("ecdsa-p256/bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !ecdsa.VerifyASN1(&softKey.PublicKey, digest[:], der) {
				b.Fatal("signature does not verify")
			}
		}
	})
	benchmarkRSA(b, attest)
}

func benchmarkRSA(b *testing.B, attest []byte) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(attest)
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	ak, err := ParsePublic(softPublic)
	if err != nil {
		b.Fatal(err)
	}
	ak.key, ak.scheme = &key.PublicKey, algRSASSA
	signature := appendSized([]byte{0, algRSASSA, 0, byte(evidence.SHA256)}, sig)
	b.Run("rsassa-2048/quote", func(b *testing.B) {
		for b.Loop() {
			if _, err := VerifyQuote(ak, attest, signature); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rsassa-2048/bare", func(b *testing.B) {
		for b.Loop() {
			if rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], sig) != nil {
				b.Fatal("signature does not verify")
			}
		}
	})
}

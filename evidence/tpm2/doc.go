// Package tpm2 judges what a TPM 2.0 says of itself: keys, quotes, endorsement
// key certificates, and the answer to credential activation.
//
// Everything is parsed by hand from the TPM's own encodings (TPM 2.0 Library,
// Part 2), strictly and within bounds. Nothing here talks to a TPM: that is
// collect's work.
//
// # What is trusted
//
// A quote is worth what its key is worth. [VerifyQuote] therefore accepts keys
// only that a TPM created, can not give away, and uses for nothing but its own
// structures (TPM 2.0 Part 1, "Restricted Signing Key"). That is what the key's
// public area says of it; whether it is so, and in which TPM, is known only once the
// key's name, which commits to the public area, is known from elsewhere. Credential
// activation tells, in three steps: [VerifyEK] ties an endorsement key to a
// manufacturer, [MakeCredential] encrypts a secret so that only the TPM which
// holds that endorsement key and the attestation key can read it, and
// [CheckCredential] compares the answer.
//
// # What comes out
//
// [Quote.CheckPCRs] returns the register values that the quote covers and no
// others; whatever else a host stated is dropped there.
package tpm2

import (
	"crypto"

	"github.com/keystead/keystead/evidence"
)

// Algorithms, by TPM_ALG_ID (Part 2, 6.3). Hash algorithms have the numbers of
// the PCR banks.
const (
	algRSA    = 0x0001
	algAES    = 0x0006
	algNull   = 0x0010
	algRSASSA = 0x0014
	algRSAES  = 0x0015
	algRSAPSS = 0x0016
	algOAEP   = 0x0017
	algECDSA  = 0x0018
	algECDH   = 0x0019
	algECDAA  = 0x001A
	algECC    = 0x0023
	algCFB    = 0x0043

	curveP256 = 0x0003
	curveP384 = 0x0004
)

// maxDigest is the size of the largest digest, SHA-512's, in bytes.
const maxDigest = 64

// alg is a TPM_ALG_ID.
type alg uint16

// hash returns the hash function, or 0 if it is none that is known here.
func (a alg) hash() crypto.Hash { return evidence.Bank(a).Hash() }

// strong reports whether signatures and names over the hash are accepted.
func (a alg) strong() bool { return a.hash() != 0 && evidence.Bank(a) != evidence.SHA1 }

// String returns the name in tpm2-tools' spelling: sha256, rsassa, ….
func (a alg) String() string {
	switch a {
	case algRSA:
		return "rsa"
	case algAES:
		return "aes"
	case algNull:
		return "null"
	case algRSASSA:
		return "rsassa"
	case algRSAES:
		return "rsaes"
	case algRSAPSS:
		return "rsapss"
	case algOAEP:
		return "oaep"
	case algECDSA:
		return "ecdsa"
	case algECDH:
		return "ecdh"
	case algECDAA:
		return "ecdaa"
	case algECC:
		return "ecc"
	case algCFB:
		return "cfb"
	}
	return evidence.Bank(a).String() // a hash, or alg-0x…
}

package tpm2

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// maxScalar is the size of P-384's scalars in bytes.
const maxScalar = 48

// signature is TPMT_SIGNATURE; r and s, or rsa, alias the input.
type signature struct {
	scheme, hash alg
	rsa          []byte
	r, s         []byte
}

func parseSignature(b []byte) (signature, error) {
	c := cursor.New("tpmt-signature", binary.BigEndian, b)
	sig := signature{scheme: alg(c.U16("sigAlg")), hash: alg(c.U16("hash"))}
	switch sig.scheme {
	case algRSASSA, algRSAPSS:
		sig.rsa = c.Sized16(maxRSA/8, "sig")
	case algECDSA:
		sig.r = c.Sized16(maxScalar, "signatureR")
		sig.s = c.Sized16(maxScalar, "signatureS")
	default:
		c.Fail("sigAlg", "is %v, want ecdsa, rsassa or rsapss", sig.scheme)
	}
	c.End()
	return sig, c.Err()
}

// verify checks sig over message under a key that CheckAttestationKey accepted.
func (p *Public) verify(sig signature, message []byte) error {
	if sig.scheme != p.scheme || sig.hash != p.schemeHash {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid,
			Want: fmt.Sprintf("a signature by %v with %v", p.scheme, p.schemeHash),
			Got:  fmt.Sprintf("one by %v with %v", sig.scheme, sig.hash), Where: "quote"})
	}
	h := p.schemeHash.hash().New()
	h.Write(message)
	digest := h.Sum(make([]byte, 0, maxDigest))
	ok := false
	switch key := p.key.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(key, digest, sig.der())
	case *rsa.PublicKey:
		if p.scheme == algRSAPSS {
			// TPMs before revision 1.38 fill the salt to the key's size (Part 1, B.7).
			ok = rsa.VerifyPSS(key, p.schemeHash.hash(), digest, sig.rsa, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
		} else {
			ok = rsa.VerifyPKCS1v15(key, p.schemeHash.hash(), digest, sig.rsa) == nil
		}
	}
	if !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid,
			Want:  "a signature by the attestation key " + hex.EncodeToString(p.name),
			Got:   "one that does not verify over this quote",
			Where: "quote"})
	}
	return nil
}

// der returns r and s as ECDSA-Sig-Value (RFC 3279, 2.2.3). With scalars of at most
// maxScalar bytes, each length fits in one byte.
func (sig signature) der() []byte {
	out := append(make([]byte, 0, 2+2*(3+maxScalar)), 0x30, 0)
	for _, scalar := range [][]byte{sig.r, sig.s} {
		scalar = bytes.TrimLeft(scalar, "\x00")
		pad := 0
		if len(scalar) == 0 || scalar[0]&0x80 != 0 {
			pad = 1 // the integer is not negative, and zero has one byte
		}
		out = append(out, 0x02, byte(pad+len(scalar)))
		out = append(out, make([]byte, pad)...)
		out = append(out, scalar...)
	}
	out[1] = byte(len(out) - 2)
	return out
}

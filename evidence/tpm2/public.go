package tpm2

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// Object attributes (Part 2, 8.3).
const (
	attrFixedTPM            = 1 << 1
	attrFixedParent         = 1 << 4
	attrSensitiveDataOrigin = 1 << 5
	attrRestricted          = 1 << 16
	attrDecrypt             = 1 << 17
	attrSign                = 1 << 18
)

// Bounds of keys, in bits and bytes.
const (
	minRSA    = 2048 // accepted for attestation and endorsement keys
	parseRSA  = 1024 // parsed, to be refused by name
	maxRSA    = 4096
	maxPublic = 1024 // bytes of a TPMT_PUBLIC
)

// Public is the public area of a TPM's key (TPMT_PUBLIC), ECC on P-256 or P-384
// or RSA. It is read by [ParsePublic] only; the zero value is refused everywhere.
type Public struct {
	name       []byte
	nameAlg    alg
	attributes uint32
	symmetric  symmetric // of a storage key
	scheme     alg       // algNull when the key leaves it open
	schemeHash alg
	key        crypto.PublicKey // *ecdsa.PublicKey or *rsa.PublicKey
}

// symmetric is TPMT_SYM_DEF_OBJECT: how a storage key protects what is under it.
type symmetric struct {
	alg, mode alg
	bits      uint16
}

// ParsePublic reads a TPMT_PUBLIC, or a TPM2B_PUBLIC as tpm2-tools writes it. It
// fails with a *keystead.FormatError, also for key types and curves that are not
// known here. Whether the key is fit for a purpose is judged where it is used.
func ParsePublic(b []byte) (*Public, error) {
	// A TPMT_PUBLIC opens with its type, 0x0001 or 0x0023, which is shorter than
	// any key: the two can not be confused.
	if len(b) >= 2 && int(binary.BigEndian.Uint16(b)) == len(b)-2 {
		b = b[2:]
	}
	c := cursor.New("tpm2-public", binary.BigEndian, b)
	if len(b) > maxPublic {
		c.Fail("whole", "is %d bytes long, at most %d are accepted", len(b), maxPublic)
	}
	p := &Public{}
	kind := alg(c.U16("type"))
	if kind != algRSA && kind != algECC {
		c.Fail("type", "is %v, want rsa or ecc", kind)
	}
	p.nameAlg = alg(c.U16("nameAlg"))
	if p.nameAlg.hash() == 0 {
		c.Fail("nameAlg", "is %v, which is no known hash", p.nameAlg)
	}
	p.attributes = c.U32("objectAttributes")
	c.Sized16(maxDigest, "authPolicy")
	p.symmetric.parse(c)
	p.parseScheme(c)
	if kind == algRSA {
		p.key = parseRSAKey(c)
	} else {
		p.key = parseECCKey(c)
	}
	c.End()
	if err := c.Err(); err != nil {
		return nil, err
	}
	h := p.nameAlg.hash().New()
	h.Write(b)
	p.name = h.Sum(binary.BigEndian.AppendUint16(nil, uint16(p.nameAlg)))
	return p, nil
}

func (s *symmetric) parse(c *cursor.Cursor) {
	s.alg = alg(c.U16("symmetric"))
	if s.alg == algNull {
		return
	}
	if s.alg != algAES {
		c.Fail("symmetric", "is %v, want aes or null", s.alg)
	}
	s.bits = c.U16("symmetric keyBits")
	s.mode = alg(c.U16("symmetric mode"))
}

func (p *Public) parseScheme(c *cursor.Cursor) {
	p.scheme = alg(c.U16("scheme"))
	switch p.scheme {
	case algNull, algRSAES:
	case algRSASSA, algRSAPSS, algOAEP, algECDSA, algECDH:
		p.schemeHash = alg(c.U16("scheme hash"))
	default:
		c.Fail("scheme", "is %v, want ecdsa, rsassa or rsapss to sign, or null, rsaes, oaep or ecdh", p.scheme)
	}
}

// parseRSAKey reads keyBits, exponent and modulus.
func parseRSAKey(c *cursor.Cursor) crypto.PublicKey {
	bits := int(c.U16("keyBits"))
	if bits < parseRSA || bits > maxRSA || bits%8 != 0 {
		c.Fail("keyBits", "is %d, want %d to %d", bits, minRSA, maxRSA)
	}
	// Zero stands for 2^16+1 (Part 2, 12.2.3.5).
	if e := c.U32("exponent"); e != 0 && e != 65537 {
		c.Fail("exponent", "is %d, want 65537", e)
	}
	n := c.Sized16(maxRSA/8, "modulus")
	if len(n)*8 != bits || len(n) == 0 || n[0]&0x80 == 0 || n[len(n)-1]&1 == 0 {
		c.Fail("modulus", "is not an odd number of %d bits", bits)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
}

// parseECCKey reads the curve, the key derivation scheme and the point.
func parseECCKey(c *cursor.Cursor) crypto.PublicKey {
	var curve elliptic.Curve
	switch id := c.U16("curveID"); id {
	case curveP256:
		curve = elliptic.P256()
	case curveP384:
		curve = elliptic.P384()
	default:
		c.Fail("curveID", "is 0x%04x, want P-256 (3) or P-384 (4)", id)
		return nil
	}
	if kdf := alg(c.U16("kdf")); kdf != algNull {
		c.U16("kdf hash")
	}
	size := (curve.Params().BitSize + 7) / 8
	x := c.Sized16(size, "x")
	y := c.Sized16(size, "y")
	// Some TPMs drop leading zeros of a coordinate.
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed (SEC 1, 2.3.3)
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		c.Fail("point", "is not on curve %s", curve.Params().Name)
		return nil
	}
	return key
}

// Name returns the key's name: nameAlg and the digest of the public area under it
// (Part 1, 16). The caller must not change it.
func (p *Public) Name() []byte { return p.name }

// Key returns an *ecdsa.PublicKey or *rsa.PublicKey.
func (p *Public) Key() crypto.PublicKey { return p.key }

// Algorithm returns scheme and size: ecdsa-p256, rsassa-2048, rsapss-3072; for
// storage keys and keys that leave the scheme open, ecc-p256 or rsa-2048.
func (p *Public) Algorithm() string {
	switch key := p.key.(type) {
	case *ecdsa.PublicKey:
		family := "ecc"
		if p.scheme == algECDSA {
			family = "ecdsa"
		}
		return fmt.Sprintf("%s-p%d", family, key.Curve.Params().BitSize)
	case *rsa.PublicKey:
		family := "rsa"
		if p.scheme == algRSASSA || p.scheme == algRSAPSS {
			family = p.scheme.String()
		}
		return fmt.Sprintf("%s-%d", family, key.N.BitLen())
	}
	return "none"
}

// attestation are the attributes of a key whose signatures speak for its TPM.
var attestation = []struct {
	bit  uint32
	set  bool
	name string
	why  string
}{
	{attrRestricted, true, "restricted", "a key that signs only what its TPM made"},
	{attrSign, true, "sign", "a signing key"},
	{attrDecrypt, false, "decrypt", "a key that signs and does nothing else"},
	{attrFixedTPM, true, "fixedTPM", "a key that can not leave its TPM"},
	{attrFixedParent, true, "fixedParent", "a key that can not be moved to another parent"},
	{attrSensitiveDataOrigin, true, "sensitiveDataOrigin", "a key that its TPM generated"},
}

// CheckAttestationKey refuses keys whose quotes would prove nothing, with one
// key-unsuitable finding for each attribute and algorithm at fault.
func (p *Public) CheckAttestationKey() error {
	if p == nil || p.key == nil {
		return keystead.Deny(unsuitable("an attestation key", "none"))
	}
	var findings []keystead.Finding
	for _, a := range attestation {
		switch has := p.attributes&a.bit != 0; {
		case has && !a.set:
			findings = append(findings, unsuitable(a.why, a.name))
		case !has && a.set:
			findings = append(findings, unsuitable(a.why, "not "+a.name))
		}
	}
	if !p.signs() {
		findings = append(findings, unsuitable("scheme ecdsa, rsassa or rsapss", "scheme "+p.scheme.String()))
	} else if !p.schemeHash.strong() {
		findings = append(findings, unsuitable("a scheme over sha256, sha384 or sha512", "a scheme over "+p.schemeHash.String()))
	}
	if !p.nameAlg.strong() {
		findings = append(findings, unsuitable("a name by sha256, sha384 or sha512", "a name by "+p.nameAlg.String()))
	}
	if key, ok := p.key.(*rsa.PublicKey); ok && key.N.BitLen() < minRSA {
		findings = append(findings, unsuitable(fmt.Sprintf("RSA of at least %d bits", minRSA), fmt.Sprintf("%d bits", key.N.BitLen())))
	}
	if findings == nil {
		return nil
	}
	return keystead.Deny(findings...)
}

func unsuitable(want, got string) keystead.Finding {
	return keystead.Finding{Reason: keystead.ReasonKeyUnsuitable, Want: want, Got: got, Where: "attestation key"}
}

// signs reports whether the key's own scheme is a signature scheme of its type.
func (p *Public) signs() bool {
	if _, ok := p.key.(*ecdsa.PublicKey); ok {
		return p.scheme == algECDSA
	}
	return p.scheme == algRSASSA || p.scheme == algRSAPSS
}

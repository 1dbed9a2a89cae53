// Package nitro reads and verifies attestation documents of AWS Nitro Enclaves: a
// COSE_Sign1 (RFC 9052) by a key that the Nitro Secure Module made for one enclave,
// certified up to AWS's root.
//
// Documents carry their whole chain, whose leaf is good for three hours; there is no
// collateral but the pinned root. AWS publishes no revocation list that a verifier of
// documents is to check.
package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/endorse"
)

// Bounds of a document (AWS, "Verifying the root of trust", section 3.2.3).
const (
	maxDocument = 16 << 10 // bytes
	maxPCRs     = 32
	maxText     = 512 // bytes of user_data and of nonce
	maxKey      = 1024
)

// Document is an attestation document.
type Document struct {
	ModuleID    string         `cbor:"module_id"`
	Timestamp   uint64         `cbor:"timestamp"` // milliseconds since 1970, by the module's clock
	Digest      string         `cbor:"digest"`
	PCRs        map[int][]byte `cbor:"pcrs"`
	Certificate []byte         `cbor:"certificate"`
	CABundle    [][]byte       `cbor:"cabundle"` // root first
	PublicKey   []byte         `cbor:"public_key"`
	UserData    []byte         `cbor:"user_data"`
	Nonce       []byte         `cbor:"nonce"`

	protected, payload, signature []byte
}

// message is COSE_Sign1 (RFC 9052, 4.2), without a tag.
type message struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int]cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

// header is the protected header: the algorithm alone.
type header struct {
	Algorithm int `cbor:"1,keyasint"`
}

const es384 = -35 // RFC 9053, 2.1

// Modules write the payload as a map of definite or, newer ones, of indefinite length.
var (
	decoder        = decoding(cbor.IndefLengthForbidden)
	payloadDecoder = decoding(cbor.IndefLengthAllowed)
)

func decoding(indefinite cbor.IndefLengthMode) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       indefinite,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       maxPCRs,
	}.DecMode()
	if err != nil {
		panic(err) // constant options
	}
	return m
}

// Parse reads a document. It fails with a *keystead.FormatError.
func Parse(raw []byte) (*Document, error) {
	fail := func(field string, err error) (*Document, error) {
		return nil, &keystead.FormatError{Format: "nitro-document", Field: field, Problem: err.Error()}
	}
	if len(raw) > maxDocument {
		return fail("whole", fmt.Errorf("is %d bytes long, at most %d are accepted", len(raw), maxDocument))
	}
	var m message
	var h header
	d := &Document{}
	if err := decoder.Unmarshal(raw, &m); err != nil {
		return fail("COSE_Sign1", err)
	}
	if err := decoder.Unmarshal(m.Protected, &h); err != nil {
		return fail("protected header", err)
	}
	switch {
	case h.Algorithm != es384:
		return fail("protected header", fmt.Errorf("algorithm is %d, want %d (ES384)", h.Algorithm, es384))
	case len(m.Unprotected) > 0:
		return fail("unprotected header", errors.New("is not empty"))
	case len(m.Signature) != 96:
		return fail("signature", fmt.Errorf("is %d bytes long, want 96", len(m.Signature)))
	}
	if err := payloadDecoder.Unmarshal(m.Payload, d); err != nil {
		return fail("payload", err)
	}
	d.protected, d.payload, d.signature = m.Protected, m.Payload, m.Signature
	return d, d.check()
}

func (d *Document) check() error {
	fail := func(field, problem string, args ...any) error {
		return &keystead.FormatError{Format: "nitro-document", Field: field, Problem: fmt.Sprintf(problem, args...)}
	}
	switch {
	case d.Digest != "SHA384":
		return fail("digest", "is %.40q, want SHA384", d.Digest)
	case d.ModuleID == "" || len(d.ModuleID) > 256:
		return fail("module_id", "is %d bytes long", len(d.ModuleID))
	case d.Timestamp == 0 || d.Timestamp > 1<<48:
		return fail("timestamp", "is %d", d.Timestamp)
	case len(d.PublicKey) > maxKey || len(d.UserData) > maxText || len(d.Nonce) > maxText:
		return fail("optional fields", "are longer than %d or %d bytes", maxKey, maxText)
	case len(d.CABundle) == 0 || len(d.CABundle) >= endorse.MaxChain:
		return fail("cabundle", "has %d certificates", len(d.CABundle))
	case len(d.PCRs[0]) == 0:
		return fail("pcrs", "lack register 0")
	}
	for _, i := range slices.Sorted(maps.Keys(d.PCRs)) { // so that the same bytes give the same error
		v := d.PCRs[i]
		if i < 0 || i >= maxPCRs || len(v) != sha512.Size384 {
			return fail("pcrs", "one is %d with %d bytes, registers are 0 to %d with %d bytes each", i, len(v), maxPCRs-1, sha512.Size384)
		}
	}
	return nil
}

// Debuggable reports whether the enclave runs in debug mode, in which its registers are zero.
func (d *Document) Debuggable() bool { return len(bytes.Trim(d.PCRs[0], "\x00")) == 0 }

// A Verified document is one whose signature leads to a pinned root.
type Verified struct {
	*Document
	Root endorse.Root
}

// Verify checks a document. Refusals are vendor-untrusted and signature-invalid, or a
// *keystead.FormatError.
func Verify(raw []byte, roots evidence.VendorRoots, at time.Time) (*Verified, error) {
	d, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	below := slices.Clone(d.CABundle)
	slices.Reverse(below)
	chain, err := endorse.ParseDER("nitro certificate", append([][]byte{d.Certificate}, below...))
	if err != nil {
		return nil, err
	}
	root, err := endorse.Verify("nitro certificate", chain, roots, at)
	if err != nil {
		return nil, err
	}
	if !d.signed(chain[0]) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "nitro document",
			Want: "a signature by the key of " + chain[0].Subject.String(), Got: "one that does not verify over this document"})
	}
	return &Verified{d, root}, nil
}

// signed checks the signature over Sig_structure (RFC 9052, 4.4).
func (d *Document) signed(leaf *x509.Certificate) bool {
	structure, err := cbor.Marshal([]any{"Signature1", d.protected, []byte{}, d.payload})
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P384() {
		return false
	}
	digest := sha512.Sum384(structure)
	return ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(d.signature[:48]), new(big.Int).SetBytes(d.signature[48:]))
}

// maxClaimed is how many registers are claims: those after it are the enclave's own.
const maxClaimed = 16

// Claims returns what the document says, for policies.
func (v *Verified) Claims() evidence.TEEClaims {
	c := evidence.TEEClaims{Kind: evidence.KindNitro, Launch: "sha384:" + hex.EncodeToString(v.PCRs[0]), Machine: v.ModuleID,
		Root: v.Root.Digest.String(), Debug: v.Debuggable()}
	for i := range maxClaimed {
		value := ""
		if b := v.PCRs[i]; b != nil {
			value = "sha384:" + hex.EncodeToString(b)
		}
		c.Registers = append(c.Registers, value)
	}
	if b := v.PCRs[8]; len(bytes.Trim(b, "\x00")) > 0 {
		c.Signer = "sha384:" + hex.EncodeToString(b)
	}
	return c
}

package pgp

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// maxSignatures bounds the signatures over one text.
const maxSignatures = 32

// Signature is one that verifies.
type Signature struct {
	Signer string // fingerprint of the primary key, upper-case hex
	Made   time.Time
}

// A Fault is why a signature does not count.
type Fault int

// The faults, from the one that says least against the signed bytes.
const (
	FaultUnknownKey Fault = iota + 1 // by a key that the keyring does not hold
	FaultWeak                        // over a hash that is not accepted
	FaultKey                         // by a key that is revoked, was not valid then, or may not sign
	FaultInvalid                     // by a key of the keyring, over other bytes
)

// Error says why one signature does not count.
type Error struct {
	Fault Fault
	Key   uint64 // id; 0 if the signature names none
	Err   error
}

func (e *Error) Error() string {
	if e.Key == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("key %016X: %v", e.Key, e.Err)
}

// Verify returns the signatures over the text by keys that were valid when the
// signature was made and are valid at the time, and for each other why it does not
// count, an *[Error]. The time may be zero: then only the time of making counts. It
// fails for what is not a list of signatures.
func (k Keyring) Verify(signed []byte, signatures io.Reader, at time.Time) (good []Signature, bad []error, err error) {
	packets := packet.NewOpaqueReader(signatures)
	for n := 0; ; n++ {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return good, bad, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if p.Tag != tagSignature || n == maxSignatures {
			return nil, nil, fmt.Errorf("want at most %d signatures and nothing else", maxSignatures)
		}
		one, err := k.verifyOne(signed, p, at)
		if err != nil {
			bad = append(bad, err)
		} else {
			good = append(good, one)
		}
	}
}

const tagSignature = 2 // RFC 9580 5

func (k Keyring) verifyOne(signed []byte, p *packet.OpaquePacket, at time.Time) (Signature, error) {
	if len(p.Contents) > 0 && p.Contents[0] == 3 {
		return k.verifyV3(signed, p.Contents)
	}
	parsed, err := p.Parse()
	if err != nil {
		return Signature{}, &Error{FaultInvalid, 0, err}
	}
	sig, ok := parsed.(*packet.Signature)
	if !ok || sig.IssuerKeyId == nil {
		return Signature{}, &Error{FaultUnknownKey, 0, errors.New("a signature that names no key")}
	}
	if err := k.acceptable(*sig.IssuerKeyId, sig.Hash); err != nil {
		return Signature{}, err
	}
	if at.IsZero() || sig.CreationTime.After(at) {
		at = sig.CreationTime // what comes from the future is judged as such by the caller
	}
	var one bytes.Buffer
	if err := p.Serialize(&one); err != nil {
		return Signature{}, &Error{FaultInvalid, *sig.IssuerKeyId, err}
	}
	config := &packet.Config{Time: func() time.Time { return at }}
	entity, err := openpgp.CheckDetachedSignature(k.entities, bytes.NewReader(signed), &one, config)
	if err != nil {
		fault := FaultKey
		var wrong pgperrors.SignatureError
		if errors.As(err, &wrong) {
			fault = FaultInvalid
		}
		return Signature{}, &Error{fault, *sig.IssuerKeyId, err}
	}
	return Signature{fingerprint(entity.PrimaryKey), sig.CreationTime}, nil
}

// acceptable reports why a signature by that key over that hash is not looked at.
func (k Keyring) acceptable(id uint64, h crypto.Hash) error {
	switch {
	case h != crypto.SHA256 && h != crypto.SHA384 && h != crypto.SHA512:
		return &Error{FaultWeak, id, fmt.Errorf("signed over %v", h)}
	case len(k.entities.KeysById(id)) == 0:
		return &Error{FaultUnknownKey, id, errors.New("is not in the keyring")}
	}
	return nil
}

// hashes are those of RFC 9580 9.5 that are looked at; others count as weak.
var hashes = map[byte]crypto.Hash{1: crypto.MD5, 2: crypto.SHA1, 8: crypto.SHA256, 9: crypto.SHA384, 10: crypto.SHA512}

// verifyV3 verifies a signature of version 3 over a binary document (RFC 4880 5.2.2) by
// an RSA key, as rpm made them for long. The key must hold at the time of making.
func (k Keyring) verifyV3(signed, b []byte) (Signature, error) {
	const head = 19 // version, length, type, time, key id, two algorithms, two octets of the hash
	if len(b) < head+2 || b[1] != 5 || b[2] != 0 {
		return Signature{}, &Error{FaultInvalid, 0, errors.New("a signature of version 3 that is not one of a binary document")}
	}
	made, id := time.Unix(int64(binary.BigEndian.Uint32(b[3:])), 0).UTC(), binary.BigEndian.Uint64(b[7:])
	hash, known := hashes[b[16]]
	if !known {
		return Signature{}, &Error{FaultWeak, id, fmt.Errorf("signed over hash %d", b[16])}
	}
	if err := k.acceptable(id, hash); err != nil {
		return Signature{}, err
	}
	bits := int(binary.BigEndian.Uint16(b[head:]))
	mpi := b[head+2:]
	if len(mpi) != (bits+7)/8 {
		return Signature{}, &Error{FaultInvalid, id, errors.New("a signature that is cut off, or followed by more")}
	}
	h := hash.New()
	h.Write(signed)
	h.Write(b[2:7]) // type and time
	sum := h.Sum(nil)
	fault := &Error{FaultInvalid, id, errors.New("the signature is not over these bytes")}
	for _, candidate := range k.entities.KeysById(id) {
		public, ok := candidate.PublicKey.PublicKey.(*rsa.PublicKey)
		self := candidate.SelfSignature
		switch {
		case self == nil || self.FlagsValid && !self.FlagSign:
			fault = &Error{FaultKey, id, errors.New("may not sign")}
		case !ok:
			fault = &Error{FaultKey, id, errors.New("is no RSA key, which a signature of version 3 is by")}
		case candidate.Revoked(made) || candidate.Entity.Revoked(made) || candidate.PublicKey.KeyExpired(self, made) || made.Before(candidate.PublicKey.CreationTime):
			fault = &Error{FaultKey, id, errors.New("is revoked, or was not valid when it signed")}
		case rsa.VerifyPKCS1v15(public, hash, sum, padded(mpi, public.Size())) == nil:
			return Signature{fingerprint(candidate.Entity.PrimaryKey), made}, nil
		}
	}
	return Signature{}, fault
}

// padded gives an integer the length of the key's modulus; a longer one stays as it is.
func padded(mpi []byte, size int) []byte {
	if len(mpi) >= size {
		return mpi
	}
	return append(make([]byte, size-len(mpi)), mpi...)
}

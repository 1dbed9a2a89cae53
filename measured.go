package keystead

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"strings"
)

// Measured is a digest that a register was extended by: of SHA-256 or of SHA-384, as its
// bank has it. The zero value is none. Its text form is "sha256:" or "sha384:" and
// lower-case hex digits.
type Measured struct {
	long   bool
	digest [sha512.Size384]byte // of SHA-256 the first 32 bytes
}

const measuredPrefix = "sha384:"

// MeasuredBytes returns the digest of those bytes: 32 or 48 of them, else the zero value.
func MeasuredBytes(b []byte) (m Measured) {
	if m.long = len(b) == sha512.Size384; m.long || len(b) == sha256.Size {
		copy(m.digest[:], b)
	}
	return m
}

// Sum384 returns the SHA-384 digest of b.
func Sum384(b []byte) Measured { return Measured{true, sha512.Sum384(b)} }

// Measured returns the digest as one that a register of SHA-256 was extended by.
func (d Digest) Measured() Measured { return MeasuredBytes(d[:]) }

// ParseMeasured reads the text form, and nothing else.
func ParseMeasured(s string) (Measured, error) {
	h, long := strings.CutPrefix(s, measuredPrefix)
	if !long {
		d, err := ParseDigest(s)
		return d.Measured(), err
	}
	b, err := hex.DecodeString(h)
	if err != nil || len(b) != sha512.Size384 || strings.ToLower(h) != h {
		return Measured{}, errors.New("a SHA-384 digest is written " + measuredPrefix + " and 96 lower-case hex digits")
	}
	return MeasuredBytes(b), nil
}

// IsZero reports whether there is no digest: all of its bytes are zero.
func (m Measured) IsZero() bool { return m.digest == Measured{}.digest }

// Long reports whether it is one of SHA-384.
func (m Measured) Long() bool { return m.long }

// String returns the text form.
func (m Measured) String() string {
	if m.long {
		return measuredPrefix + hex.EncodeToString(m.digest[:])
	}
	return m.Name().String()
}

// Bytes returns the digest's 32 or 48 bytes.
func (m Measured) Bytes() []byte {
	if m.long {
		return m.digest[:]
	}
	return m.digest[:sha256.Size]
}

// Name returns by what reference sets know the digest, whose records have room for 32
// bytes: one of SHA-256 is its own name, one of SHA-384 has the SHA-256 of its text form.
func (m Measured) Name() Digest {
	if m.long {
		return Sum([]byte(m.String()))
	}
	return Digest(m.digest[:sha256.Size])
}

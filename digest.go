package keystead

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
)

// Digest is a SHA-256 digest: the name of a bundle, a policy, a reference set,
// a file's content. Its text form is "sha256:" and 64 lower-case hex digits.
type Digest [sha256.Size]byte

const digestPrefix = "sha256:"

// Sum returns the digest of b.
func Sum(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest reads the text form, and nothing else.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	h, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(h) != 2*len(d) || strings.ToLower(h) != h {
		return d, errors.New("a digest is written " + digestPrefix + " and 64 lower-case hex digits")
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return Digest{}, errors.New("a digest is written " + digestPrefix + " and 64 lower-case hex digits")
	}
	return d, nil
}

// IsZero reports whether d is the zero value, which names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns the text form.
func (d Digest) String() string { return digestPrefix + hex.EncodeToString(d[:]) }

// MarshalText returns the text form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := ParseDigest(string(b))
	if err == nil {
		*d = v
	}
	return err
}

package key

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
)

// AKDigest names the attestation key of a TPM, and with it the machine: SHA-256 over
// the key's public area (TPMT_PUBLIC). The zero value is no key at all.
type AKDigest [sha256.Size]byte

// DigestAK returns the digest of an attestation key's TPMT_PUBLIC.
func DigestAK(public []byte) AKDigest { return sha256.Sum256(public) }

const (
	akPrefix = "ak:"
	akNone   = akPrefix + "none"
)

// ParseAKDigest reads the text form, and nothing else.
func ParseAKDigest(s string) (AKDigest, error) {
	if s == akNone {
		return AKDigest{}, nil
	}
	var d AKDigest
	t, ok := strings.CutPrefix(s, akPrefix)
	if b, err := hex.DecodeString(t); ok && err == nil && len(b) == len(d) {
		if d = AKDigest(b); d != (AKDigest{}) && d.String() == s {
			return d, nil
		}
	}
	return AKDigest{}, errors.New("an attestation key is written " + akPrefix + " and 64 lower-case hex digits, or " + akNone)
}

// None reports whether there is no key.
func (d AKDigest) None() bool { return d == AKDigest{} }

// String returns the text form: "ak:" and the digest in hex, or "ak:none".
func (d AKDigest) String() string {
	if d.None() {
		return akNone
	}
	return akPrefix + hex.EncodeToString(d[:])
}

// MarshalText returns the text form.
func (d AKDigest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form.
func (d *AKDigest) UnmarshalText(b []byte) error {
	v, err := ParseAKDigest(string(b))
	if err == nil {
		*d = v
	}
	return err
}

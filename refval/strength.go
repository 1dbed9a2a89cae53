package refval

import "fmt"

// Strength says how the digest of a file was proven.
type Strength uint8

const (
	// StrengthNone is the zero value: nothing was proven.
	StrengthNone Strength = iota
	// StrengthWeak is a digest by MD5 or SHA-1, or one that only the host vouches for.
	// It never suffices, and a Set can not hold it.
	StrengthWeak
	// StrengthIMASignature is a digest under a vendor's signature in the IMA log itself.
	StrengthIMASignature
	// StrengthSignedHeader is a digest from a package header that the vendor signed (rpm).
	StrengthSignedHeader
	// StrengthRepositoryRehash is a digest that the builder computed from a package's
	// bytes, themselves named by a signed repository index (deb).
	StrengthRepositoryRehash
)

var strengthNames = [...]string{"none", "weak", "ima-signature", "signed-header", "repository-rehash"}

// Suffices reports whether a match of this strength names a file.
func (s Strength) Suffices() bool { return s > StrengthWeak && int(s) < len(strengthNames) }

// String returns the strength's name, such as repository-rehash.
func (s Strength) String() string {
	if int(s) >= len(strengthNames) {
		return fmt.Sprintf("strength(%d)", uint8(s))
	}
	return strengthNames[s]
}

// MarshalText returns the strength's name.
func (s Strength) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the strength's name.
func (s *Strength) UnmarshalText(b []byte) error {
	for i, n := range strengthNames {
		if n == string(b) {
			*s = Strength(i)
			return nil
		}
	}
	return fmt.Errorf("strength %q is not one of %v", b, strengthNames)
}

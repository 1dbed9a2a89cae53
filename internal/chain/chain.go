// Package chain computes the hash chains that platform configuration registers
// are, and says which small edit explains a list that does not lead to a register.
package chain

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"

	"github.com/keystead/keystead/evidence"
)

// A Value is a register's content; a bank uses its first Size bytes.
type Value [64]byte

// Extend sets v to H(v || digest) as TPM2_PCR_Extend does. The digest is as long
// as the bank's are; the bank is one with a Size. It does not allocate.
func (v *Value) Extend(b evidence.Bank, digest []byte) {
	var in [2 * len(v)]byte
	n := b.Size()
	copy(in[:n], v[:n])
	copy(in[n:2*n], digest)
	Sum(b, v, in[:2*n])
}

// Sum sets v to the bank's digest of data. It does not allocate.
func Sum(b evidence.Bank, v *Value, data []byte) {
	switch b {
	case evidence.SHA1:
		d := sha1.Sum(data)
		copy(v[:], d[:])
	case evidence.SHA256:
		d := sha256.Sum256(data)
		copy(v[:], d[:])
	case evidence.SHA384:
		d := sha512.Sum384(data)
		copy(v[:], d[:])
	case evidence.SHA512:
		d := sha512.Sum512(data)
		copy(v[:], d[:])
	}
}

// An Edit is what was done to a list.
type Edit int

// The edits that Explain knows.
const (
	Unknown  Edit = iota
	Reached       // nothing was done to the first n digests, but further ones follow
	Swapped       // digests n and n+1 are in the wrong order
	Added         // digest n is one too many
	Replaced      // digest n stands where the register has its alternative
)

// Explain looks for one edit of digests that explains why extending start by them
// does not end in want: it tries them from the end of the list backwards and
// extends at most budget times. An alternative, where alt has one, is another
// digest that may have been extended in a digest's place.
//
// It serves the words of a refusal only. That no edit is found says nothing.
func Explain(b evidence.Bank, start Value, digests, alt [][]byte, want []byte, budget int) (Edit, int) {
	states := make([]Value, len(digests)+1) // states[i] comes before digest i
	states[0] = start
	for i, d := range digests {
		states[i+1] = states[i]
		states[i+1].Extend(b, d)
	}
	for i := range states {
		if states[i].Is(want) {
			return Reached, i
		}
	}
	// reaches extends state i by first and then by digests from next on.
	reaches := func(i int, first [][]byte, next int) bool {
		v := states[i]
		for _, d := range first {
			if v.Extend(b, d); v.Is(want) {
				return true
			}
		}
		for _, d := range digests[next:] {
			if v.Extend(b, d); v.Is(want) {
				return true
			}
		}
		return false
	}
	for i := len(digests) - 1; i >= 0; i-- {
		if budget -= 3 * (len(digests) - i); budget < 0 {
			break
		}
		switch {
		case reaches(i, nil, i+1):
			return Added, i
		case i+1 < len(digests) && reaches(i, [][]byte{digests[i+1], digests[i]}, i+2):
			return Swapped, i
		case alt != nil && alt[i] != nil && reaches(i, [][]byte{alt[i]}, i+1):
			return Replaced, i
		}
	}
	return Unknown, 0
}

// Is reports whether v holds value.
func (v *Value) Is(value []byte) bool { return bytes.Equal(v[:len(value)], value) }

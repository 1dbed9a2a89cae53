package evidence

import (
	"crypto"
	_ "crypto/sha1" // the banks that a log may carry, though not all are accepted
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
)

// NumPCRs is the number of platform configuration registers of a PC Client TPM.
const NumPCRs = 24

// Bank names a PCR bank by its TPM_ALG_ID (TPM 2.0 Part 2, 6.3).
type Bank uint16

// The banks that occur in logs. Only SHA-256 and SHA-384 are accepted in quotes.
const (
	SHA1   Bank = 0x0004
	SHA256 Bank = 0x000B
	SHA384 Bank = 0x000C
	SHA512 Bank = 0x000D
)

// Hash returns the bank's hash function, or 0 for a bank that is not known here.
func (b Bank) Hash() crypto.Hash {
	switch b {
	case SHA1:
		return crypto.SHA1
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// Size returns the length of the bank's digests in bytes, or 0.
func (b Bank) Size() int {
	if h := b.Hash(); h != 0 {
		return h.Size()
	}
	return 0
}

// Accepted reports whether quotes over the bank are accepted.
func (b Bank) Accepted() bool { return b == SHA256 || b == SHA384 }

// String returns the bank's name in tpm2-tools' spelling: sha256, sha384, ….
func (b Bank) String() string {
	switch b {
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("alg-0x%04x", uint16(b))
}

// PCRs are the values of registers of one bank. A nil value is a register that
// is not stated, or not covered; readers treat it as absent, never as zero.
type PCRs struct {
	Bank  Bank
	Value [NumPCRs][]byte
}

// Extend folds digest into register i as TPM2_PCR_Extend does; a register that
// is absent starts at zero.
func (p *PCRs) Extend(i int, digest []byte) {
	old := p.Value[i]
	if old == nil {
		old = make([]byte, p.Bank.Size())
	}
	h := p.Bank.Hash().New()
	h.Write(old)
	h.Write(digest)
	p.Value[i] = h.Sum(nil)
}

package ima

import (
	"encoding/hex"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
)

const bootAggregate = "boot_aggregate"

// Aggregate reports whether the entry is one by which a kernel that starts commits to the
// boot registers. No file has that path; a second one in a list is of a kernel that kexec
// started, and that went on with the list of the one before (CONFIG_IMA_KEXEC).
func (e Entry) Aggregate() bool { return !e.Violation && string(e.Path) == bootAggregate }

// aggregated is the number of registers in boot_aggregate: 0 to 9. Only a SHA-1
// aggregate, which is not accepted, leaves 8 and 9 out (Linux 5.8 and later).
const aggregated = 10

// CheckBootAggregate checks that the first covered entry is the kernel's
// boot_aggregate over the quoted registers 0 to 9. With that, the list belongs to
// this boot, and nothing was extended into those registers since the kernel
// started. It refuses with evidence-missing when the registers are not covered in
// the bank of the entry, and with boot-aggregate otherwise.
func (l *List) CheckBootAggregate(covered []evidence.PCRs) error {
	const where = "measurement list, entry boot_aggregate"
	for _, e := range l.All() { // the first one; a violation entry has no digest, so it fails below
		if string(e.Path) != bootAggregate {
			return deny(keystead.ReasonBootAggregate, where, bootAggregate+" as the first entry", e.Path.String())
		}
		for _, p := range covered {
			if !p.Bank.Accepted() || p.Bank.String() != e.Alg {
				continue
			}
			return l.checkAggregate(p, e.FileDigest, where)
		}
		if e.Alg != evidence.SHA256.String() && e.Alg != evidence.SHA384.String() {
			return deny(keystead.ReasonBootAggregate, where, "a digest of sha256 or sha384", "one of "+strOr(e.Alg, "no known hash"))
		}
		return deny(keystead.ReasonEvidenceMissing, where, "PCR 0 to 9 in bank "+e.Alg, "not quoted")
	}
	return deny(keystead.ReasonBootAggregate, where, bootAggregate+" as the first entry", "no entry")
}

func (l *List) checkAggregate(p evidence.PCRs, got []byte, where string) error {
	all := make([]byte, 0, aggregated*p.Bank.Size())
	for i := range aggregated {
		if p.Value[i] == nil {
			return deny(keystead.ReasonEvidenceMissing, where, fmt.Sprintf("PCR 0 to 9 in bank %v", p.Bank), fmt.Sprintf("PCR %d is not quoted", i))
		}
		all = append(all, p.Value[i]...)
	}
	var v chain.Value
	if chain.Sum(p.Bank, &v, all); !v.Is(got) {
		return deny(keystead.ReasonBootAggregate, where, hex.EncodeToString(v[:p.Bank.Size()]), hex.EncodeToString(got))
	}
	return nil
}

func strOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

package ima

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
)

// Bounds of the search for words on the way to a refusal.
const (
	explainEntries = 2048
	explainBudget  = 1 << 21 // extensions; about a quarter of a second
)

// explain makes the refusal of a list of n whole entries that never reaches the
// quoted value.
//
// In general nobody can tell why: a list that was cut, and one of which an entry
// was removed, added, changed or moved, all lead elsewhere. So log-altered is said
// only with the entry that shows it: one that does not have its own SHA-1 template
// hash, a list that does not start with boot_aggregate, or a single swapped, added
// or re-marked entry among the last ones, found by trying. All else is
// log-truncated, whose words are no more than the truth.
func (r *replay) explain(n int) error {
	b := &r.banks[0]
	if r.padded(b, n) {
		return deny(keystead.ReasonDigestWeak, r.where(), "digests of bank "+b.id.String(),
			"SHA-1 digests padded with zeros, as Linux before 5.8 extends them")
	}
	if words := r.inspect(); words != "" {
		return deny(keystead.ReasonLogAltered, r.where(), hex.EncodeToString(b.want), words)
	}
	if words := r.search(n); words != "" {
		return deny(keystead.ReasonLogAltered, r.where(), hex.EncodeToString(b.want), words)
	}
	return deny(keystead.ReasonLogTruncated, r.where(), hex.EncodeToString(b.want),
		fmt.Sprintf("not reached after %d entries: the list is cut, or entries are missing, added, changed or out of order", n))
}

// inspect looks for an entry that cannot be as the kernel wrote it.
func (r *replay) inspect() string {
	first := true
	for n, rec := range records(r.raw) {
		if rec.pcr != r.pcr {
			continue
		}
		if first && r.pcr == Register && string(rec.entry().Path) != bootAggregate {
			return fmt.Sprintf("entry %d, the first, is %v and not %s: the list's head is missing", n, rec.entry().Path, bootAggregate)
		}
		first = false
		var v chain.Value
		if rec.hash(evidence.SHA1, &v); !rec.violation() && !v.Is(rec.sha1) {
			return fmt.Sprintf("entry %d (%v) does not have its template hash: it was changed", n, rec.entry().Path)
		}
	}
	return ""
}

// search tries single edits of the last of n entries.
func (r *replay) search(n int) string {
	b := r.banks[0].id
	var start, v chain.Value
	var numbers []int
	var digests, alt [][]byte
	left := n
	for number, rec := range records(r.raw) {
		if rec.pcr != r.pcr {
			continue
		}
		rec.sum(b, &v)
		if left--; left >= explainEntries {
			start.Extend(b, v[:b.Size()])
			continue
		}
		numbers, digests = append(numbers, number), append(digests, bytes.Clone(v[:b.Size()]))
		if rec.violation() {
			rec.hash(b, &v)
			alt = append(alt, bytes.Clone(v[:b.Size()]))
		} else {
			alt = append(alt, ones[:b.Size()])
		}
	}
	switch edit, at := chain.Explain(b, start, digests, alt, r.banks[0].want, explainBudget); edit {
	case chain.Swapped:
		return fmt.Sprintf("entries %d and %d are in the wrong order", numbers[at], numbers[at+1])
	case chain.Added:
		return fmt.Sprintf("entry %d was never measured", numbers[at])
	case chain.Replaced:
		return fmt.Sprintf("entry %d is marked as a violation in the list or in the register, not in both", numbers[at])
	}
	return ""
}

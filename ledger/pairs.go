package ledger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// Pairs visits the logical state from a key on, sorted by key, as every build has it that knows the
// layout keystead-state/1 (docs/spec/state.md). A store that takes the pairs, and the
// entries of the tree, has the same state. Entries and tiles are not among the pairs: the
// tree's root stands for them. Alarms are without their words, which differ from build to
// build; a value is where the rule of this build's store puts it, wherever it is here.
func (v View) Pairs(from []byte, yield func(key, value []byte) bool) error {
	var failed error
	visit := func(k, b []byte) bool {
		b, failed = v.canonical(k, b)
		return failed == nil && yield(k, b)
	}
	more := true
	for _, part := range [][2]byte{{0, spaceEntry}, {spaceEntry + 1, spaceTile}, {spaceTile + 1, 255}} {
		start := part[:1]
		if bytes.Compare(from, start) > 0 {
			start = from
		}
		if !more || bytes.Compare(start, part[1:]) >= 0 {
			continue
		}
		err := v.r.Scan(start, part[1:], func(k, b []byte) bool { more = visit(k, b); return more })
		if err != nil || failed != nil {
			return cmp.Or(failed, err)
		}
	}
	return nil
}

// canonical returns the value of a pair in the one spelling that the layout has for it.
func (v View) canonical(k, b []byte) ([]byte, error) {
	switch k[0] {
	case spaceJudged, spaceContract, spaceCall:
		return v.canonicalStored(k, b)
	case spaceAlarm:
		if len(k) != 9 {
			return nil, unknownKey(k)
		}
		a, err := decodeAlarm(binary.BigEndian.Uint64(k[1:]), b)
		a.Finding = keystead.Finding{Reason: a.Finding.Reason}
		return a.encode(), err
	case spaceRenewal:
		r, err := decodeRenewal(b) // an early record is shorter
		return appendRenewal(nil, &r), err
	case spaceHead, spaceSubject, spaceLatest, spaceVotes, spaceLast, spacePositions, spaceProposal, spacePosition, spaceCalled, spaceRoster, spaceSuspension, spaceTick:
		return b, nil
	}
	return nil, unknownKey(k)
}

func unknownKey(k []byte) error {
	return &keystead.FormatError{Format: "store", Field: "key", Problem: fmt.Sprintf("%.80x is of no key space that the layout keystead-state/1 has", k)}
}

// canonicalStored returns the record that this build would write for a value.
func (v View) canonicalStored(k, b []byte) ([]byte, error) {
	s, err := parseStored(b)
	if err != nil || s.inEntry || len(s.inline) < leastInEntry {
		return b, err
	}
	entry, err := v.Entry(s.version - 1)
	if err != nil || 2*len(s.inline) < len(entry) {
		return b, err
	}
	writes, err := writesOf(entry)
	if err != nil {
		return nil, err
	}
	var found *writeView
	for x := range writes.each {
		if bytes.Equal(x.key, k[1:]) {
			found = &x // the last one counts
		}
	}
	if found == nil || found.delete || !bytes.Equal(found.value, s.inline) {
		return nil, &keystead.FormatError{Format: "value", Field: "value", Problem: fmt.Sprintf("of %.80q is not what leaf %d wrote", k[1:], s.version-1)}
	}
	return appendStored(nil, s.version, len(entry), found), nil
}

// writesOf returns the writes of a transaction or an effective entry.
func writesOf(entry []byte) (writeList, error) {
	kind, _, err := receipt.Split(entry)
	if err != nil {
		return writeList{}, err
	}
	if kind == receipt.KindTransaction {
		t, err := parseTransaction(entry)
		return t.writes, err
	}
	if kind == receipt.KindCall {
		c, err := parseCall(entry)
		return c.writes, err
	}
	raw, _, err := splitEffective(entry)
	if err != nil {
		return writeList{}, err
	}
	_, writes, err := parseVerdict(raw)
	writes.at += verdictAt
	return writes, err
}

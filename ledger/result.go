package ledger

import (
	"encoding/binary"
	"errors"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/receipt"
)

// Result says what became of one entry.
type Result struct {
	Index    uint64          // of the log entry
	Kind     receipt.Kind    // 0 for an empty entry
	Leaf     uint64          // place in the tree, when Recorded or Repeated
	ID       keystead.Digest // leaf hash, when Recorded
	Recorded bool            // it took effect and is in the tree
	Repeated bool            // the same request took effect before, as Leaf
	Err      error           // *keystead.DenyError or *keystead.FormatError: refused, without any effect
}

const (
	resultRecorded = 1 << iota
	resultRepeated
	resultRefused
)

// Append appends the result as bytes, for replicas that carry results without
// knowing them. A FormatError becomes a finding of the reason malformed.
func (r *Result) Append(b []byte) []byte {
	var flags byte
	if r.Recorded {
		flags |= resultRecorded
	}
	if r.Repeated {
		flags |= resultRepeated
	}
	if r.Err != nil {
		flags |= resultRefused
	}
	b = binary.BigEndian.AppendUint64(append(b, flags, byte(r.Kind)), r.Index)
	b = append(binary.BigEndian.AppendUint64(b, r.Leaf), r.ID[:]...)
	if r.Err == nil {
		return b
	}
	findings := []keystead.Finding{{Reason: keystead.ReasonMalformed, Got: r.Err.Error()}}
	var denied *keystead.DenyError
	if errors.As(r.Err, &denied) {
		findings = denied.Findings
	}
	for _, f := range findings {
		b = appendFinding(b, f)
	}
	return b
}

// ParseResult reads what Append wrote.
func ParseResult(b []byte) (r Result, err error) {
	c := record("result", b)
	flags := c.U8("flags")
	r.Kind, r.Index, r.Leaf, r.ID = receipt.Kind(c.U8("kind")), c.U64("index"), c.U64("leaf"), digest(c, "id")
	r.Recorded, r.Repeated = flags&resultRecorded != 0, flags&resultRepeated != 0
	if flags&resultRefused != 0 {
		findings := []keystead.Finding{readFinding(c)}
		for c.Len() > 0 {
			findings = append(findings, readFinding(c))
		}
		r.Err = keystead.Deny(findings...)
	}
	c.End()
	if c.Err() != nil {
		return Result{}, c.Err()
	}
	return r, nil
}

func appendFinding(b []byte, f keystead.Finding) []byte {
	for _, s := range []string{string(f.Reason), f.Want, f.Got, f.Where} {
		b = cursor.AppendSized16(b, s[:min(len(s), 1<<16-1)])
	}
	return b
}

func readFinding(c *cursor.Cursor) keystead.Finding {
	text := func(field string) string { return string(c.Sized16(1<<16-1, field)) }
	return keystead.Finding{Reason: keystead.Reason(text("reason")), Want: text("want"), Got: text("got"), Where: text("where")}
}

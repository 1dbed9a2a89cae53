package keystead

import (
	"fmt"
	"slices"
	"strings"
)

// A Finding is one thing that speaks against what was asked for.
type Finding struct {
	Reason Reason `json:"reason"`         // what kind of refusal, from the closed list in reason.go
	Want   string `json:"want,omitempty"` // what would have been accepted
	Got    string `json:"got,omitempty"`  // what was found instead
	Where  string `json:"where,omitempty"`
}

// String gives the finding on one line: reason: where: want …, got ….
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(string(f.Reason))
	if f.Where != "" {
		fmt.Fprintf(&b, ": %s", f.Where)
	}
	switch {
	case f.Want != "" && f.Got != "":
		fmt.Fprintf(&b, ": want %s, got %s", f.Want, f.Got)
	case f.Want != "":
		fmt.Fprintf(&b, ": want %s", f.Want)
	case f.Got != "":
		fmt.Fprintf(&b, ": got %s", f.Got)
	}
	return b.String()
}

// DenyError is the one type of refusal, in the CLI, the API and the ledger.
// It holds at least one finding, in the order in which they were found.
type DenyError struct{ Findings []Finding }

// Deny returns a DenyError of the findings. Without one it panics: a refusal
// that cannot say why is a defect of the caller.
func Deny(findings ...Finding) *DenyError {
	if len(findings) == 0 {
		panic("keystead: Deny without a finding")
	}
	return &DenyError{Findings: slices.Clone(findings)}
}

// Error gives the first finding and the number of further ones.
func (e *DenyError) Error() string {
	s := "denied: " + e.Findings[0].String()
	if n := len(e.Findings) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

// Stage returns the first stage that failed, whatever the order of the findings.
func (e *DenyError) Stage() Stage {
	first := StageInternal
	for _, f := range e.Findings {
		first = min(first, f.Reason.Stage())
	}
	return first
}

// Is reports whether the error carries a finding of that reason, so that
// errors.Is(err, keystead.ReasonNonceMismatch) reads as it should.
func (e *DenyError) Is(target error) bool {
	r, ok := target.(Reason)
	return ok && slices.ContainsFunc(e.Findings, func(f Finding) bool { return f.Reason == r })
}

// FormatError says that outside bytes do not parse: which format, at which byte
// offset, in which field. Whoever reads files for a person adds the file's name.
type FormatError struct {
	Format  string // "tcg2-event-log", "ima", "bundle", …
	Offset  int64  // bytes from the start of what was given; for text formats, of the line
	Field   string
	Problem string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s: offset %d: %s: %s", e.Format, e.Offset, e.Field, e.Problem)
}

package admit

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Bounds of a statement: it is the content of a proposal, which holds 512 KiB with
// the signatures.
const (
	MaxStatement = 448 << 10 // bytes of text
	maxValue     = 4 << 10   // bytes of one field
	maxFields    = 8192
)

// A Statement is what members sign to have something judged: a note whose text
// has the kind, the domain, the subject, the version of the subject that they saw,
// and then the kind's own fields, one a line, in the kind's order
// (docs/spec/statements.md). It proves nothing until a Case opened it.
type Statement struct {
	Kind    key.Kind
	Domain  keystead.Digest // zero is written "none", for terms that a genesis entry names
	Subject string          // printable ASCII without spaces
	Base    uint64          // version of the subject; 0 for none
	Fields  []Field
}

// Field is one line of a statement: the word, a space, the value.
type Field struct{ Word, Value string }

const noDomain = "none"

// mayExcludeWord is the line by which members say how many of the current nodes may fall out by
// what they sign.
const mayExcludeWord = "may-exclude"

// mayExclude adds that line, where any may.
func (s Statement) mayExclude(n uint64) Statement {
	if n > 0 {
		s.Fields = append(s.Fields, Field{mayExcludeWord, strconv.FormatUint(n, 10)})
	}
	return s
}

// Text returns the text that members sign, in its one spelling.
func (s *Statement) Text() []byte {
	origin := noDomain
	if !s.Domain.IsZero() {
		origin = receipt.Origin(s.Domain)
	}
	b := fmt.Appendf(nil, "%s\ndomain %s\nsubject %s\nbase %d\n", s.Kind, origin, s.Subject, s.Base)
	for _, f := range s.Fields {
		b = fmt.Appendf(b, "%s %s\n", f.Word, f.Value)
	}
	return b
}

// ParseStatement reads a statement's text, of that kind. The fields' meaning is the
// kind's affair. It fails with a *keystead.FormatError.
func ParseStatement(kind key.Kind, text []byte) (Statement, error) {
	s := Statement{Kind: kind}
	fail := func(field, format string, args ...any) (Statement, error) {
		return Statement{}, &keystead.FormatError{Format: string(kind), Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	if len(text) > MaxStatement {
		return fail("whole", "is %d bytes long, at most %d are accepted", len(text), MaxStatement)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 5 || lines[len(lines)-1] != "" || lines[0] != string(kind) {
		return fail("head", "want lines %s, domain, subject, base, each with its newline", kind)
	}
	lines = lines[1 : len(lines)-1]
	if len(lines) > maxFields {
		return fail("whole", "has %d lines, at most %d are accepted", len(lines), maxFields)
	}
	for _, l := range lines {
		word, value, ok := strings.Cut(l, " ")
		if !ok || value == "" || !receipt.ValidName(word) || len(value) > maxValue {
			return fail("line", "%.80q is not a word of a-z, 0-9, dot and dash, a space, and a value of at most %d bytes", l, maxValue)
		}
		s.Fields = append(s.Fields, Field{word, value})
	}
	r := reader{kind: kind, fields: s.Fields}
	s.Domain, s.Subject, s.Base = r.domain("domain"), r.subject("subject"), r.number("base")
	if r.err != nil {
		return Statement{}, r.err
	}
	s.Fields = r.fields
	if !bytes.Equal(s.Text(), text) {
		return fail("text", "is not in its one canonical spelling")
	}
	return s, nil
}

// A Case is what a node that judges a proposal knows by itself.
type Case struct {
	Domain  keystead.Digest
	Subject string
	Base    uint64          // version of the subject that the proposal names
	Roster  *receipt.Roster // in force
}

// Open returns the statement of a note that the threshold of the roster's members
// signed, for this domain, subject and version. Refusals: note-unsigned,
// threshold-missing, domain-mismatch, subject-mismatch, subject-changed; a
// *keystead.FormatError for what does not parse.
func (c Case) Open(kind key.Kind, signed []byte) (Statement, error) {
	where := "statement on " + c.Subject
	if c.Roster == nil {
		return Statement{}, deny(keystead.ReasonThresholdMissing, where, "a roster of members", "none")
	}
	text, by, err := key.Open(signed, kind, c.Roster.Members...)
	if err != nil {
		return Statement{}, err
	}
	if len(by) < c.Roster.Threshold {
		return Statement{}, deny(keystead.ReasonThresholdMissing, where, fmt.Sprintf("signatures of %d of %d members", c.Roster.Threshold, len(c.Roster.Members)),
			fmt.Sprintf("%d (%s)", len(by), names(by)))
	}
	s, err := ParseStatement(kind, text)
	switch {
	case err != nil:
		return Statement{}, err
	case s.Domain != c.Domain || c.Domain.IsZero():
		return Statement{}, deny(keystead.ReasonDomainMismatch, where, receipt.Origin(c.Domain), receipt.Origin(s.Domain))
	case s.Subject != c.Subject:
		return Statement{}, deny(keystead.ReasonSubjectMismatch, where, "subject "+c.Subject, s.Subject)
	case s.Base != c.Base:
		return Statement{}, deny(keystead.ReasonSubjectChanged, where, "a statement upon version "+strconv.FormatUint(c.Base, 10), strconv.FormatUint(s.Base, 10))
	}
	return s, nil
}

func names(by []key.MemberPublic) string {
	var out []string
	for _, m := range by {
		out = append(out, m.Name())
	}
	return strings.Join(out, ", ")
}

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}

// checked returns the text of a statement whose fields read accepts.
func checked[T any](s Statement, read func(Statement) (T, error)) ([]byte, error) {
	text := s.Text()
	again, err := ParseStatement(s.Kind, text)
	if err == nil {
		_, err = read(again)
	}
	if err != nil {
		return nil, err
	}
	return text, nil
}

// parsed reads a text, and opened a note, of a kind whose fields read understands.
func parsed[T any](kind key.Kind, text []byte, read func(Statement) (T, error)) (out T, err error) {
	s, err := ParseStatement(kind, text)
	if err != nil {
		return out, err
	}
	return read(s)
}

func opened[T any](c Case, kind key.Kind, signed []byte, read func(Statement) (T, error)) (out T, err error) {
	s, err := c.Open(kind, signed)
	if err != nil {
		return out, err
	}
	return read(s)
}

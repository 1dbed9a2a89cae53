package deb

import (
	"bytes"
	"fmt"
	"iter"

	"github.com/keystead/keystead"
)

// maxFields bounds the fields of one stanza, each of which is compared with all before
// it. Debian's largest have about 30.
const maxFields = 64

// Stanza is one paragraph of a control file (Debian Policy 5.1). It aliases the
// text, and is valid until the next one is read.
type Stanza struct {
	Offset int // of its first field in the text
	fields []field
}

type field struct{ name, value []byte } // value: with its continuation lines, as they stand

// Get returns the field's value without blanks around it, or "". Names are compared
// without case. A folded value keeps its newlines and the blanks after them.
func (s *Stanza) Get(name string) string {
	if i := s.index([]byte(name)); i >= 0 {
		return string(bytes.TrimSpace(s.fields[i].value))
	}
	return ""
}

func (s *Stanza) index(name []byte) int {
	for i := range s.fields {
		if f := s.fields[i].name; len(f) == len(name) && bytes.EqualFold(f, name) {
			return i
		}
	}
	return -1
}

// Stanzas yields the paragraphs of a control file, and stops after an error. A field
// stated twice, a line that is neither field nor continuation, and NUL are errors:
// *keystead.FormatError of that format.
func Stanzas(format string, text []byte) iter.Seq2[*Stanza, error] {
	return func(yield func(*Stanza, error) bool) {
		var s Stanza
		for off := 0; off < len(text); {
			next, err := s.read(format, text, off)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(s.fields) > 0 && !yield(&s, nil) {
				return
			}
			off = next
		}
	}
}

// read reads the paragraph that begins at off or after it and returns where it ends.
func (s *Stanza) read(format string, text []byte, off int) (next int, err error) {
	s.fields = s.fields[:0]
	for off < len(text) {
		start := off
		line := text[off:]
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			line = line[:end]
			off++
		}
		off += len(line)
		fail := func(problem string, args ...any) (int, error) {
			return 0, &keystead.FormatError{Format: format, Offset: int64(start), Field: "stanza", Problem: fmt.Sprintf(problem, args...)}
		}
		switch {
		case len(bytes.TrimSpace(line)) == 0 && len(s.fields) > 0:
			return off, nil
		case len(bytes.TrimSpace(line)) == 0:
			continue
		case bytes.IndexByte(line, 0) >= 0:
			return fail("holds a NUL")
		case line[0] == ' ' || line[0] == '\t':
			if len(s.fields) == 0 {
				return fail("continues a field, but none has begun")
			}
			last := &s.fields[len(s.fields)-1]
			last.value = last.value[:len(last.value)+1+len(line)] // the lines adjoin
			continue
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		switch {
		case !ok || len(name) == 0 || !printable(string(name), false):
			return fail("%.40q is not a field", line)
		case s.index(name) >= 0:
			return fail("%.40q is stated twice", name)
		case len(s.fields) == maxFields:
			return fail("has more than %d fields", maxFields)
		case len(s.fields) == 0:
			s.Offset = start
		}
		s.fields = append(s.fields, field{name, value})
	}
	return off, nil
}

// printable reports whether s is of printable ASCII, with or without blanks.
func printable(s string, blanks bool) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == ' ' && !blanks {
			return false
		}
	}
	return true
}

// Package lines reads statements of members line by line: each line is a word, a space and a value,
// in one order and one spelling. The first error sticks and names format, offset and line.
package lines

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// Reader walks over the lines of a text from outside.
type Reader struct {
	format string
	rest   []byte
	at     int64
	err    error
}

// New returns a reader of a text. Format appears in every error.
func New(format string, text []byte) *Reader { return &Reader{format: format, rest: text} }

// Err returns the first error, a *keystead.FormatError, or nil.
func (r *Reader) Err() error { return r.err }

// Rest is what has not been read.
func (r *Reader) Rest() []byte { return r.rest }

// Fail records an error, unless there is one already.
func (r *Reader) Fail(field, format string, args ...any) {
	if r.err == nil {
		r.err = &keystead.FormatError{Format: r.format, Offset: r.at, Field: field, Problem: fmt.Sprintf(format, args...)}
	}
}

// Line reads a line without its end; "" after an error.
func (r *Reader) Line(field string) string {
	if r.err != nil {
		return ""
	}
	line, rest, found := bytes.Cut(r.rest, []byte("\n"))
	if !found {
		r.Fail(field, "is missing")
		return ""
	}
	r.rest = rest
	r.at += int64(len(line)) + 1
	return string(line)
}

// Next reports whether the next line begins with the word.
func (r *Reader) Next(word string) bool {
	return r.err == nil && bytes.HasPrefix(r.rest, []byte(word+" "))
}

// Value reads the line of a word, and returns what stands behind it.
func (r *Reader) Value(word string) string {
	v, ok := strings.CutPrefix(r.Line(word), word+" ")
	if !ok {
		r.Fail(word, "is missing in its place")
	}
	return v
}

// Number reads the line of a word with a decimal number, of the one spelling.
func (r *Reader) Number(word string, least, most uint64) uint64 {
	v := r.Value(word)
	n, err := strconv.ParseUint(v, 10, 64)
	if r.err == nil && (err != nil || strconv.FormatUint(n, 10) != v || n < least || n > most) {
		r.Fail(word, "%.40q is not a number from %d to %d", v, least, most)
	}
	return n
}

// Domain reads the line of the domain's origin.
func (r *Reader) Domain() keystead.Digest {
	v := r.Value("domain")
	d, err := receipt.ParseOrigin(v)
	if r.err == nil && err != nil {
		r.Fail("domain", "%.100q is not an origin, keystead/ and 64 hex digits", v)
	}
	return d
}

// Digest reads the line of a word with a digest that is not all zeroes.
func (r *Reader) Digest(word string) keystead.Digest {
	d, err := keystead.ParseDigest(r.Value(word))
	if r.err == nil && (err != nil || d.IsZero()) {
		r.Fail(word, "is no digest")
	}
	return d
}

// Policy reads the line "policy", and returns the policy's text behind it: the rest.
func (r *Reader) Policy() []byte {
	if word := r.Line("policy"); r.err == nil && word != "policy" {
		r.Fail("policy", "is %.40q; a line \"policy\" comes before the policy's text", word)
	}
	return r.rest
}

// End demands that nothing follows.
func (r *Reader) End() {
	if r.err == nil && len(r.rest) > 0 {
		r.Fail("end", "is followed by %d bytes", len(r.rest))
	}
}

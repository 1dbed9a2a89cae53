package admit

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// reader takes a statement's fields in their order. The first error sticks.
type reader struct {
	kind   key.Kind
	fields []Field
	err    error
}

func (s *Statement) reader() *reader { return &reader{kind: s.Kind, fields: s.Fields} }

func (r *reader) fail(field, format string, args ...any) {
	if r.err == nil {
		r.err = &keystead.FormatError{Format: string(r.kind), Field: field, Problem: fmt.Sprintf(format, args...)}
	}
}

// is reports whether the next field has that word.
func (r *reader) is(word string) bool {
	return r.err == nil && len(r.fields) > 0 && r.fields[0].Word == word
}

// value takes the next field, which has that word.
func (r *reader) value(word string) string {
	if !r.is(word) {
		got := "the end"
		if len(r.fields) > 0 {
			got = r.fields[0].Word
		}
		r.fail(word, "is missing; %.40q is in its place", got)
		return ""
	}
	v := r.fields[0].Value
	r.fields = r.fields[1:]
	return v
}

func (r *reader) number(word string) uint64 {
	s := r.value(word)
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		r.fail(word, "%.40q is not a decimal number", s)
	}
	return n
}

func (r *reader) digest(word string) keystead.Digest { return r.parse(word, r.value(word)) }

func (r *reader) parse(word, text string) keystead.Digest {
	d, err := keystead.ParseDigest(text)
	if err != nil {
		r.fail(word, "%v", err)
	} else if d.IsZero() {
		r.fail(word, "is all zeroes, which names nothing")
	}
	return d
}

// untilWord stands between a set's digest and the time up to which it counts.
const untilWord = " until "

// dated takes fields of that word, as many as there are: digests, ascending, of which each
// may have a time, which it adds to until.
func (r *reader) dated(word string, until map[keystead.Digest]time.Time) (out []keystead.Digest) {
	for r.is(word) {
		text, at, timed := strings.Cut(r.value(word), untilWord)
		d := r.parse(word, text)
		if n := len(out); n > 0 && string(out[n-1][:]) >= string(d[:]) {
			r.fail(word, "%v is out of order", d)
		}
		out = append(out, d)
		if timed {
			until[d] = r.second(word, at)
		}
	}
	return out
}

// second reads a time in its one spelling.
func (r *reader) second(word, text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if t = t.UTC(); err != nil || t.Unix() <= 0 || t.Format(time.RFC3339) != text {
		r.fail(word, "%.40q is no time after 1970 to the second and in UTC, as 2026-12-01T00:00:00Z is", text)
	}
	return t
}

// digests takes fields of that word, ascending, as many as there are.
func (r *reader) digests(word string) (out []keystead.Digest) {
	for r.is(word) {
		d := r.digest(word)
		if n := len(out); n > 0 && string(out[n-1][:]) >= string(d[:]) {
			r.fail(word, "%v is out of order", d)
		}
		out = append(out, d)
	}
	return out
}

// flag takes "WORD true" if it is there.
func (r *reader) flag(word string) bool {
	if !r.is(word) {
		return false
	}
	if v := r.value(word); v != "true" {
		r.fail(word, "%.40q is not true; a statement that does not mean it leaves the line out", v)
	}
	return true
}

// mayExclude takes how many nodes may fall out, if it is said; apt is whether the statement can
// have any fall out.
func (r *reader) mayExclude(apt bool) uint64 {
	if !r.is(mayExcludeWord) {
		return 0
	}
	n := r.number(mayExcludeWord)
	if n == 0 {
		r.fail(mayExcludeWord, "is 0; a statement by which no node may fall out leaves the line out")
	}
	if !apt {
		r.fail(mayExcludeWord, "stands in a statement by which no node can fall out")
	}
	return n
}

// oneOf takes a field that holds one of the words.
func (r *reader) oneOf(word string, of ...string) string {
	v := r.value(word)
	for _, o := range of {
		if v == o {
			return v
		}
	}
	r.fail(word, "%.40q is not one of %v", v, of)
	return ""
}

func (r *reader) domain(word string) keystead.Digest {
	s := r.value(word)
	if s == noDomain || r.err != nil {
		return keystead.Digest{}
	}
	d, err := receipt.ParseOrigin(s)
	if err != nil {
		r.fail(word, "%v", err)
	}
	return d
}

// subject takes printable ASCII without spaces, as proposals have it.
func (r *reader) subject(word string) string {
	s := r.value(word)
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			r.fail(word, "%.80q has characters that are not printable ASCII", s)
		}
	}
	if len(s) > maxSubject {
		r.fail(word, "is %d bytes long, at most %d are accepted", len(s), maxSubject)
	}
	return s
}

// end wants no more fields.
func (r *reader) end() error {
	if len(r.fields) > 0 {
		r.fail("end", "%.40q is no field of this kind, or out of order", r.fields[0].Word)
	}
	return r.err
}

const maxSubject = 256 // bytes, as in a proposal

package apk

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
)

// Name is what a host's list can say of a package, and what an index is asked for.
type Name struct{ Package, Version, Architecture string }

// String gives the name as a refusal has it: busybox=1.36.1-r15:x86_64.
func (n Name) String() string { return n.Package + "=" + n.Version + ":" + n.Architecture }

func (n Name) check() error {
	for _, s := range []string{n.Package, n.Version, n.Architecture} {
		if s == "" || len(s) > 256 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			return fmt.Errorf("name, version or architecture %.60q is missing, too long or not printable", s)
		}
	}
	return nil
}

// ParseInstalled reads /lib/apk/db/installed and returns the packages in its order. It
// is the host's own word: what it names still has to be found in a signed index. It
// fails with a *keystead.FormatError, also for a package that is stated twice.
func ParseInstalled(raw []byte) ([]Name, error) {
	var out []Name
	seen := map[string]bool{}
	for r, err := range records("apk-installed", raw) {
		if err != nil {
			return nil, err
		}
		n := Name{r.get('P'), r.get('V'), r.get('A')}
		err := n.check()
		if err == nil && seen[n.Package] {
			err = fmt.Errorf("%s is stated twice", n.Package)
		}
		if err != nil {
			return nil, &keystead.FormatError{Format: "apk-installed", Offset: int64(r.offset), Field: "package", Problem: err.Error()}
		}
		seen[n.Package] = true
		out = append(out, n)
	}
	return out, nil
}

// record is one paragraph: lines of a letter, a colon and a value.
type record struct {
	offset int
	first  map[byte]string // of each letter that matters
}

func (r record) get(letter byte) string { return r.first[letter] }

// wanted are the letters that are read (apk-index(5)); only the first of each is, and a
// second one is an error.
const wanted = "CPVASI"

// records yields the paragraphs, and stops after an error.
func records(format string, text []byte) func(yield func(record, error) bool) {
	return func(yield func(record, error) bool) {
		r := record{first: map[byte]string{}}
		offset := 0
		for line := range bytes.Lines(text) {
			at := offset
			offset += len(line)
			line = bytes.TrimSuffix(line, []byte("\n"))
			if len(line) == 0 {
				if len(r.first) > 0 && !yield(r, nil) {
					return
				}
				r = record{offset: offset, first: map[byte]string{}}
				continue
			}
			problem := ""
			switch {
			case len(line) < 2 || line[1] != ':':
				problem = fmt.Sprintf("%.40q is not a letter, a colon and a value", line)
			case bytes.IndexByte(line, 0) >= 0:
				problem = "holds a NUL"
			case strings.IndexByte(wanted, line[0]) < 0:
				continue
			case r.first[line[0]] != "":
				problem = fmt.Sprintf("%.1q is stated twice", line)
			}
			if problem != "" {
				yield(record{}, &keystead.FormatError{Format: format, Offset: int64(at), Field: "line", Problem: problem})
				return
			}
			r.first[line[0]] = string(line[2:])
		}
		if len(r.first) > 0 {
			yield(r, nil)
		}
	}
}

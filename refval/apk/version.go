package apk

import (
	"cmp"
	"strings"
)

// A version is numbers with dots, an optional letter, suffixes such as _rc1 and _p2, an
// optional commit (~abc) and a release (-r3), as apk-tools has it (src/version.c).
type version struct {
	numbers  []string
	letter   byte
	suffixes []suffix
	release  string
	ok       bool
}

type suffix struct {
	rank   int
	number string
}

// ranks are of suffixes; those before none are older than the version without one.
var ranks = map[string]int{"alpha": -4, "beta": -3, "pre": -2, "rc": -1, "cvs": 1, "svn": 2, "git": 3, "hg": 4, "p": 5}

// Compare compares two versions as apk does: negative if a is older than b. A version
// that is not one is older than all that are.
func Compare(a, b string) int {
	v, w := parse(a), parse(b)
	if !v.ok || !w.ok {
		return cmp.Or(cmp.Compare(truth(v.ok), truth(w.ok)), strings.Compare(a, b))
	}
	for i := range max(len(v.numbers), len(w.numbers)) {
		switch {
		case i >= len(v.numbers):
			return -1
		case i >= len(w.numbers):
			return 1
		}
		if c := component(v.numbers[i], w.numbers[i], i == 0); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(v.letter, w.letter); c != 0 {
		return c
	}
	for i := range max(len(v.suffixes), len(w.suffixes)) {
		var s, t suffix
		if i < len(v.suffixes) {
			s = v.suffixes[i]
		}
		if i < len(w.suffixes) {
			t = w.suffixes[i]
		}
		if c := cmp.Or(cmp.Compare(s.rank, t.rank), numeric(s.number, t.number)); c != 0 {
			return c
		}
	}
	return numeric(v.release, w.release)
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// component compares two numbers; after the first, one with a leading zero counts as a
// fraction does.
func component(a, b string, first bool) int {
	if !first && (a[0] == '0' && len(a) > 1 || b[0] == '0' && len(b) > 1) {
		return strings.Compare(a, b)
	}
	return numeric(a, b)
}

func numeric(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func digits(s string) string {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i]
}

func parse(s string) (v version) {
	for {
		n := digits(s)
		if n == "" {
			return v
		}
		v.numbers, s = append(v.numbers, n), s[len(n):]
		if !strings.HasPrefix(s, ".") {
			break
		}
		s = s[1:]
	}
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		v.letter, s = s[0], s[1:]
	}
	for strings.HasPrefix(s, "_") {
		end := 1
		for end < len(s) && s[end] >= 'a' && s[end] <= 'z' {
			end++
		}
		rank, known := ranks[s[1:end]]
		if !known {
			return v
		}
		n := digits(s[end:])
		v.suffixes, s = append(v.suffixes, suffix{rank, n}), s[end+len(n):]
	}
	if strings.HasPrefix(s, "~") {
		s = strings.TrimLeft(s[1:], "0123456789abcdef")
	}
	if strings.HasPrefix(s, "-r") {
		v.release = digits(s[2:])
		if s = s[2+len(v.release):]; v.release == "" {
			return v
		}
	}
	v.ok = s == ""
	return v
}

package rpm

import (
	"cmp"
	"strings"
)

// Compare compares two versions as rpm does, [E:]V[-R] each: negative if a is older than
// b. A release that one of them lacks is not compared.
func Compare(a, b string) int {
	ea, va, ra := split(a)
	eb, vb, rb := split(b)
	c := cmp.Or(segments(ea, eb), segments(va, vb))
	if c == 0 && ra != "" && rb != "" {
		c = segments(ra, rb)
	}
	return c
}

// split takes a version apart. No epoch is epoch 0.
func split(s string) (epoch, version, release string) {
	epoch = "0"
	if e, rest, ok := strings.Cut(s, ":"); ok && strings.Trim(e, "0123456789") == "" {
		epoch, s = cmp.Or(e, "0"), rest
	}
	if i := strings.LastIndexByte(s, '-'); i >= 0 {
		return epoch, s[:i], s[i+1:]
	}
	return epoch, s, ""
}

func digit(c byte) bool  { return c >= '0' && c <= '9' }
func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// segments compares two strings as rpmvercmp does: by runs of digits and of letters.
// A tilde is older than the end, a caret newer than the end and older than all else.
func segments(a, b string) int {
	for a != b {
		a, b = separators(a), separators(b)
		if strings.HasPrefix(a, "~") || strings.HasPrefix(b, "~") {
			if !strings.HasPrefix(a, "~") {
				return 1
			}
			if !strings.HasPrefix(b, "~") {
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		if strings.HasPrefix(a, "^") || strings.HasPrefix(b, "^") {
			switch {
			case a == "":
				return -1
			case b == "":
				return 1
			case a[0] != '^':
				return 1
			case b[0] != '^':
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			break
		}
		kind, number := letter, digit(a[0])
		if number {
			kind = digit
		}
		one, two := run(a, kind), run(b, kind)
		a, b = a[len(one):], b[len(two):]
		switch {
		case two == "" && number: // a number is newer than letters
			return 1
		case two == "":
			return -1
		}
		if number {
			one, two = strings.TrimLeft(one, "0"), strings.TrimLeft(two, "0")
			if c := cmp.Compare(len(one), len(two)); c != 0 {
				return c
			}
		}
		if c := strings.Compare(one, two); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

func run(s string, kind func(byte) bool) string {
	i := 0
	for i < len(s) && kind(s[i]) {
		i++
	}
	return s[:i]
}

// separators takes off what neither counts nor orders.
func separators(s string) string {
	for s != "" && !digit(s[0]) && !letter(s[0]) && s[0] != '~' && s[0] != '^' {
		s = s[1:]
	}
	return s
}

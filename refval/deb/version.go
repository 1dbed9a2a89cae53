package deb

import (
	"cmp"
	"strings"
)

// Compare compares two versions as dpkg does (Debian Policy 5.6.12): negative if a is
// older than b.
func Compare(a, b string) int {
	ea, va, ra := split(a)
	eb, vb, rb := split(b)
	return cmp.Or(segments(ea, eb), segments(va, vb), segments(ra, rb))
}

// split takes a version apart: no epoch is epoch 0, no revision is revision 0.
func split(s string) (epoch, version, revision string) {
	epoch, rest, ok := strings.Cut(s, ":")
	if !ok {
		epoch, rest = "0", s
	}
	if i := strings.LastIndexByte(rest, '-'); i >= 0 {
		return epoch, rest[:i], rest[i+1:]
	}
	return epoch, rest, "0"
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// order gives what sorts before what where no digits are: a tilde before the end,
// letters before everything else.
func order(s string, i int) int {
	switch {
	case i >= len(s) || digit(s[i]):
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z':
		return int(s[i])
	}
	return int(s[i]) + 256
}

// segments compares by pieces without and with digits in turn.
func segments(a, b string) int {
	for a != "" || b != "" {
		i := 0
		for ; i < len(a) && !digit(a[i]) || i < len(b) && !digit(b[i]); i++ {
			if c := cmp.Compare(order(a, i), order(b, i)); c != 0 {
				return c
			}
		}
		a, b = a[min(i, len(a)):], b[min(i, len(b)):]
		na, nb := number(a), number(b)
		a, b = a[len(na):], b[len(nb):]
		na, nb = strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
		if c := cmp.Or(cmp.Compare(len(na), len(nb)), strings.Compare(na, nb)); c != 0 {
			return c
		}
	}
	return 0
}

func number(s string) string {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return s[:i]
}

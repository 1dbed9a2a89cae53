package admit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// teeRootsMagic opens the vendors' roots whose TEEs count, as terms name them
// (docs/spec/roots.md).
const teeRootsMagic = "keystead-tee-roots/1"

// maxTEERoots bounds them, of both kinds.
const maxTEERoots = 64

// FormatTEERoots writes vendors' roots as an object: sorted, each once.
func FormatTEERoots(r evidence.VendorRoots) ([]byte, error) {
	sorted := func(list []keystead.Digest) []keystead.Digest {
		list = slices.Clone(list)
		slices.SortFunc(list, compareDigests)
		return slices.Compact(list)
	}
	text := writeTEERoots(evidence.VendorRoots{Hardware: sorted(r.Hardware), Test: sorted(r.Test)})
	_, err := ParseTEERoots(text)
	return text, err
}

func compareDigests(a, b keystead.Digest) int { return bytes.Compare(a[:], b[:]) }

func writeTEERoots(r evidence.VendorRoots) []byte {
	b := []byte(teeRootsMagic + "\n")
	for _, d := range r.Hardware {
		b = fmt.Appendf(b, "hardware %s\n", d)
	}
	for _, d := range r.Test {
		b = fmt.Appendf(b, "test %s\n", d)
	}
	return b
}

// ParseTEERoots reads vendors' roots. It fails with a *keystead.FormatError. A root is of
// one kind: as one for tests it would weaken what it stands for as a vendor's.
func ParseTEERoots(text []byte) (r evidence.VendorRoots, err error) {
	fail := func(field, format string, args ...any) (evidence.VendorRoots, error) {
		return evidence.VendorRoots{}, &keystead.FormatError{Format: "tee-roots", Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	lines := strings.SplitN(string(text), "\n", maxTEERoots+3)
	switch n := len(lines) - 2; {
	case lines[0] != teeRootsMagic || n < 1 || lines[n+1] != "":
		return fail("whole", "want the line %s and 1 to %d lines of roots", teeRootsMagic, maxTEERoots)
	case n > maxTEERoots:
		return fail("whole", "has more than %d roots", maxTEERoots)
	}
	seen := map[keystead.Digest]bool{}
	for i, line := range lines[1 : len(lines)-1] {
		kind, name, _ := strings.Cut(line, " ")
		d, err := keystead.ParseDigest(name)
		switch {
		case err != nil || d.IsZero():
			return fail("root", "%d has no digest of a root certificate", i+1)
		case seen[d]:
			return fail("root", "%v stands there twice", d)
		case kind == "hardware":
			r.Hardware = append(r.Hardware, d)
		case kind == "test":
			r.Test = append(r.Test, d)
		default:
			return fail("root", "%.40q is neither hardware nor test", kind)
		}
		seen[d] = true
	}
	if !slices.IsSortedFunc(r.Hardware, compareDigests) || !slices.IsSortedFunc(r.Test, compareDigests) || !bytes.Equal(writeTEERoots(r), text) {
		return fail("text", "is not in its one canonical spelling")
	}
	return r, nil
}

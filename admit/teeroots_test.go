package admit_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence"
)

// TestTEERoots: what is written is read, and has one spelling.
func TestTEERoots(t *testing.T) {
	roots := evidence.ShippedRoots()
	roots.Test = []keystead.Digest{keystead.Sum([]byte("b")), keystead.Sum([]byte("a"))}
	text, err := admit.FormatTEERoots(roots)
	must(t, err)
	got, err := admit.ParseTEERoots(text)
	must(t, err)
	if len(got.Hardware) != len(roots.Hardware) || len(got.Test) != 2 || !slices.Contains(got.Test, roots.Test[0]) {
		t.Errorf("%v become %v", roots, got)
	}
	one := "hardware " + keystead.Sum([]byte("a")).String()
	two := "hardware " + keystead.Sum([]byte("b")).String()
	if two < one {
		one, two = two, one
	}
	var many strings.Builder
	for i := range 65 {
		fmt.Fprintf(&many, "hardware %v\n", keystead.Sum([]byte{byte(i)}))
	}
	for what, text := range map[string]string{
		"nothing":           "",
		"no roots":          "keystead-tee-roots/1\n",
		"another format":    "keystead-tee-roots/2\n" + one + "\n",
		"no end":            "keystead-tee-roots/1\n" + one,
		"another kind":      "keystead-tee-roots/1\nsoftware " + one[9:] + "\n",
		"no digest":         "keystead-tee-roots/1\nhardware\n",
		"all zeroes":        "keystead-tee-roots/1\nhardware " + keystead.Digest{}.String() + "\n",
		"out of order":      "keystead-tee-roots/1\n" + two + "\n" + one + "\n",
		"tests first":       "keystead-tee-roots/1\ntest" + one[8:] + "\n" + two + "\n",
		"twice":             "keystead-tee-roots/1\n" + one + "\n" + one + "\n",
		"of both kinds":     "keystead-tee-roots/1\n" + one + "\ntest" + one[8:] + "\n",
		"a space at an end": "keystead-tee-roots/1\n" + one + " \n",
		"65 of them":        "keystead-tee-roots/1\n" + many.String(),
	} {
		var format *keystead.FormatError
		if r, err := admit.ParseTEERoots([]byte(text)); !errors.As(err, &format) {
			t.Errorf("%s: %v, %v", what, r, err)
		}
	}
}

// FuzzTEERoots: what is accepted has one spelling.
func FuzzTEERoots(f *testing.F) {
	roots := evidence.ShippedRoots()
	roots.Test = []keystead.Digest{keystead.Sum([]byte("a"))}
	text, err := admit.FormatTEERoots(roots)
	must(f, err)
	f.Add(text)
	f.Add([]byte("keystead-tee-roots/1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := admit.ParseTEERoots(text); err == nil {
			if again, err := admit.FormatTEERoots(r); err != nil || !bytes.Equal(again, text) {
				t.Errorf("%q becomes %q, %v", text, again, err)
			}
		}
	})
}

package golden

import (
	"slices"
	"testing"
)

// TestDifferences proves that a file notices what went and what came.
func TestDifferences(t *testing.T) {
	for _, tc := range []struct{ want, got, out []string }{
		{[]string{"a", "b"}, []string{"b", "a"}, nil},
		{[]string{"a", "b"}, []string{"a"}, []string{"is gone: b"}},
		{[]string{"a"}, []string{"a", "b"}, []string{"is new: b"}},
		{[]string{"x number"}, []string{"x string"}, []string{"is gone: x number", "is new: x string"}},
	} {
		if out := Differences(tc.want, tc.got); !slices.Equal(out, tc.out) {
			t.Errorf("%q and %q: got %q, want %q", tc.want, tc.got, out, tc.out)
		}
	}
}

// Package golden holds what others build on to a file in testdata: names of metrics, keys of
// configuration, fields of answers. A change of it is then a change that a reader of the diff
// sees, and a test that fails until somebody wrote the file anew on purpose.
package golden

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Check demands that got are the lines of the file, sorted. With update it writes them there.
func Check(t testing.TB, file string, update bool, got []string) {
	t.Helper()
	got = slices.Compact(slices.Sorted(slices.Values(got)))
	if update {
		if err := os.WriteFile(file, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := Read(t, file)
	for _, d := range Differences(want, got) {
		t.Errorf("%s: %s", file, d)
	}
}

// Read returns the lines of a file.
func Read(t testing.TB, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) < 2 {
		t.Fatalf("%s holds nothing", file)
	}
	return lines
}

// Differences says what is in one list and not in the other.
func Differences(want, got []string) (out []string) {
	for _, line := range want {
		if !slices.Contains(got, line) {
			out = append(out, fmt.Sprintf("is gone: %s", line))
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			out = append(out, fmt.Sprintf("is new: %s", line))
		}
	}
	return out
}

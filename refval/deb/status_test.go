package deb

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keystead/keystead"
)

func entry(name, version, arch, state string) string {
	return fmt.Sprintf("Package: %s\nStatus: %s\nArchitecture: %s\nVersion: %s\nConffiles:\n /etc/x 0123\n\n", name, state, arch, version)
}

func TestParseStatus(t *testing.T) {
	names, err := ParseStatus([]byte(entry("zsh", "1:5.9-4", "amd64", "install ok installed") + entry("libc6", "2.36", "i386", "hold ok installed") +
		entry("libc6", "2.36", "amd64", "install ok triggers-pending") + entry("gone", "1", "all", "deinstall ok config-files") +
		"Package: never\nStatus: unknown ok not-installed\nArchitecture: amd64\n\n" + entry("half", "1", "amd64", "install reinstreq half-installed")))
	if want := "[libc6=2.36:amd64 libc6=2.36:i386 zsh=1:5.9-4:amd64]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("%v, %v, want %s", names, err, want)
	}
}

func TestParseStatusRefuses(t *testing.T) {
	ok := "install ok installed"
	for name, tc := range map[string]struct{ text, field, says string }{
		"twice":               {entry("a1", "1", "amd64", ok) + entry("a1", "2", "amd64", ok), "Package", "twice"},
		"twice, once removed": {entry("a1", "1", "amd64", "deinstall ok config-files") + entry("a1", "2", "amd64", ok), "Package", "twice"},
		"version twice":       {strings.Replace(entry("a1", "1", "amd64", ok), "Version:", "version: 2\nVersion:", 1), "stanza", "twice"},
		"version continued":   {strings.Replace(entry("a1", "1", "amd64", ok), "Version: 1\n", "Version: 1\n 2\n", 1), "Package", "characters"},
		"name with a slash":   {entry("../a", "1", "amd64", ok), "Package", "characters"},
		"no version":          {entry("a1", "", "amd64", ok), "Package", "missing"},
		"no status":           {"Package: a1\nVersion: 1\n", "Status", "state"},
		"carriage return":     {entry("a1\rb", "1", "amd64", ok), "Package", "characters"},
	} {
		_, err := ParseStatus([]byte(tc.text))
		var f *keystead.FormatError
		if !errors.As(err, &f) || f.Field != tc.field || !strings.Contains(f.Problem, tc.says) {
			t.Errorf("%s: error %v, want a FormatError of %s with %q", name, err, tc.field, tc.says)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(entry("zsh", "1:5.9-4", "amd64", "install ok installed")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		names, err := ParseStatus(raw)
		if err != nil {
			wantFormatError(t, err)
		}
		for _, n := range names {
			if n.check() != nil || strings.ContainsAny(n.String(), "/ \n\r") {
				t.Fatalf("%q", n)
			}
		}
	})
}

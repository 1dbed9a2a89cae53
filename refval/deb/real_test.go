package deb

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
)

// mustRead reads a file of this machine.
func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func systemKeyring(t testing.TB) Keyring {
	k, err := ParseKeyring(mustRead(t, "/usr/share/keyrings/debian-archive-keyring.gpg"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// aptLists returns this machine's InRelease files of Debian.
func aptLists(t testing.TB) []string {
	found, err := filepath.Glob("/var/lib/apt/lists/*debian*_InRelease")
	if err != nil || len(found) == 0 {
		t.Fatalf("no InRelease of Debian below /var/lib/apt/lists (%v); apt-get update fetches them", err)
	}
	return found
}

func TestRealRelease(t *testing.T) {
	keyring := systemKeyring(t)
	for _, list := range aptLists(t) {
		raw := mustRead(t, list)
		r, err := VerifyRelease(raw, keyring, dateOf(t, raw).Add(time.Hour)) // lists may be older than their Valid-Until
		if err != nil {
			t.Errorf("%s: %v", list, err)
			continue
		}
		if r.Origin != "Debian" || len(r.Signers) == 0 || r.Digest != keystead.Sum(raw) || !r.ByHash {
			t.Errorf("%s: %+v", list, r)
		}
		t.Logf("%s %s of %s, signed by %v", r.Codename, r.Suite, r.Date, r.Signers)
		for _, packages := range lists(t, strings.TrimSuffix(list, "InRelease")) {
			checkRealIndex(t, r, packages)
		}
	}
}

func dateOf(t testing.TB, raw []byte) time.Time {
	_, rest, _ := strings.Cut(string(raw), "\nDate: ")
	line, _, _ := strings.Cut(rest, "\n")
	at, err := time.Parse(time.RFC1123, line)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// lists returns apt's Packages files of a release, with any compression.
func lists(t testing.TB, prefix string) []string {
	found, err := filepath.Glob(prefix + "main_binary-*_Packages*")
	if err != nil || len(found) == 0 {
		t.Fatalf("no Packages files at %s (%v)", prefix, err)
	}
	return found
}

func checkRealIndex(t *testing.T, r *Release, list string) {
	_, suffix, packed := strings.Cut(filepath.Base(list), "_Packages.")
	if packed {
		suffix = "." + suffix
	}
	text, err := Decompress(suffix, mustRead(t, list), MaxIndex)
	if err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	x, err := r.Index("main/binary-amd64/Packages", text)
	if err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	n := 0
	for _, err := range x.Packages() {
		if err != nil {
			t.Fatalf("%s: %v", list, err)
		}
		n++
	}
	if n == 0 {
		t.Errorf("%s: no packages", list)
	}
	if _, err := r.Index("main/binary-amd64/Packages", slices.Concat(text, []byte("\n"))); err == nil {
		t.Error("an index with a byte more was accepted")
	}
}

func TestRealStatus(t *testing.T) {
	names, err := ParseStatus(mustRead(t, "/var/lib/dpkg/status"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(names, func(n Name) bool { return n.Package == "dpkg" }) {
		t.Errorf("%d packages, and dpkg is not among them", len(names))
	}
}

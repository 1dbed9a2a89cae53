package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

func TestParseList(t *testing.T) {
	got, err := parseList([]byte("# a comment\n\ndeb [arch=amd64,i386 signed-by=\"/k.gpg\" trusted=yes] http://d.example/debian stable main contrib # more\n" +
		"deb-src http://d.example/debian stable main\ndeb\thttps://f.example/x ./\n"))
	want := []Source{{"http://d.example/debian", "stable", []string{"main", "contrib"}, []string{"amd64", "i386"}, []string{"/k.gpg"}, nil}, {"https://f.example/x", "./", []string{}, nil, nil, nil}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for text, says := range map[string]string{
		"rpm http://x y z\n": "neither", "deb http://x\n": "a suite", "deb [arch=x http://x y z\n": "no end", "deb http://x stable\n": "components",
		"deb http://x ./ main\n": "components", "deb http://x ../../etc main\n": "upwards",
	} {
		_, err := parseList([]byte(text))
		wantFormatError(t, text, err, says)
	}
}

func TestParseSources(t *testing.T) {
	got, err := parseSources([]byte("# note\nTypes: deb deb-src\n# another\nURIs: http://a.example/d http://b.example/d\nSuites: s s-updates\nComponents: main\nSigned-By: /k.gpg\n AB12\n\n" +
		"Types: deb\nEnabled: no\nURIs: http://c.example\nSuites: s\nComponents: main\n\nTypes: deb-src\nURIs: http://c.example\nSuites: s\nComponents: main\n"))
	if err != nil || len(got) != 4 || fmt.Sprint(got[3]) != "http://b.example/d s-updates" || fmt.Sprint(got[0].SignedBy) != "[/k.gpg AB12]" {
		t.Errorf("%+v, %v", got, err)
	}
	for text, says := range map[string]string{
		"Types: deb\nSuites: s\nComponents: main\n": "no URIs", "Types: deb\nURIs: http://x\nSuites: ../x\nComponents: main\n": "upwards", "Types: deb\nTypes: deb\n": "twice",
	} {
		_, err := parseSources([]byte(text))
		wantFormatError(t, text, err, says)
	}
}

func wantFormatError(t *testing.T, name string, err error, says string) {
	t.Helper()
	var f *keystead.FormatError
	if !errors.As(err, &f) || !strings.Contains(f.Problem, says) {
		t.Errorf("%q: error %v, want a FormatError with %q", name, err, says)
	}
}

// apt's own lists on this machine are where listFile says.
func TestListFile(t *testing.T) {
	found := 0
	for _, s := range debianSources(t) {
		if _, err := os.Stat(filepath.Join("/var/lib/apt/lists", s.listFile("InRelease"))); err == nil {
			found++
		}
	}
	if found == 0 {
		t.Error("no list of this machine's sources is there")
	}
	for uri, want := range map[string]string{
		"https://user:pw@h.example:8080/a_b/": "h.example:8080_a%5fb_dists_s_InRelease", "file:/srv/repo": "_srv_repo_dists_s_InRelease", "file:///srv/repo": "_srv_repo_dists_s_InRelease",
	} {
		if got := (Source{URI: uri, Suite: "s", Components: []string{"c"}}).listFile("InRelease"); got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}

// Whose keys count: the caller's, else Signed-By's, else apt's trusted ones.
func TestKeyring(t *testing.T) {
	b := newBed(t)
	other := debrepo.NewSigner("other", noon, 0)
	b.write("/etc/apt/trusted.gpg.d/both.gpg", append(b.signer.Public(), other.Public()...))
	f := &fetcher{Options: Options{Root: b.root}}
	for name, tc := range map[string]struct {
		source Source
		want   int
	}{
		"file":                    {Source{SignedBy: []string{"/usr/share/keyrings/test.gpg"}}, 1},
		"trusted":                 {Source{}, 2},
		"fingerprint":             {Source{SignedBy: []string{other.Fingerprint() + "!"}}, 1},
		"fingerprint not of file": {Source{SignedBy: []string{"/usr/share/keyrings/test.gpg", other.Fingerprint()}}, 0},
		"unknown fingerprint":     {Source{SignedBy: []string{"AB12"}}, 0},
		"embedded":                {Source{Key: b.signer.Public()}, 1},
	} {
		if k, err := f.keyring(tc.source); err != nil || k.Len() != tc.want {
			t.Errorf("%s: %d certificates, %v, want %d", name, k.Len(), err, tc.want)
		}
	}
	const empty = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n=twTO\n-----END PGP PUBLIC KEY BLOCK-----\n"
	b.write("/usr/share/keyrings/empty.asc", []byte(empty))
	if k, err := f.keyring(Source{SignedBy: []string{"/usr/share/keyrings/empty.asc"}}); err == nil || k.Len() > 0 {
		t.Errorf("a keyring without keys gives %d certificates, %v", k.Len(), err)
	}
	if k, err := f.keyring(Source{Key: []byte(empty)}); err == nil || k.Len() > 0 {
		t.Errorf("an embedded key of nothing gives %d certificates, %v", k.Len(), err)
	}
	if _, err := f.keyring(Source{SignedBy: []string{"/none.gpg"}}); err == nil {
		t.Error("a keyring that is not there was passed over")
	}
	f.Keyring = other.Public()
	if k, err := f.keyring(Source{SignedBy: []string{"/usr/share/keyrings/test.gpg"}}); err != nil || k.Len() != 1 || k.Only(other.Fingerprint()).Len() != 1 {
		t.Errorf("the caller's keyring does not count alone: %v", err)
	}
}

func FuzzSources(f *testing.F) {
	f.Add([]byte("deb [arch=amd64 signed-by=/k] http://d.example/debian stable main\n"))
	f.Add([]byte("Types: deb\nURIs: http://a.example/d\nSuites: s\nComponents: main\nSigned-By: /k.gpg\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		one, _ := parseList(raw)
		two, _ := parseSources(raw)
		for _, s := range append(one, two...) {
			if strings.Contains(s.listFile("InRelease"), "/") {
				t.Fatalf("%+v leads out of the lists", s)
			}
		}
	})
}

func FuzzParseFiles(f *testing.F) {
	files := []deb.File{{File: refval.File{Path: "/a b\n", Digest: digestOf("x")}, Executable: true}}
	f.Add(string(formatFiles(digestOf("deb"), files)))
	f.Fuzz(func(t *testing.T, raw string) {
		body, _, _ := strings.Cut(raw, "sum ")
		sealed := fmt.Sprintf("%ssum %v\n", body, digestOf(body)) // or the fuzzer would never get past the sum
		got, err := parseFiles([]byte(sealed), digestOf("deb"))
		if err == nil && len(got) > strings.Count(body, "\n") {
			t.Fatalf("%d files of %q", len(got), body)
		}
	})
}

// TestPasswordsStayOut: an address of apt's may hold a password, a message never does.
func TestPasswordsStayOut(t *testing.T) {
	closed := newTransport()
	closed.pause = 0
	for _, address := range []string{"http://user:secret@127.0.0.1:1/debian", "ftp://user:secret@d.example/debian", "http://user:secret@d.example:port/%zz", "file://user:secret@d.example/none"} {
		s := Source{URI: address, Suite: "stable", Components: []string{"main"}}
		_, err := closed.get(context.Background(), s.base()+"InRelease", 1)
		if err == nil || strings.Contains(err.Error()+s.String(), "secret") {
			t.Errorf("%s: %v", s, err)
		}
	}
}

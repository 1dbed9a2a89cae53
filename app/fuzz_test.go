package app_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
)

// FuzzProgram reads hostile files. What is read is what signing makes: signing its
// unsigned file anew with the same note gives the same bytes.
func FuzzProgram(f *testing.F) {
	a := specimen.NewAuthority(f)
	for _, k := range []specimen.Kind{specimen.MuslStatic, specimen.CStripped, specimen.CNoSections} {
		b := read(f, specimen.Build(f, k))
		f.Add(b)
		f.Add(signed(f, b, a.Signing(f, "billing", "libc.so.6")))
	}
	roots := a.Roots(f, process.Peer)
	f.Fuzz(func(t *testing.T, b []byte) {
		if image, err := app.ParseImage(bytes.NewReader(b), int64(len(b))); err == nil {
			if _, err := image.FileText(bytes.NewReader(b)); err != nil {
				t.Errorf("segments that are not in the file: %v", err)
			}
		}
		p, err := parse(b)
		if err != nil {
			return
		}
		raw, err := p.Note.Encode()
		if err != nil || !bytes.Contains(b[p.Unsigned().Size():], raw) {
			t.Errorf("a note with two spellings: %v", err)
		}
		m, err := p.FileMeasured()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = p.Verify(m, roots, nobody, a.Now)
	})
}

// FuzzRoots: an object that is read has one spelling.
func FuzzRoots(f *testing.F) {
	a := specimen.NewAuthority(f)
	text, err := app.FormatRoots([]app.Root{{Prefix: "billing", Least: process.Measured, Hosts: []string{"web-1"}, Users: []app.Users{{First: 1, Last: 9}}, Certificate: a.Root}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("keystead-app-roots/1\nroot * peer\nhost *\nuid *\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := app.ParseRoots(b)
		if err != nil {
			return
		}
		if again, err := app.FormatRoots(r.List()); err != nil || !bytes.Equal(again, b) {
			t.Errorf("two spellings: %v", err)
		}
	})
}

// FuzzStatement: what opens was signed as it is.
func FuzzStatement(f *testing.F) {
	s := newStated(f, specimen.NewAuthority(f))
	raw, err := s.Sign(rand.Reader, s.subject)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := app.Open(b, s.expected); err == nil && !bytes.HasPrefix(b, raw[:len(raw)-74]) {
			t.Error("other bytes than were signed opened")
		}
	})
}

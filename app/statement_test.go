package app_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
)

// stated is a sound statement, who signs it, and what the node expects.
type stated struct {
	app.Statement
	subject  crypto.Signer
	expected app.Expected
}

var library = keystead.Sum([]byte("libc"))

func newStated(t testing.TB, a *specimen.Authority) *stated {
	t.Helper()
	file := signed(t, read(t, specimen.Build(t, specimen.MuslStatic)), a.Signing(t, "billing", "libc.so.6", "libm.so.6"))
	p, err := parse(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.FileMeasured()
	if err != nil {
		t.Fatal(err)
	}
	subject := specimen.NewKey(t)
	s := &stated{subject: subject, Statement: app.Statement{Domain: keystead.Sum([]byte("genesis")), Host: "web-1", Lease: 7, Boot: process.BootID{1}, Challenge: [32]byte{2}, Use: app.UseRelease,
		Level: process.Measured, Coverage: app.CoveragePages, UID: 1000, Inode: 99, Program: m, Note: p.Note, Mappings: []app.Mapping{{Name: "libc.so.6", File: library}},
		Attribute: []app.Attribute{{Name: "region", Value: "north"}}}}
	wrapping, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	proven, err := s.ProveP256(rand.Reader, specimen.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.Keys = []app.Key{{Algorithm: app.AlgorithmX25519, Public: wrapping.PublicKey().Bytes()}, proven, s.ProveEd25519(second)}
	s.expected = app.Expected{Domain: s.Domain, Host: s.Host, Lease: s.Lease, Boot: s.Boot, Subject: subject.Public(), Challenge: s.Challenge, Asked: a.Now, Now: a.Now.Add(app.Lifetime), Use: s.Use,
		Least: process.Measured, Roots: a.Roots(t, process.Measured), At: a.Now, Denied: nobody, Known: func(d keystead.Digest) bool { return d == library }}
	return s
}

// TestStatement has an agent that lies, another host's, an old answer, and an application
// that is not what it should be: each is refused by name.
func TestStatement(t *testing.T) {
	a := specimen.NewAuthority(t)
	sound := newStated(t, a)
	raw, err := sound.Sign(rand.Reader, sound.subject)
	if err != nil {
		t.Fatal(err)
	}
	got, err := app.Open(raw, sound.expected)
	if err != nil || got.Identity().Name() != "billing" || got.Level() != process.Measured || got.Statement().UID != 1000 {
		t.Fatalf("%v: %v", got, err)
	}
	for name, tc := range map[string]struct {
		change func(s *stated)
		want   keystead.Reason
	}{
		"another host's key signs":           {func(s *stated) { s.subject = specimen.NewKey(t) }, keystead.ReasonReportForeign},
		"another domain":                     {func(s *stated) { s.Domain[0] ^= 1 }, keystead.ReasonReportForeign},
		"another host":                       {func(s *stated) { s.Host = "web-2" }, keystead.ReasonReportForeign},
		"an older lease":                     {func(s *stated) { s.Lease-- }, keystead.ReasonReportForeign},
		"another boot":                       {func(s *stated) { s.Boot[0] ^= 1 }, keystead.ReasonReportForeign},
		"another challenge":                  {func(s *stated) { s.Challenge[0] ^= 1 }, keystead.ReasonReportReplayed},
		"31 seconds later":                   {func(s *stated) { s.expected.Now = a.Now.Add(31 * time.Second) }, keystead.ReasonReportReplayed},
		"before it was asked":                {func(s *stated) { s.expected.Now = a.Now.Add(-time.Second) }, keystead.ReasonReportReplayed},
		"for another use":                    {func(s *stated) { s.Use = app.UseMember }, keystead.ReasonApplicationMismatch},
		"a level too low":                    {func(s *stated) { s.expected.Least = process.Launched }, keystead.ReasonLevelLow},
		"a level too low for its root":       {func(s *stated) { s.expected.Roots = a.Roots(t, process.Launched) }, keystead.ReasonLevelLow},
		"another program":                    {func(s *stated) { s.Program.File[0] ^= 1 }, keystead.ReasonAppAltered},
		"other memory":                       {func(s *stated) { s.Program.Text[0] ^= 1 }, keystead.ReasonTextAltered},
		"a library that it does not name":    {func(s *stated) { s.Mappings[0].Name = "libevil.so" }, keystead.ReasonMappingForeign},
		"a library that no set has":          {func(s *stated) { s.Mappings[0].File[0] ^= 1 }, keystead.ReasonMappingForeign},
		"a revoked program":                  {func(s *stated) { s.expected.Denied = func(keystead.Digest) bool { return true } }, keystead.ReasonAppCertRevoked},
		"after its certificate's time":       {func(s *stated) { s.expected.At = a.Now.Add(time.Hour) }, keystead.ReasonAppCertExpired},
		"a key of another application":       {func(s *stated) { s.Keys[1].Public = newStated(t, a).Keys[1].Public }, keystead.ReasonSignatureInvalid},
		"a key whose proof is for elsewhere": {func(s *stated) { s.Keys[2] = newStated(t, a).Keys[2]; s.Keys[2].Proof[0] ^= 1 }, keystead.ReasonSignatureInvalid},
		"a key that is none":                 {func(s *stated) { s.Keys[0].Public = s.Keys[0].Public[:31] }, keystead.ReasonMalformed},
		"a key of no algorithm":              {func(s *stated) { s.Keys[0].Algorithm = "rsa" }, keystead.ReasonMalformed},
		"a wrapping key with a proof":        {func(s *stated) { s.Keys[0].Proof = []byte{1} }, keystead.ReasonSignatureInvalid},
	} {
		s := newStated(t, a)
		s.expected.Roots, s.expected.Denied = sound.expected.Roots, nobody
		tc.change(s)
		raw, err := s.Sign(rand.Reader, s.subject)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, err = app.Open(raw, s.expected)
		wantReason(t, name, err, tc.want)
	}
}

// TestStatementBytes flips every bit of a statement: none opens.
func TestStatementBytes(t *testing.T) {
	s := newStated(t, specimen.NewAuthority(t))
	raw, err := s.Sign(rand.Reader, s.subject)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		if _, err := app.Open(bad, s.expected); err == nil {
			t.Fatalf("a statement with another byte %d was opened", i)
		}
	}
	for i := range raw {
		if _, err := app.Open(raw[:i], s.expected); err == nil {
			t.Fatalf("the first %d bytes were opened", i)
		}
	}
	if _, err := app.Open(append(bytes.Clone(raw), 0), s.expected); err == nil {
		t.Error("a byte behind a statement was passed over")
	}
}

// TestStatementsThatNobodyMakes are those whose level says more than they show.
func TestStatementsThatNobodyMakes(t *testing.T) {
	a := specimen.NewAuthority(t)
	for name, change := range map[string]func(s *stated){
		"no level":                  func(s *stated) { s.Level = 0 },
		"a level of later":          func(s *stated) { s.Level = 4 },
		"measured, unsigned":        func(s *stated) { s.Note = nil },
		"measured, nothing seen":    func(s *stated) { s.Coverage = app.CoverageNone },
		"peer, with memory":         func(s *stated) { s.Level = process.Peer },
		"no process":                func(s *stated) { s.Inode = 0 },
		"no program":                func(s *stated) { s.Program.File = keystead.Digest{} },
		"no use":                    func(s *stated) { s.Use = "" },
		"no such coverage":          func(s *stated) { s.Coverage = "all" },
		"mappings out of order":     func(s *stated) { s.Mappings = append(s.Mappings, app.Mapping{Name: "a.so"}) },
		"a mapping twice":           func(s *stated) { s.Mappings = append(s.Mappings, s.Mappings[0]) },
		"an attribute twice":        func(s *stated) { s.Attribute = append(s.Attribute, s.Attribute[0]) },
		"an attribute of two lines": func(s *stated) { s.Attribute[0].Value = "a\nb" },
		"a host of two words":       func(s *stated) { s.Host = "web 1" },
		"nine keys":                 func(s *stated) { s.Keys = make([]app.Key, 9) },
	} {
		s := newStated(t, a)
		change(s)
		var format *keystead.FormatError
		if _, err := s.Sign(rand.Reader, s.subject); !errors.As(err, &format) {
			t.Errorf("%s: want a FormatError, got %v", name, err)
		}
	}
	s := newStated(t, a) // an unsigned program is known at level peer, as nobody
	s.Level, s.Coverage, s.Mappings, s.Note, s.Program.Text = process.Peer, app.CoverageNone, nil, nil, keystead.Digest{}
	s.Keys = nil
	s.expected.Least = process.Peer
	raw, err := s.Sign(rand.Reader, s.subject)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := app.Open(raw, s.expected); err != nil || got.Identity() != (app.Identity{}) {
		t.Errorf("%v: %v", got, err)
	}
}

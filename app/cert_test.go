package app_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
)

func formatRoots(t testing.TB, list ...app.Root) *app.Roots {
	t.Helper()
	text, err := app.FormatRoots(list)
	if err != nil {
		t.Fatal(err)
	}
	r, err := app.ParseRoots(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCertificates holds programs to the roots of the domain.
func TestCertificates(t *testing.T) {
	a, stranger := specimen.NewAuthority(t), specimen.NewAuthority(t)
	file := signed(t, read(t, specimen.Build(t, specimen.MuslStatic)), a.Signing(t, "billing/web"))
	p, err := parse(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.FileMeasured()
	if err != nil {
		t.Fatal(err)
	}
	roots := a.Roots(t, process.Measured)
	id, err := p.Verify(m, roots, nobody, a.Now)
	if err != nil {
		t.Fatal(err)
	}
	root := func(prefix string) app.Root {
		return app.Root{Prefix: prefix, Least: process.Measured, Hosts: []string{"web-1"}, Users: []app.Users{{First: 100, Last: 200}}, Certificate: a.Root}
	}
	is := func(d keystead.Digest) func(keystead.Digest) bool {
		return func(o keystead.Digest) bool { return d == o }
	}
	for name, tc := range map[string]struct {
		roots  *app.Roots
		denied func(keystead.Digest) bool
		at     time.Time
		want   keystead.Reason
	}{
		"a root of another domain":       {stranger.Roots(t, process.Peer), nobody, a.Now, keystead.ReasonAppCertForeign},
		"no roots":                       {&app.Roots{}, nobody, a.Now, keystead.ReasonAppCertForeign},
		"a root for other names":         {formatRoots(t, root("bill"), root("shop")), nobody, a.Now, keystead.ReasonAppCertForeign},
		"after its time":                 {roots, nobody, a.Now.Add(time.Hour), keystead.ReasonAppCertExpired},
		"before its time":                {roots, nobody, a.Now.Add(-time.Hour), keystead.ReasonAppCertExpired},
		"its key is denied":              {roots, is(id.Key()), a.Now, keystead.ReasonAppCertRevoked},
		"its program is denied":          {roots, is(id.Program()), a.Now, keystead.ReasonAppCertRevoked},
		"a root for its first word":      {formatRoots(t, root("billing")), nobody, a.Now, ""},
		"a root for its name, and a far": {formatRoots(t, root("billing/web"), root("shop")), nobody, a.Now, ""},
	} {
		_, err := p.Verify(m, tc.roots, tc.denied, tc.at)
		if tc.want != "" {
			wantReason(t, name, err, tc.want)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	narrow := formatRoots(t, app.Root{Prefix: "*", Least: process.Peer, Hosts: []string{"*"}, Users: []app.Users{app.EveryUser}, Certificate: a.Root}, root("billing"))
	if id, err = p.Verify(m, narrow, nobody, a.Now); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the longest prefix counts", id.Admits(process.Peer, "web-1", 150), keystead.ReasonLevelLow)
	wantReason(t, "another host", id.Admits(process.Launched, "web-2", 150), keystead.ReasonApplicationMismatch)
	wantReason(t, "another user", id.Admits(process.Launched, "web-1", 201), keystead.ReasonApplicationMismatch)
	wantReason(t, "nobody", app.Identity{}.Admits(process.Launched, "web-1", 150), keystead.ReasonApplicationMismatch)
	if err := id.Admits(process.Measured, "web-1", 200); err != nil {
		t.Error(err)
	}
}

// TestForeignCertificates signs with certificates that are no sub-certificates.
func TestForeignCertificates(t *testing.T) {
	a := specimen.NewAuthority(t)
	b := read(t, specimen.Build(t, specimen.MuslStatic))
	good, other := a.Signing(t, "billing"), a.Signing(t, "shop")
	sign := func(s app.Signing) error {
		_, err := app.Sign(rand.Reader, bytes.NewReader(b), int64(len(b)), s)
		return err
	}
	for name, s := range map[string]app.Signing{
		"the root itself":       {Name: "billing", Certificate: a.Root, Key: a.RootKey},
		"of another name":       {Name: "shop", Certificate: good.Certificate, Key: good.Key},
		"of another key":        {Name: "billing", Certificate: good.Certificate, Key: other.Key},
		"cut":                   {Name: "billing", Certificate: good.Certificate[:100], Key: good.Key},
		"with a byte behind it": {Name: "billing", Certificate: append(bytes.Clone(good.Certificate), 0), Key: good.Key},
		"of 5 KiB":              {Name: "billing", Certificate: make([]byte, 5<<10), Key: good.Key},
	} {
		wantReason(t, name, sign(s), keystead.ReasonAppCertForeign)
	}
	_, err := app.Issue(rand.Reader, good.Certificate, good.Key, "billing/more", other.Key.Public(), a.Validity())
	wantReason(t, "a sub-certificate issues", err, keystead.ReasonAppCertForeign)
	_, err = app.Issue(rand.Reader, a.Root, good.Key, "billing", other.Key.Public(), a.Validity())
	wantReason(t, "another key than the root's issues", err, keystead.ReasonAppCertForeign)
	for _, name := range []string{"", "Billing", "a//b", "/a", "a/", ".a", "a/../b", "a b", strings.Repeat("a", 129), "a\n", "ä"} {
		if _, err := app.Issue(rand.Reader, a.Root, a.RootKey, name, other.Key.Public(), a.Validity()); err == nil {
			t.Errorf("the name %q was issued", name)
		}
	}
}

// TestRoots holds the object app-roots to its one spelling.
func TestRoots(t *testing.T) {
	a, b := specimen.NewAuthority(t), specimen.NewAuthority(t)
	good, err := app.FormatRoots([]app.Root{
		{Prefix: "shop", Least: process.Launched, Hosts: []string{"*"}, Users: []app.Users{app.EveryUser}, Certificate: b.Root},
		{Prefix: "billing", Least: process.Measured, Hosts: []string{"web-1", "web-2"}, Users: []app.Users{{First: 0, Last: 0}, {First: 100, Last: 200}}, Certificate: a.Root},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := app.ParseRoots(good)
	if err != nil || len(r.List()) != 2 || r.List()[0].Prefix != "billing" {
		t.Fatalf("%v, %v", r, err)
	}
	text := string(good)
	first, second := text[:strings.Index(text, "root shop")], text[strings.Index(text, "root shop"):]
	change := func(from, to string) string {
		if !strings.Contains(text, from) {
			t.Fatalf("no %q to change", from)
		}
		return strings.Replace(text, from, to, 1)
	}
	for name, bad := range map[string]string{
		"nothing":                 "",
		"no roots":                "keystead-app-roots/1\n",
		"another version":         change("roots/1", "roots/2"),
		"cut":                     text[:len(text)-1],
		"a line behind":           text + "\n",
		"out of order":            "keystead-app-roots/1\n" + second + strings.TrimPrefix(first, "keystead-app-roots/1\n"),
		"twice":                   text + second,
		"no host":                 change("host web-1\nhost web-2\n", ""),
		"every host and one":      change("host web-1", "host *"),
		"hosts out of order":      change("host web-1\nhost web-2", "host web-2\nhost web-1"),
		"a host twice":            change("host web-1", "host web-2"),
		"a host with a space":     change("host web-1", "host web 1"),
		"no user":                 change("uid 0\nuid 100-200\n", ""),
		"users that overlap":      change("uid 0\n", "uid 0-100\n"),
		"users backwards":         change("uid 100-200", "uid 200-100"),
		"a user spelled in words": change("uid 0\n", "uid root\n"),
		"a user spelled twice":    change("uid 0\n", "uid 00\n"),
		"a user too great":        change("100-200", "100-4294967296"),
		"every user, in numbers":  change("uid *", "uid 0-4294967295"),
		"no such level":           change("measured", "trusted"),
		"no level":                change(" measured", ""),
		"a prefix of no name":     change("root billing", "root Billing"),
		"a slash":                 change("root billing", "root billing/"),
		"a header in the PEM":     change("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nA: b\n\n"),
		"text before the PEM":     change("-----BEGIN", "hello\n-----BEGIN"),
		"another kind of PEM":     strings.ReplaceAll(text, "CERTIFICATE", "PUBLIC KEY"),
		"carriage returns":        strings.ReplaceAll(text, "\n", "\r\n"),
	} {
		var format *keystead.FormatError
		if _, err := app.ParseRoots([]byte(bad)); !errors.As(err, &format) {
			t.Errorf("%s: want a FormatError, got %v", name, err)
		}
	}
	sub := app.Root{Prefix: "*", Least: process.Peer, Hosts: []string{"*"}, Users: []app.Users{app.EveryUser}, Certificate: a.Signing(t, "x").Certificate}
	if _, err := app.FormatRoots([]app.Root{sub}); err == nil {
		t.Error("a sub-certificate became a root")
	}
	if _, err := app.ParseRoots(make([]byte, app.MaxRoots+1)); err == nil {
		t.Error("more than 1 MiB was read")
	}
}

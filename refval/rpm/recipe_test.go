package rpm

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// pantry holds objects by their digest.
type pantry map[keystead.Digest][]byte

func (p pantry) put(b []byte) keystead.Digest {
	p[keystead.Sum(b)] = b
	return keystead.Sum(b)
}

func (p pantry) get(d keystead.Digest) ([]byte, error) {
	if b, ok := p[d]; ok {
		return b, nil
	}
	return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMissing, Where: d.String()})
}

func (p pantry) pack(t testing.TB, blobs ...[]byte) keystead.Digest {
	t.Helper()
	packed, err := Pack(func(yield func([]byte, error) bool) {
		for _, b := range blobs {
			if !yield(b, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.put(packed)
}

// TestRecipe rebuilds a set of headers that rpm's own tools made, and attacks the recipe.
func TestRecipe(t *testing.T) {
	s, p := tools(t), pantry{}
	blobs := s.blobs(t)
	now := time.Now().Add(time.Minute).UTC().Truncate(time.Second)
	recipe := func(key []byte, packages string, list keystead.Digest) *Recipe {
		return &Recipe{At: now, Selection: refval.SelectAll, Vendors: []RecipeVendor{{"acme", []string{packages}, p.put(key)}}, Headers: []keystead.Digest{list}}
	}
	good := recipe(s.vendorKey, "*", p.pack(t, blobs["good"]))
	parsed, err := ParseRecipe(good.Text())
	if err != nil || !bytes.Equal(parsed.Text(), good.Text()) {
		t.Fatal(err)
	}
	first, err := parsed.Rebuild(p.get)
	if err != nil {
		t.Fatal(err)
	}
	src, ok := first.Lookup(keystead.Sum([]byte("#!/bin/sh\necho good\n")))
	if !ok || src.Package != "good" || src.Path != "/usr/bin/good" || first.Header().Packages[0].Strength != refval.StrengthSignedHeader {
		t.Errorf("%+v, %v", src, ok)
	}
	if again, err := good.Rebuild(p.get); err != nil || !bytes.Equal(again.Bytes(), first.Bytes()) {
		t.Errorf("another who rebuilds it: %v", err)
	}

	content := keystead.Sum([]byte("#!/bin/sh\necho good\n"))
	evil := keystead.Sum([]byte("evil"))
	hexOf := func(d keystead.Digest) []byte { return []byte(strings.TrimPrefix(d.String(), "sha256:")) }
	early := *good
	early.At = now.Add(-24 * time.Hour)
	absent := *good
	absent.Headers = []keystead.Digest{keystead.Sum([]byte("nobody has this"))}
	for name, tc := range map[string]struct {
		recipe *Recipe
		reason keystead.Reason
	}{
		"a digest of a file altered":       {recipe(s.vendorKey, "*", p.pack(t, bytes.Replace(blobs["good"], hexOf(content), hexOf(evil), 1))), keystead.ReasonHeaderAltered},
		"a package that nobody signed":     {recipe(s.vendorKey, "*", p.pack(t, blobs["good"], blobs["unsigned"])), keystead.ReasonPackageUnsigned},
		"a package of a stranger":          {recipe(s.vendorKey, "*", p.pack(t, blobs["foreign"])), keystead.ReasonPackageForeign},
		"another key":                      {recipe(s.strangerKey, "*", p.pack(t, blobs["good"])), keystead.ReasonPackageForeign},
		"a package not the vendor's":       {recipe(s.vendorKey, "acme-*", p.pack(t, blobs["good"])), keystead.ReasonPackageForeign},
		"digests by MD5":                   {recipe(s.vendorKey, "*", p.pack(t, blobs["weak"])), keystead.ReasonDigestWeak},
		"a signature after the time":       {&early, keystead.ReasonPackageForeign},
		"a list of headers nobody has":     {&absent, keystead.ReasonObjectMissing},
		"two headers, of which one passes": {recipe(s.vendorKey, "*", p.pack(t, blobs["foreign"], blobs["good"])), keystead.ReasonPackageForeign},
	} {
		set, err := tc.recipe.Rebuild(p.get)
		if wantReason(t, name, err, tc.reason, ""); set != nil {
			t.Errorf("%s: gives a set", name)
		}
	}
	var format *keystead.FormatError
	if _, err := recipe(s.vendorKey, "*", p.put([]byte("no list"))).Rebuild(p.get); !errors.As(err, &format) {
		t.Errorf("what is no list of headers: %v", err)
	}
}

const recipeSample = RecipeMagic + "\nat 2026-03-01T13:00:00Z\nselection executable\nvendor acme * sha256:1111111111111111111111111111111111111111111111111111111111111111\nheaders sha256:2222222222222222222222222222222222222222222222222222222222222222\n"

func TestParseRecipe(t *testing.T) {
	if _, err := ParseRecipe([]byte(recipeSample)); err != nil {
		t.Fatal(err)
	}
	head, tail, _ := strings.Cut(recipeSample, "vendor")
	vendor, headers, _ := strings.Cut("vendor"+tail, "\n")
	for name, text := range map[string]string{
		"empty":           "",
		"no last newline": strings.TrimSuffix(recipeSample, "\n"),
		"another version": strings.Replace(recipeSample, "/1", "/2", 1),
		"of EFI":          strings.Replace(recipeSample, "executable", "efi", 1),
		"no vendor":       head + headers,
		"no headers":      head + vendor + "\n",
		"another order":   head + headers + vendor + "\n",
		"time of a zone":  strings.Replace(recipeSample, "13:00:00Z", "13:00:00+01:00", 1),
		"many lists":      recipeSample + strings.Repeat(headers, maxRecipeHeaders),
		"too long":        strings.Repeat(" ", maxRecipe+1),
	} {
		var format *keystead.FormatError
		if _, err := ParseRecipe([]byte(text)); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseRecipe(f *testing.F) {
	f.Add([]byte(recipeSample))
	f.Add([]byte(RecipeMagic + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := ParseRecipe(text); err == nil && !bytes.Equal(r.Text(), text) {
			t.Errorf("%q is accepted and written as %q", text, r.Text())
		}
	})
}

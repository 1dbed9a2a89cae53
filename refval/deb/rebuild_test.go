package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/refval"
)

// pantry holds bytes by their digest.
type pantry map[keystead.Digest][]byte

func (p pantry) put(b []byte) Pieces {
	d := keystead.Sum(b)
	p[d] = b
	return Pieces{d}
}

var errAbsent = errors.New("absent")

func (p pantry) get(d keystead.Digest) ([]byte, error) {
	if b, ok := p[d]; ok {
		return b, nil
	}
	return nil, errAbsent
}

// sampleRecipe is of a repository with one package, whose files it puts into the pantry.
func sampleRecipe(p pantry, keys *debrepo.Signer, r debrepo.Repository) *Recipe {
	files := r.Files()
	dist := "dists/" + r.Suite + "/"
	out := &Recipe{At: noon.Add(time.Hour), Selection: refval.SelectAll, Repositories: []RecipeRepository{{
		Keyring: p.put(keys.Public()), Suite: r.Suite, InRelease: p.put(files[dist+"InRelease"]),
		Indexes: []RecipeIndex{{debrepo.IndexName + ".gz", p.put(files[dist+debrepo.IndexName+".gz"])}},
	}}}
	for _, x := range r.Packages {
		out.Packages = append(out.Packages, RecipePackage{Name{x.Name, x.Version, x.Architecture}, p.put(x.Deb)})
	}
	return out
}

func toolRepository(signers ...*debrepo.Signer) debrepo.Repository {
	r := sampleRepository(signers...)
	r.Packages[0].Deb = debrepo.Deb(".gz", tar.Header{Name: "./usr/bin/hello", Typeflag: tar.TypeReg, Mode: 0o755, Uname: "hello"})
	return r
}

// TestRebuild builds a set from a recipe's bytes, whole and in pieces.
func TestRebuild(t *testing.T) {
	vendor := debrepo.NewSigner("vendor", noon.Add(-time.Hour), 0)
	p := pantry{}
	recipe := sampleRecipe(p, vendor, toolRepository(vendor))
	recipe.Packages = append(recipe.Packages, RecipePackage{Name: Name{"gone", "1", "amd64"}})
	set, err := Rebuild(recipe, p.get)
	if err != nil {
		t.Fatal(err)
	}
	if source, ok := set.Lookup(keystead.Sum([]byte("hello"))); !ok || source.Package != "hello" || source.Path != "/usr/bin/hello" {
		t.Errorf("%+v, %v", source, ok)
	}
	if m := set.Header().Missing; len(m) != 1 || m[0].Name != "gone" {
		t.Errorf("missing: %+v", m)
	}
	whole := p[recipe.Packages[0].Pieces[0]]
	recipe.Packages[0].Pieces = append(p.put(whole[:100]), p.put(whole[100:])...)
	again, err := Rebuild(recipe, p.get)
	if err != nil || again.Digest() != set.Digest() {
		t.Errorf("in pieces: %v, %v", again, err)
	}
}

// TestRebuildRefuses gives recipes whose bytes do not prove what they say.
func TestRebuildRefuses(t *testing.T) {
	vendor, stranger := debrepo.NewSigner("vendor", noon.Add(-time.Hour), 0), debrepo.NewSigner("stranger", noon.Add(-time.Hour), 0)
	for _, tc := range []struct {
		name   string
		change func(*Recipe, pantry)
		reason error
	}{
		{"signed by a stranger", func(r *Recipe, p pantry) { r.Repositories[0].Keyring = p.put(stranger.Public()) }, keystead.ReasonIndexUnsigned},
		{"after its end", func(r *Recipe, p pantry) { r.At = noon.Add(30 * 24 * time.Hour) }, keystead.ReasonIndexExpired},
		{"before its date", func(r *Recipe, p pantry) { r.At = noon.Add(-time.Minute) }, keystead.ReasonIndexFuture},
		{"another suite", func(r *Recipe, p pantry) { r.Repositories[0].Suite = "oldstable" }, keystead.ReasonIndexMismatch},
		{"an altered index", func(r *Recipe, p pantry) {
			r.Repositories[0].Indexes[0].Pieces = p.put(debrepo.Pack(".gz", []byte("Package: evil\n")))
		}, keystead.ReasonIndexMismatch},
		{"an altered package", func(r *Recipe, p pantry) {
			r.Packages[0].Pieces = p.put(debrepo.Deb(".gz", tar.Header{Name: "./usr/bin/hello", Typeflag: tar.TypeReg, Mode: 0o755, Uname: "other"}))
		}, keystead.ReasonPackageMissing},
		{"a package that is offered and left out", func(r *Recipe, p pantry) { r.Packages[0].Pieces = nil }, keystead.ReasonPackageMissing},
		{"bytes that are not to be had", func(r *Recipe, p pantry) { delete(p, r.Packages[0].Pieces[0]) }, errAbsent},
	} {
		p := pantry{}
		recipe := sampleRecipe(p, vendor, toolRepository(vendor))
		tc.change(recipe, p)
		if _, err := Rebuild(recipe, p.get); !errors.Is(err, tc.reason) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.reason)
		}
	}
}

// TestRecipeText writes and reads a recipe, and breaks its lines.
func TestRecipeText(t *testing.T) {
	vendor := debrepo.NewSigner("vendor", noon.Add(-time.Hour), 0)
	p := pantry{}
	recipe := sampleRecipe(p, vendor, toolRepository(vendor))
	text := recipe.Text()
	again, err := ParseRecipe(text)
	if err != nil || !bytes.Equal(again.Text(), text) {
		t.Fatalf("%v\n%s", err, text)
	}
	if got := again.Objects(); len(got) != 4 || !slices.Contains(got, recipe.Packages[0].Pieces[0]) {
		t.Errorf("objects: %v", got)
	}
	for _, edit := range [][2]string{{"recipe/1", "recipe/2"}, {"at 2026", "at 20x6"}, {"selection all", "selection mixed"}, {"keyring ", "keyrings "},
		{"repository stable sha256:", "repository stable sha1:"}, {"package hello", "package HELLO"}, {"Z\n", "+00:00\n"}, {"index ", "index  "}} {
		if _, err := ParseRecipe([]byte(strings.Replace(string(text), edit[0], edit[1], 1))); err == nil {
			t.Errorf("%q for %q was accepted", edit[1], edit[0])
		}
	}
	if _, err := ParseRecipe(nil); err == nil {
		t.Error("an empty text was accepted")
	}
}

func FuzzParseRecipe(f *testing.F) {
	vendor := debrepo.NewSigner("vendor", noon.Add(-time.Hour), 0)
	f.Add(sampleRecipe(pantry{}, vendor, toolRepository(vendor)).Text())
	f.Add([]byte("keystead-recipe/1\nat 2026-03-01T12:00:00Z\nselection all\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := ParseRecipe(text); err == nil && !bytes.Equal(r.Text(), text) {
			t.Errorf("%q is read as %q", text, r.Text())
		}
	})
}

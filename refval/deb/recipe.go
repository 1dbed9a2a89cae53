package deb

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// recipeMagic is a recipe's first line and carries its version. It only ever grows:
//
//	1  at, selection, repositories with their keyrings and indexes, packages
const recipeMagic = "keystead-recipe/1"

// MaxRecipe bounds a recipe, in bytes. It holds for a distribution's every package.
const MaxRecipe = 16 << 20

// A Recipe names the repository bytes from which a reference set is built, each
// file by the digests of its pieces, in order. It says nothing of what they contain:
// [Rebuild] verifies them from the keyrings down. Text: docs/spec/refset.md.
type Recipe struct {
	At           time.Time // of judgement of signatures and dates, to the second
	Selection    refval.Selection
	Repositories []RecipeRepository
	Packages     []RecipePackage
}

// Pieces are the digests of the parts of a file, which may be too large for one object.
type Pieces []keystead.Digest

// RecipeRepository is a signed index and what it covers.
type RecipeRepository struct {
	Keyring   Pieces // certificates that may sign it
	InRelease Pieces
	Suite     string // or codename, that it must be of
	Indexes   []RecipeIndex
}

// RecipeIndex is a Packages file, packed or not, under the name that InRelease has.
type RecipeIndex struct {
	Name   string // such as main/binary-amd64/Packages.xz
	Pieces Pieces
}

// RecipePackage is a package file. Without pieces, it is one that no index offers.
type RecipePackage struct {
	Name
	Pieces Pieces
}

// Objects returns the digests of all that the recipe names.
func (r *Recipe) Objects() (out []keystead.Digest) {
	for _, repo := range r.Repositories {
		out = append(append(out, repo.Keyring...), repo.InRelease...)
		for _, x := range repo.Indexes {
			out = append(out, x.Pieces...)
		}
	}
	for _, p := range r.Packages {
		out = append(out, p.Pieces...)
	}
	return out
}

// Text returns the recipe's one text.
func (r *Recipe) Text() []byte {
	b := fmt.Appendf(nil, "%s\nat %s\nselection %s\n", recipeMagic, r.At.UTC().Format(time.RFC3339), r.Selection)
	for _, repo := range r.Repositories {
		b = fmt.Appendf(b, "keyring%s\nrepository %s%s\n", repo.Keyring, repo.Suite, repo.InRelease)
		for _, x := range repo.Indexes {
			b = fmt.Appendf(b, "index %s%s\n", x.Name, x.Pieces)
		}
	}
	for _, p := range r.Packages {
		b = fmt.Appendf(b, "package %s %s %s%s\n", p.Package, p.Version, p.Architecture, p.Pieces)
	}
	return b
}

// String gives the digests, each after a blank.
func (p Pieces) String() string {
	var b strings.Builder
	for _, d := range p {
		b.WriteByte(' ')
		b.WriteString(d.String())
	}
	return b.String()
}

// ParseRecipe reads a recipe. It fails with a *keystead.FormatError, and accepts
// only the spelling that Text gives.
func ParseRecipe(text []byte) (*Recipe, error) {
	if len(text) > MaxRecipe {
		return nil, recipeError(0, "whole", "is %d bytes long, at most %d are accepted", len(text), MaxRecipe)
	}
	r := &Recipe{}
	line, offset := 0, 0
	for raw := range bytes.Lines(text) {
		words := strings.Split(strings.TrimSuffix(string(raw), "\n"), " ")
		if err := r.line(line, words); err != nil {
			return nil, recipeError(offset, words[0], "%v", err)
		}
		line++
		offset += len(raw)
	}
	if line < 3 || !bytes.Equal(r.Text(), text) {
		return nil, recipeError(0, "text", "is not in its one canonical spelling")
	}
	return r, nil
}

func recipeError(offset int, field, format string, args ...any) error {
	return &keystead.FormatError{Format: "recipe", Offset: int64(offset), Field: fmt.Sprintf("%.40q", field), Problem: fmt.Sprintf(format, args...)}
}

// line reads one line, by its number and its words.
func (r *Recipe) line(n int, words []string) (err error) {
	head := []string{recipeMagic, "at", "selection"}
	if n < len(head) {
		if words[0] != head[n] || len(words) < 2 && n > 0 {
			return fmt.Errorf("line %d is not of %s", n+1, head[n])
		}
		switch n {
		case 1:
			r.At, err = time.Parse(time.RFC3339, words[1])
		case 2:
			r.Selection = refval.Selection(words[1])
			if known := []refval.Selection{refval.SelectAll, refval.SelectExecutable, refval.SelectEFI, refval.SelectBoot}; !slices.Contains(known, r.Selection) {
				err = fmt.Errorf("%.40q is not one of %v", words[1], known)
			}
		}
		return err
	}
	last := &RecipeRepository{}
	if n := len(r.Repositories); n > 0 {
		last = &r.Repositories[n-1]
	}
	switch {
	case words[0] == "keyring" && len(r.Packages) == 0:
		repo := RecipeRepository{}
		repo.Keyring, err = pieces(words[1:], 1)
		r.Repositories = append(r.Repositories, repo)
	case words[0] == "repository" && len(words) >= 3 && last.Keyring != nil:
		last.Suite = words[1]
		last.InRelease, err = pieces(words[2:], 1)
	case words[0] == "index" && len(words) >= 3 && last.InRelease != nil && len(r.Packages) == 0:
		x := RecipeIndex{Name: words[1]}
		x.Pieces, err = pieces(words[2:], 1)
		last.Indexes = append(last.Indexes, x)
	case words[0] == "package" && len(words) >= 4:
		p := RecipePackage{Name: Name{words[1], words[2], words[3]}}
		if err = p.check(); err == nil {
			p.Pieces, err = pieces(words[4:], 0)
		}
		r.Packages = append(r.Packages, p)
	default:
		err = fmt.Errorf("is no line that may stand here")
	}
	return err
}

// pieces reads digests, at least so many.
func pieces(words []string, least int) (out Pieces, err error) {
	for _, w := range words {
		d, err := keystead.ParseDigest(w)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	if len(out) < least {
		return nil, fmt.Errorf("has %d digests, not %d or more", len(out), least)
	}
	return out, nil
}

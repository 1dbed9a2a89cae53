package rpm

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// RecipeMagic is a recipe's first line and carries its version. It only ever grows:
//
//	1  at, selection, vendors, lists of headers
const RecipeMagic = "keystead-rpm-recipe/1"

// Bounds of a recipe: its text in bytes, and its lines of each kind.
const (
	maxRecipe        = 1 << 20
	maxRecipeVendors = 64
	maxRecipeHeaders = 16
)

// A Recipe names the headers from which a reference set is built, and who may have
// signed them. It says nothing of what they contain: [Recipe.Rebuild] verifies each.
// Text: docs/spec/refset.md.
type Recipe struct {
	At        time.Time // of judgement of signatures, to the second
	Selection refval.Selection
	Vendors   []RecipeVendor
	Headers   []keystead.Digest // of lists of headers, as Pack writes them
}

// RecipeVendor is a vendor whose key is an object.
type RecipeVendor struct {
	Name     string
	Packages []string        // as refval.Vendor has them
	Key      keystead.Digest // of OpenPGP certificates, binary or armored
}

// Text returns the recipe's one text.
func (r *Recipe) Text() []byte {
	b := fmt.Appendf(nil, "%s\nat %s\nselection %s\n", RecipeMagic, r.At.UTC().Format(time.RFC3339), r.Selection)
	for _, v := range r.Vendors {
		b = fmt.Appendf(b, "vendor %s %s %s\n", v.Name, strings.Join(v.Packages, ","), v.Key)
	}
	for _, h := range r.Headers {
		b = fmt.Appendf(b, "headers %s\n", h)
	}
	return b
}

// ParseRecipe reads a recipe. It fails with a *keystead.FormatError, and accepts only
// the spelling that Text gives.
func ParseRecipe(text []byte) (*Recipe, error) {
	if len(text) > maxRecipe {
		return nil, recipeError("whole", "is %d bytes long, at most %d are accepted", len(text), maxRecipe)
	}
	r := &Recipe{}
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		words := strings.Split(line, " ")
		if err := r.line(i, words); err != nil {
			return nil, recipeError(words[0], "%v", err)
		}
	}
	if len(r.Vendors) == 0 || len(r.Headers) == 0 || len(r.Vendors) > maxRecipeVendors || len(r.Headers) > maxRecipeHeaders {
		return nil, recipeError("whole", "names %d vendors and %d lists of headers, not 1 to %d and 1 to %d", len(r.Vendors), len(r.Headers), maxRecipeVendors, maxRecipeHeaders)
	}
	if !bytes.Equal(r.Text(), text) {
		return nil, recipeError("text", "is not in its one canonical spelling")
	}
	return r, nil
}

func recipeError(field, format string, args ...any) error {
	return &keystead.FormatError{Format: "rpm-recipe", Field: fmt.Sprintf("%.40q", field), Problem: fmt.Sprintf(format, args...)}
}

// line reads one line, by its number and its words.
func (r *Recipe) line(n int, words []string) (err error) {
	switch {
	case n == 0 && len(words) == 1 && words[0] == RecipeMagic:
	case n == 1 && len(words) == 2 && words[0] == "at":
		r.At, err = time.Parse(time.RFC3339, words[1])
	case n == 2 && len(words) == 2 && words[0] == "selection":
		r.Selection = refval.Selection(words[1])
		if r.Selection != refval.SelectAll && r.Selection != refval.SelectExecutable {
			err = fmt.Errorf("%.40q is not one of %s, %s", words[1], refval.SelectAll, refval.SelectExecutable)
		}
	case n > 2 && len(words) == 4 && words[0] == "vendor" && words[1] != "" && words[2] != "" && len(r.Headers) == 0:
		v := RecipeVendor{Name: words[1], Packages: strings.Split(words[2], ",")}
		v.Key, err = keystead.ParseDigest(words[3])
		r.Vendors = append(r.Vendors, v)
	case n > 2 && len(words) == 2 && words[0] == "headers":
		var d keystead.Digest
		d, err = keystead.ParseDigest(words[1])
		r.Headers = append(r.Headers, d)
	default:
		err = fmt.Errorf("is no line that may stand here")
	}
	return err
}

// Rebuild builds the set of a recipe, from bytes that get returns by their digest. It
// believes the vendors that the recipe names, and nothing else of it: every header must
// prove itself at the recipe's time, and its files have strong digests. So two who
// rebuild one recipe get the same set, or the same refusal, which names every package
// that failed. An error of get is returned as it is.
func (r *Recipe) Rebuild(get func(keystead.Digest) ([]byte, error)) (*refval.Set, error) {
	var vendors []refval.Vendor
	for _, v := range r.Vendors {
		k, err := get(v.Key)
		if err != nil {
			return nil, err
		}
		vendors = append(vendors, refval.Vendor{Name: v.Name, Format: refval.FormatRPM, Packages: v.Packages, Key: k})
	}
	var lists [][]byte
	for _, d := range r.Headers {
		packed, err := get(d)
		if err != nil {
			return nil, err
		}
		lists = append(lists, packed)
	}
	headers := func(yield func(*Header, error) bool) {
		for _, packed := range lists {
			for h, err := range Unpack(packed) {
				if !yield(h, err) {
					return
				}
			}
		}
	}
	proven, err := Prove(headers, vendors, r.Selection, r.At)
	if err != nil {
		return nil, err
	}
	var denied []keystead.Finding
	for _, refused := range append(proven.Refused, proven.Weak...) {
		denied = append(denied, refused.Finding)
	}
	if denied != nil {
		return nil, keystead.Deny(denied...)
	}
	return proven.Set, nil
}

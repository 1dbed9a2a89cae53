package fetch

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval/deb"
)

// TestRecipe builds a set, keeps what went in, and builds it again from the kept bytes
// and the recipe alone.
func TestRecipe(t *testing.T) {
	b := newBed(t)
	kept := map[keystead.Digest][]byte{}
	o := b.options("hello=1.0", "world=1:2.0", "backdoor=1.0")
	b.build(o) // with a warm cache, which has no packages
	o.Keep = func(piece []byte) error { kept[keystead.Sum(piece)] = piece; return nil }
	first := b.build(o)
	recipe, err := deb.ParseRecipe(first.Recipe.Text())
	if err != nil {
		t.Fatal(err)
	}
	again, err := deb.Rebuild(recipe, func(d keystead.Digest) ([]byte, error) {
		if b, ok := kept[d]; ok {
			return b, nil
		}
		return nil, errors.New("not kept")
	})
	if err != nil || again.Digest() != first.Set.Digest() {
		t.Fatalf("%v; %v", err, again)
	}
	if len(again.Header().Missing) != 1 || again.Len() == 0 {
		t.Errorf("%+v", again.Header())
	}
	if n := len(recipe.Objects()); n != len(kept) {
		t.Errorf("the recipe names %d objects, %d were kept", n, len(kept))
	}
}

package fetch

import (
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval/deb"
)

// maxPiece bounds what is handed to Options.Keep at once, in bytes.
const maxPiece = 64 << 20

// keep hands a file to Options.Keep, in pieces, and returns their digests.
func (f *fetcher) keep(b []byte) (out deb.Pieces, err error) {
	if f.Keep == nil {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for piece := range slices.Chunk(b, maxPiece) {
		if err := f.Keep(piece); err != nil {
			return nil, err
		}
		out = append(out, keystead.Sum(piece))
	}
	return out, nil
}

// keepRelease keeps a release and the keys by which it was verified.
func (f *fetcher) keepRelease(r *repository, keyring deb.Keyring, raw []byte) (err error) {
	if f.Keep == nil {
		return nil
	}
	r.recipe.Suite = r.release.Suite
	if r.recipe.Suite == "" || strings.ContainsAny(r.recipe.Suite, " ") {
		r.recipe.Suite = r.release.Codename
	}
	if r.recipe.InRelease, err = f.keep(raw); err != nil {
		return err
	}
	certificates, err := keyring.Bytes()
	if err != nil {
		return err
	}
	r.recipe.Keyring, err = f.keep(certificates)
	return err
}

// recipe names what a set was built of.
func (f *fetcher) recipe(repositories []*repository, offers []*offer) *deb.Recipe {
	out := &deb.Recipe{At: f.At.UTC().Truncate(1e9), Selection: f.Selection}
	for _, r := range repositories {
		out.Repositories = append(out.Repositories, r.recipe)
	}
	for _, n := range f.Packages {
		offered := false
		for _, o := range offers {
			if o.Name == n {
				offered = true
				out.Packages = append(out.Packages, deb.RecipePackage{Name: n, Pieces: o.pieces})
			}
		}
		if !offered {
			out.Packages = append(out.Packages, deb.RecipePackage{Name: n})
		}
	}
	return out
}

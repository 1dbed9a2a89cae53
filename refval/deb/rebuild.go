package deb

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// Rebuild builds the set of a recipe, from bytes that get returns by their digest.
// It believes the keyrings that the recipe names, and nothing else of it: each release
// must be signed by its keyring at the recipe's time, indexes and packages be those
// that the releases name. So two who rebuild one recipe get the same set, or the
// same refusal: index-unsigned, index-expired, index-future, index-mismatch,
// package-corrupt, package-missing. An error of get is returned as it is.
func Rebuild(r *Recipe, get func(keystead.Digest) ([]byte, error)) (*refval.Set, error) {
	wanted := map[Name]bool{}
	for _, p := range r.Packages {
		wanted[p.Name] = true
	}
	b := refval.NewBuilder(r.Selection)
	var offers []offer
	var err error
	for _, repo := range r.Repositories {
		var release *Release
		if release, err = repo.open(r.At, get); err != nil {
			return nil, err
		}
		b.AddRepository(release.Repository())
		if offers, err = repo.offers(release, wanted, get, offers); err != nil {
			return nil, err
		}
	}
	for _, p := range r.Packages {
		if err := p.add(b, r.Selection, offers, get); err != nil {
			return nil, err
		}
	}
	return b.Set()
}

// offer is a package as a verified index has it.
type offer struct {
	Package
	from refval.Repository
}

// join returns the file that the pieces make.
func (p Pieces) join(get func(keystead.Digest) ([]byte, error), most int64) ([]byte, error) {
	var out []byte
	for _, d := range p {
		b, err := get(d)
		if err != nil {
			return nil, err
		}
		if len(p) == 1 {
			out = b
		} else {
			out = append(out, b...)
		}
		if int64(len(out)) > most {
			return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: d.String(), Want: fmt.Sprintf("a file of at most %d bytes", most), Got: "more"})
		}
	}
	return out, nil
}

func (x *RecipeRepository) open(at time.Time, get func(keystead.Digest) ([]byte, error)) (*Release, error) {
	keys, err := x.Keyring.join(get, maxKeyring)
	if err != nil {
		return nil, err
	}
	keyring, err := ParseKeyring(keys)
	if err != nil {
		return nil, err
	}
	raw, err := x.InRelease.join(get, MaxRelease)
	if err != nil {
		return nil, err
	}
	release, err := VerifyRelease(raw, keyring, at)
	if err != nil {
		return nil, err
	}
	if !release.Is(x.Suite) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexMismatch, Where: "InRelease", Want: "InRelease of " + x.Suite, Got: "of " + release.Codename + ", " + release.Suite})
	}
	return release, nil
}

// offers adds what the repository has of the wanted packages.
func (x *RecipeRepository) offers(release *Release, wanted map[Name]bool, get func(keystead.Digest) ([]byte, error), out []offer) ([]offer, error) {
	from := release.Repository()
	for _, i := range x.Indexes {
		packed, err := i.Pieces.join(get, MaxIndex)
		if err != nil {
			return nil, err
		}
		suffix := path.Ext(path.Base(i.Name)) // .xz, or none
		index, err := release.UnpackIndex(strings.TrimSuffix(i.Name, suffix), suffix, packed)
		if err != nil {
			return nil, err
		}
		for p, err := range index.Packages() {
			if err != nil {
				return nil, err
			}
			if wanted[p.Name] {
				out = append(out, offer{p, from})
			}
		}
	}
	return out, nil
}

// maxPackage bounds a package file, in bytes; it is held in memory.
const maxPackage = 4 << 30

// add adds a package file that an index offers, or names it as missing if none does.
func (p *RecipePackage) add(b *refval.Builder, s refval.Selection, offers []offer, get func(keystead.Digest) ([]byte, error)) error {
	var raw []byte
	var err error
	var digest keystead.Digest
	if len(p.Pieces) > 0 {
		if raw, err = p.Pieces.join(get, maxPackage); err != nil {
			return err
		}
		digest = keystead.Sum(raw)
	}
	var from []refval.Repository
	var found Package
	for _, o := range offers {
		switch {
		case o.Name != p.Name:
		case len(p.Pieces) == 0:
			return packageMissing(p.Name, "the file that "+o.from.Codename+" offers", "none in the recipe")
		case o.Digest == digest:
			found, from = o.Package, append(from, o.from)
		}
	}
	switch {
	case len(p.Pieces) == 0:
		b.AddMissing(refval.Missing{Name: p.Package, Version: p.Version, Architecture: p.Architecture, Problem: "no signed index offers this version"})
		return nil
	case len(from) == 0:
		return packageMissing(p.Name, "a file that a signed index of the recipe offers", digest.String())
	}
	files, err := Unpack(raw, found, DefaultLimits)
	if err != nil {
		return err
	}
	return b.Add(refval.Package{Name: p.Package, Version: p.Version, Architecture: p.Architecture, Digest: digest, Strength: refval.StrengthRepositoryRehash}, from, Select(files, s))
}

func packageMissing(n Name, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonPackageMissing, Where: n.String(), Want: want, Got: got})
}

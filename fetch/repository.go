package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval/deb"
)

// repository is a source whose release is verified, and what it has of the wanted packages.
type repository struct {
	source   Source
	release  *deb.Release
	packages []deb.Package
	recipe   deb.RecipeRepository // what of it was used, if that is kept
}

// open verifies the source's release and the indexes of the architectures.
func (f *fetcher) open(ctx context.Context, s Source, architectures []string, wanted map[deb.Name]bool) (*repository, error) {
	keyring, err := f.keyring(s)
	if err != nil {
		return nil, err
	}
	r := &repository{source: s}
	var raw []byte
	if r.release, raw, err = f.openRelease(ctx, s, keyring); err != nil {
		return nil, err
	}
	if err := f.keepRelease(r, keyring, raw); err != nil {
		return nil, err
	}
	for _, name := range s.indexes(architectures) {
		if _, _, ok := r.release.File(name); !ok {
			continue // not of this architecture
		}
		x, err := f.openIndex(ctx, r, name)
		if err != nil {
			return nil, err
		}
		pieces, err := f.keep(x.Bytes())
		if err != nil {
			return nil, err
		}
		r.recipe.Indexes = append(r.recipe.Indexes, deb.RecipeIndex{Name: name, Pieces: pieces})
		for p, err := range x.Packages() {
			if err != nil {
				return nil, err
			}
			if wanted[p.Name] && f.accepts(p.Package, r.release.Signers) {
				r.packages = append(r.packages, p)
			}
		}
	}
	return r, nil
}

// openRelease takes the first of apt's copy, the network's and the cache's that
// verifies; the error is what spoke against each.
func (f *fetcher) openRelease(ctx context.Context, s Source, keyring deb.Keyring) (*deb.Release, []byte, error) {
	name := keystead.Sum([]byte(s.base()))
	id := fmt.Sprintf("%x", name[:])
	var problems []error
	var verified []byte
	try := func(raw []byte, err error) *deb.Release {
		var r *deb.Release
		if err == nil {
			r, err = deb.VerifyRelease(raw, keyring, f.At)
		}
		if err == nil && len(s.Components) > 0 && !r.Is(s.Suite) {
			err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexMismatch, Where: s.String(), Want: "InRelease of " + s.Suite, Got: "of " + r.Codename + ", " + r.Suite})
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
		if err != nil {
			return nil
		}
		verified = raw
		return r
	}
	if !f.Fresh {
		if r := try(readFile(f.list(s, "InRelease"), deb.MaxRelease)); r != nil {
			return r, verified, nil
		}
	}
	if !f.Offline {
		raw, err := f.net.get(ctx, s.base()+"InRelease", deb.MaxRelease)
		if r := try(raw, err); r != nil {
			return r, raw, f.cache.write("release", id, raw)
		}
	}
	if r := try(f.cache.read("release", id)); r != nil {
		return r, verified, nil
	}
	if problems == nil {
		problems = []error{fmt.Errorf("%s: InRelease is neither in apt's lists nor in the cache, and the network is not to be used", s)}
	}
	return nil, nil, errors.Join(problems...)
}

func (f *fetcher) list(s Source, name string) string {
	return filepath.Join(f.Root, "/var/lib/apt/lists", s.listFile(name))
}

// openIndex takes apt's copy or the cache's if it is of this release, else the network's.
func (f *fetcher) openIndex(ctx context.Context, r *repository, name string) (*deb.Index, error) {
	if x := f.copyOfIndex(r, name); x != nil {
		return x, nil
	}
	if f.Offline {
		return nil, fmt.Errorf("%s: %s is neither in apt's lists nor in the cache, and the network is not to be used", r.source, name)
	}
	for _, suffix := range []string{".zst", ".xz", ".gz", ".bz2", ""} {
		size, digest, ok := r.release.File(name + suffix)
		if !ok {
			continue
		}
		address := r.source.base() + name + suffix
		if r.release.ByHash {
			address = fmt.Sprintf("%s%s/by-hash/SHA256/%x", r.source.base(), path.Dir(name), digest[:])
		}
		packed, err := f.download(ctx, address, min(size, deb.MaxIndex))
		if errors.Is(err, errAbsent) {
			continue // a release may name what its server leaves out
		}
		if err != nil {
			return nil, err
		}
		x, err := r.release.UnpackIndex(name, suffix, packed)
		if err != nil {
			return nil, err
		}
		return x, f.cache.writeIndex(x)
	}
	return nil, fmt.Errorf("%s: no %s on the server", r.source, name)
}

// copyOfIndex returns a copy that is already on this machine and verifies, or nil.
func (f *fetcher) copyOfIndex(r *repository, name string) *deb.Index {
	size, digest, _ := r.release.File(name)
	verified := func(packed []byte, err error, suffix string) *deb.Index {
		var text []byte
		if err == nil {
			text, err = deb.Decompress(suffix, packed, min(size, deb.MaxIndex))
		}
		if err == nil {
			if x, err := r.release.Index(name, text); err == nil {
				return x
			}
		}
		return nil
	}
	if !f.Fresh {
		for _, suffix := range []string{"", ".lz4", ".zst", ".gz", ".xz"} {
			packed, err := readFile(f.list(r.source, name)+suffix, deb.MaxIndex)
			if x := verified(packed, err, suffix); x != nil {
				return x
			}
		}
	}
	packed, err := f.cache.read("index", fmt.Sprintf("%x", digest[:]))
	return verified(packed, err, ".zst")
}

// download gets a file whose size a signed index states.
func (f *fetcher) download(ctx context.Context, address string, size int64) ([]byte, error) {
	b, err := f.net.get(ctx, address, size)
	if errors.Is(err, errTooLarge) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexMismatch, Where: redacted(address), Want: fmt.Sprintf("%d bytes", size), Got: "more"})
	}
	return b, err
}

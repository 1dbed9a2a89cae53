package refval

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/keystead/keystead"
)

// File is a regular file of a package.
type File struct {
	Path   string // in any spelling that CanonicalPath accepts
	Digest keystead.Digest
}

// Builder gathers what a set is made of. The order of adding does not matter: the
// same content gives the same bytes. Use NewBuilder; it is not safe for concurrent
// use.
type Builder struct {
	selection    Selection
	repositories map[keystead.Digest]Repository
	packages     map[string]*builderPackage // by identity
	missing      map[Missing]bool
}

type builderPackage struct {
	Package
	releases map[keystead.Digest]bool
	files    map[File]bool
}

// NewBuilder returns a builder of sets whose files were chosen by the selection.
func NewBuilder(s Selection) *Builder {
	return &Builder{
		selection:    s,
		repositories: map[keystead.Digest]Repository{},
		packages:     map[string]*builderPackage{},
		missing:      map[Missing]bool{},
	}
}

// Add adds the files of a package that the repositories offer; p.Repositories is
// disregarded. Adding a package again adds to it; one without EFI programs is left out
// of a set of those. A weak strength is refused with
// digest-weak, a path that can not be one with a *keystead.FormatError.
func (b *Builder) Add(p Package, offers []Repository, files []File) error {
	if !p.Strength.Suffices() {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonDigestWeak, Where: p.Name + "=" + p.Version, Want: "digests proven by a vendor's signature", Got: p.Strength.String()})
	}
	if b.selection.Boots() && len(files) == 0 {
		for _, r := range offers {
			b.AddRepository(r)
		}
		return nil // most packages hold no EFI program; which were looked through says the recipe
	}
	p.Repositories = nil
	id := fmt.Sprintf("%q", []string{p.Name, p.Version, p.Architecture, p.Digest.String(), p.Strength.String(), string(p.Format)})
	bp := b.packages[id]
	if bp == nil {
		bp = &builderPackage{Package: p, releases: map[keystead.Digest]bool{}, files: map[File]bool{}}
		b.packages[id] = bp
	}
	for _, r := range offers {
		b.repositories[r.Release] = r
		bp.releases[r.Release] = true
	}
	for i, f := range files {
		path, ok := CanonicalPath(f.Path)
		if !ok {
			return &keystead.FormatError{Format: "refset", Field: fmt.Sprintf("%s=%s, file %d", p.Name, p.Version, i), Problem: fmt.Sprintf("%.80q is not a file's path", f.Path)}
		}
		bp.files[File{path, f.Digest}] = true
	}
	return nil
}

// AddRepository names a signed index even if no package comes from it.
func (b *Builder) AddRepository(r Repository) { b.repositories[r.Release] = r }

// AddMissing names a package that could not be proven.
func (b *Builder) AddMissing(m Missing) { b.missing[m] = true }

// Merge adds everything of a set.
func (b *Builder) Merge(s *Set) error {
	if s.header.Selection != b.selection {
		if s.header.Selection.Boots() || b.selection.Boots() {
			return &keystead.FormatError{Format: "refset", Field: "selection", Problem: "a set of EFI programs holds digests of another kind, and can not be merged with one of another selection"}
		}
		b.selection = SelectMixed
	}
	for _, r := range s.header.Repositories {
		b.AddRepository(r)
	}
	for _, m := range s.header.Missing {
		b.AddMissing(m)
	}
	files := make([][]File, len(s.header.Packages))
	for i := range s.Len() {
		r := s.Ref(i)
		files[r.Source.Number] = append(files[r.Source.Number], File{r.Source.Path, r.Digest})
	}
	for i, p := range s.header.Packages {
		var offers []Repository
		for _, r := range p.Repositories {
			offers = append(offers, s.header.Repositories[r])
		}
		if err := b.Add(p, offers, files[i]); err != nil {
			return err
		}
	}
	return nil
}

// Merge returns one set of several. What one lacks and another has is not missing.
func Merge(first *Set, more ...*Set) (*Set, error) {
	b := NewBuilder(first.header.Selection)
	for _, s := range append([]*Set{first}, more...) {
		if err := b.Merge(s); err != nil {
			return nil, err
		}
	}
	return b.Set()
}

// Set returns the set of what was added.
func (b *Builder) Set() (*Set, error) {
	h := Header{Selection: b.selection, Repositories: []Repository{}, Packages: []Package{}, Missing: []Missing{}}
	h.Repositories = append(h.Repositories, slices.SortedFunc(maps.Values(b.repositories), Repository.compare)...)
	number := map[keystead.Digest]int{}
	for i, r := range h.Repositories {
		number[r.Release] = i
	}
	packages := slices.SortedFunc(maps.Values(b.packages), func(p, q *builderPackage) int { return p.compare(q.Package) })
	have := map[[3]string]bool{}
	for _, p := range packages {
		p.Repositories = nil
		for release := range p.releases {
			p.Repositories = append(p.Repositories, number[release])
		}
		slices.Sort(p.Repositories)
		h.Packages = append(h.Packages, p.Package)
		have[[3]string{p.Name, p.Version, p.Architecture}] = true
	}
	for _, m := range slices.SortedFunc(maps.Keys(b.missing), Missing.compare) {
		if !have[[3]string{m.Name, m.Version, m.Architecture}] {
			h.Missing = append(h.Missing, m)
		}
	}
	return Parse(encode(h, packages))
}

type record struct {
	digest      keystead.Digest
	path, owner uint32
}

// encode writes the format of docs/spec/refset.md.
func encode(h Header, packages []*builderPackage) []byte {
	paths := map[string]uint32{}
	n := 0
	for _, p := range packages {
		for f := range p.files {
			paths[f.Path] = 0
		}
		n += len(p.files)
	}
	names := slices.Sorted(maps.Keys(paths))
	var ends, text []byte
	for i, name := range names {
		paths[name] = uint32(i)
		text = append(text, name...)
		ends = binary.BigEndian.AppendUint32(ends, uint32(len(text)))
	}
	records := make([]record, 0, n)
	for i, p := range packages {
		for f := range p.files {
			records = append(records, record{f.Digest, paths[f.Path], uint32(i)})
		}
	}
	slices.SortFunc(records, func(a, b record) int {
		return cmp.Or(bytes.Compare(a.digest[:], b.digest[:]), cmp.Compare(a.path, b.path), cmp.Compare(a.owner, b.owner))
	})
	header := h.encode()
	out := make([]byte, 0, len(setMagic)+16+len(header)+len(ends)+len(text)+recordSize*len(records))
	out = append(out, setMagic...)
	out = append(binary.BigEndian.AppendUint32(out, uint32(len(header))), header...)
	out = append(binary.BigEndian.AppendUint32(out, uint32(len(names))), ends...)
	out = append(binary.BigEndian.AppendUint32(out, uint32(len(text))), text...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(records)))
	for _, r := range records {
		out = append(out, r.digest[:]...)
		out = binary.BigEndian.AppendUint32(out, r.path)
		out = binary.BigEndian.AppendUint32(out, r.owner)
	}
	return out
}

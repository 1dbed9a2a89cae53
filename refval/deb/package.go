package deb

import (
	"fmt"
	"iter"
	"path"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
)

// Name is what a host's list can say of a package, and what an index is asked for.
type Name struct{ Package, Version, Architecture string }

// String gives the name as apt writes it: bash=5.2.15-2+b2:amd64.
func (n Name) String() string { return n.Package + "=" + n.Version + ":" + n.Architecture }

// check admits what Debian Policy 5.6.1, 5.6.12 and 5.6.8 admit.
func (n Name) check() error {
	for i, c := range n.Package {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && strings.ContainsRune("+-.", c)) {
			return fmt.Errorf("package name %.60q has characters that a name can not have", n.Package)
		}
	}
	for _, c := range n.Version {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(".+-:~", c)) {
			return fmt.Errorf("version %.60q has characters that a version can not have", n.Version)
		}
	}
	for _, c := range n.Architecture {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return fmt.Errorf("architecture %.60q has characters that an architecture can not have", n.Architecture)
		}
	}
	if n.Package == "" || n.Version == "" || n.Architecture == "" || len(n.Package)+len(n.Version)+len(n.Architecture) > 512 {
		return fmt.Errorf("package %.60q: name, version or architecture is missing or too long", n.Package)
	}
	return nil
}

// Package is what a signed index says of a package file.
type Package struct {
	Name
	Filename string          // below the repository's root
	Size     int64           // bytes
	Digest   keystead.Digest // of the file
}

// Index is a verified Packages file. Only Release.Index makes one.
type Index struct{ text []byte }

// MaxIndex bounds an unpacked Packages file, in bytes.
const MaxIndex = 1 << 30

// Index checks an unpacked Packages file, named as the release names it, such as
// main/binary-amd64/Packages. A refusal is index-mismatch. The index keeps text.
func (r *Release) Index(name string, text []byte) (*Index, error) {
	if err := r.check(name, text); err != nil {
		return nil, err
	}
	return &Index{text}, nil
}

// check compares a file of the repository with what the release states of it.
func (r *Release) check(name string, b []byte) error {
	want, ok := r.files[name]
	where := r.Codename + " " + name
	if !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexMismatch, Where: where, Want: "a file that InRelease names with SHA256", Got: "none of that name"})
	}
	return compare(where, want, b)
}

func compare(where string, want fileSum, b []byte) error {
	if int64(len(b)) != want.size {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexMismatch, Where: where, Want: fmt.Sprintf("%d bytes", want.size), Got: fmt.Sprintf("%d bytes", len(b))})
	}
	if got := keystead.Sum(b); got != want.digest {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexMismatch, Where: where, Want: want.digest.String(), Got: got.String()})
	}
	return nil
}

// File returns the size and digest that the release states of a file, such as
// main/binary-amd64/Packages.xz.
func (r *Release) File(name string) (size int64, digest keystead.Digest, ok bool) {
	f, ok := r.files[name]
	return f.size, f.digest, ok
}

// UnpackIndex checks a packed Packages file (name.xz, .gz, .zst, or none) before it
// unpacks it, within the size that the release states of the unpacked one, which is
// checked too.
func (r *Release) UnpackIndex(name, suffix string, packed []byte) (*Index, error) {
	if err := r.check(name+suffix, packed); err != nil {
		return nil, err
	}
	limit, _, ok := r.File(name)
	if !ok || limit > MaxIndex {
		limit = 0
	}
	text, err := Decompress(suffix, packed, limit)
	if err != nil {
		return nil, corrupt(r.Codename+" "+name+suffix, err)
	}
	return r.Index(name, text)
}

// Bytes returns the unpacked file. The caller must not change it.
func (x *Index) Bytes() []byte { return x.text }

// Packages yields the index's packages in its order, and stops after an error.
func (x *Index) Packages() iter.Seq2[Package, error] {
	return func(yield func(Package, error) bool) {
		for s, err := range Stanzas("deb-packages", x.text) {
			var p Package
			if err == nil {
				p, err = parsePackage(s)
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func parsePackage(s *Stanza) (p Package, err error) {
	fail := func(field string, err error) (Package, error) {
		return p, &keystead.FormatError{Format: "deb-packages", Offset: int64(s.Offset), Field: field, Problem: err.Error()}
	}
	p.Name = Name{s.Get("Package"), s.Get("Version"), s.Get("Architecture")}
	if err := p.check(); err != nil {
		return fail("Package", err)
	}
	p.Filename = s.Get("Filename")
	if p.Filename == "" || !printable(p.Filename, false) || path.Clean("/"+p.Filename) != "/"+strings.TrimPrefix(p.Filename, "./") || strings.ContainsAny(p.Filename, "?#\\") {
		return fail("Filename", fmt.Errorf("%.80q is not a path below the repository's root", p.Filename))
	}
	if p.Size, err = strconv.ParseInt(s.Get("Size"), 10, 64); err != nil || p.Size < 0 {
		return fail("Size", fmt.Errorf("%.40q is not a size", s.Get("Size")))
	}
	if p.Digest, err = keystead.ParseDigest("sha256:" + s.Get("SHA256")); err != nil {
		return fail("SHA256", err)
	}
	return p, nil
}

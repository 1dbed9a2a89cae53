package apk

import (
	"encoding/base64"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// Bounds of an index, in bytes, packed and unpacked.
const (
	MaxIndex    = 64 << 20
	maxUnpacked = 256 << 20
)

// Package is what a signed index says of a package file.
type Package struct {
	Name
	Size    int64  // bytes
	control []byte // checksum of the control part
	strong  bool   // by SHA-256 (Q2); by SHA-1 (Q1) it does not suffice
}

// Filename is where the package lies beside the index.
func (p Package) Filename() string { return p.Package + "-" + p.Version + ".apk" }

// Index is a verified APKINDEX. Only OpenIndex makes one.
type Index struct {
	Signer string          // of the keys given
	Digest keystead.Digest // of the file's bytes
	text   []byte
}

// OpenIndex verifies APKINDEX.tar.gz. Refusals: index-unsigned if no key given signed it,
// digest-weak if it is signed over SHA-1 only, package-corrupt for what does not unpack.
// It has no date: a mirror may serve an old one, against which policies state floors.
func OpenIndex(raw []byte, keys []Key) (*Index, error) {
	where := "APKINDEX.tar.gz"
	if len(raw) > MaxIndex {
		return nil, deny(keystead.ReasonPackageCorrupt, where, fmt.Sprintf("at most %d bytes", MaxIndex), fmt.Sprintf("%d", len(raw)))
	}
	_, signatures, signed, err := cut(raw, maxSignature)
	if err != nil {
		return nil, deny(keystead.ReasonPackageCorrupt, where, "a file that unpacks within its bounds", err.Error())
	}
	by, reason, got := signer(signatures, signed, keys)
	switch {
	case reason == keystead.ReasonDigestWeak:
		return nil, deny(reason, where, "a signature over SHA-256 (.SIGN.RSA256.)", got)
	case by == "":
		return nil, deny(keystead.ReasonIndexUnsigned, where, "a signature by an accepted key", got)
	}
	_, archive, rest, err := cut(signed, maxUnpacked)
	var text []byte
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow the index", len(rest))
	}
	if err == nil {
		text, err = member(archive, "APKINDEX")
	}
	if err != nil {
		return nil, deny(keystead.ReasonPackageCorrupt, where, "a file that unpacks within its bounds", err.Error())
	}
	return &Index{by, keystead.Sum(raw), text}, nil
}

// Packages yields the index's packages in its order, and stops after an error, a
// *keystead.FormatError.
func (x *Index) Packages() iter.Seq2[Package, error] {
	return func(yield func(Package, error) bool) {
		for r, err := range records("apk-index", x.text) {
			var p Package
			if err == nil {
				p, err = parsePackage(r)
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func parsePackage(r record) (p Package, err error) {
	fail := func(field, problem string) (Package, error) {
		return p, &keystead.FormatError{Format: "apk-index", Offset: int64(r.offset), Field: field, Problem: problem}
	}
	p.Name = Name{r.get('P'), r.get('V'), r.get('A')}
	if err := p.check(); err != nil {
		return fail("package", err.Error())
	}
	if p.Size, err = strconv.ParseInt(r.get('S'), 10, 64); err != nil || p.Size < 0 {
		return fail("S", "is no size")
	}
	sizes := map[string]int{"Q1": 20, "Q2": 32}
	kind, sum, _ := strings.Cut(r.get('C'), "Q")
	if kind != "" || len(sum) < 2 || sizes["Q"+sum[:1]] == 0 {
		return fail("C", fmt.Sprintf("%.60q is not Q1 or Q2 and a checksum", r.get('C')))
	}
	p.strong = sum[0] == '2'
	if p.control, err = base64.StdEncoding.DecodeString(sum[1:]); err != nil || len(p.control) != sizes["Q"+sum[:1]] {
		return fail("C", fmt.Sprintf("%.60q is not a checksum", r.get('C')))
	}
	return p, nil
}

// Repository gives the index as a reference set's header names it.
func (x *Index) Repository(vendor string) refval.Repository {
	return refval.Repository{Origin: vendor, Suite: "APKINDEX", Codename: "apk", Release: x.Digest, Signers: []string{x.Signer}}
}

// Reference returns the package as a reference set names it, by the digest of its file.
func (p Package) Reference(file keystead.Digest) refval.Package {
	return refval.Package{Name: p.Package, Version: p.Version, Architecture: p.Architecture, Digest: file, Strength: refval.StrengthRepositoryRehash, Format: refval.FormatAPK}
}

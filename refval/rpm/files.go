package rpm

import (
	"encoding/hex"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// A File is a regular file of a package, as the signed header has it.
type File struct {
	refval.File        // Digest is zero if Weak
	Mode        uint16 // st_mode
	Size        uint64 // bytes
	Color       uint32 // not 0 for ELF files
	Weak        bool   // its digest is by MD5 or SHA-1, or by a hash that no reference set holds
	Signature   []byte // an IMA signature, if the package brings one; it lies outside of the signed header, and is as good as its own key
}

// Executable reports whether the file can be executed or mapped: see
// refval.SelectExecutable. What is ELF is the packager's word.
func (f File) Executable() bool {
	return f.Mode&0o111 != 0 || f.Color != 0 || refval.Loadable(f.Path)
}

const (
	modeType    = 0o170000
	modeRegular = 0o100000
	flagGhost   = 1 << 6 // named by the package, and not in it
	hashSHA256  = 8      // RFC 9580 9.5
	maxFiles    = 1 << 20
)

// Files returns the regular files of the header. It reads the signed region alone, but
// for signatures, and fails with a *keystead.FormatError for lists of different
// lengths. Ghosts, links, directories and devices have no content and are left out.
func (h *Header) Files() ([]File, error) {
	names, err := h.paths()
	if err != nil || names == nil {
		return nil, err
	}
	sums, modes, flags := texts(h.region, tagFileDigests), numbers(h.region, tagFileModes), numbers(h.region, tagFileFlags)
	sizes := numbers(h.region, tagFileSizes)
	if sizes == nil {
		sizes = numbers(h.region, tagLongFileSizes)
	}
	colors := numbers(h.region, tagFileColors)
	signatures := texts(h.beside, tagFileSignatures)
	n := len(names)
	if len(sums) != n || len(modes) != n || len(sizes) != n || flags != nil && len(flags) != n || signatures != nil && len(signatures) != n {
		return nil, headerError(0, "files", "has %d names, %d digests, %d modes, %d sizes, %d flags, %d signatures", n, len(sums), len(modes), len(sizes), len(flags), len(signatures))
	}
	algorithm := numbers(h.region, tagFileDigestAlgo) // without it, MD5
	sha256 := len(algorithm) == 1 && algorithm[0] == hashSHA256
	var out []File
	for i, name := range names {
		if modes[i]&modeType != modeRegular || flags != nil && flags[i]&flagGhost != 0 || len(sums[i]) == 0 {
			continue
		}
		f := File{Mode: uint16(modes[i]), Size: sizes[i], Weak: !sha256}
		if i < len(colors) {
			f.Color = uint32(colors[i])
		}
		path, ok := refval.CanonicalPath(name)
		if !ok {
			return nil, headerError(0, "files", "%.80q is not a file's path", name)
		}
		f.Path = path
		if sha256 {
			if _, err := hex.Decode(f.Digest[:], sums[i]); err != nil || len(sums[i]) != 2*len(f.Digest) {
				return nil, headerError(0, "files", "%.80q has %.80q for a SHA-256 digest", name, sums[i])
			}
		}
		if signatures != nil {
			if f.Signature, err = hex.DecodeString(string(signatures[i])); err != nil {
				return nil, headerError(0, "files", "%.80q has a signature that is not hex", name)
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// paths returns the names of all files: directory and base name, or whole ones.
func (h *Header) paths() ([]string, error) {
	var out []string
	if _, old := find(h.region, tagOldFileNames); old {
		for _, n := range texts(h.region, tagOldFileNames) {
			out = append(out, string(n))
		}
		return out, nil
	}
	if _, ok := find(h.region, tagBaseNames); !ok {
		return nil, nil
	}
	bases, directories, indexes := texts(h.region, tagBaseNames), texts(h.region, tagDirNames), numbers(h.region, tagDirIndexes)
	if len(bases) != len(indexes) || len(bases) > maxFiles {
		return nil, headerError(0, "files", "has %d names and %d directory numbers, at most %d are accepted", len(bases), len(indexes), maxFiles)
	}
	total := 0
	for i, b := range bases {
		if indexes[i] >= uint64(len(directories)) {
			return nil, headerError(0, "files", "%.80q lies in directory %d of %d", b, indexes[i], len(directories))
		}
		name := string(directories[indexes[i]]) + string(b)
		if total += len(name); total > maxPaths {
			return nil, headerError(0, "files", "has paths of more than %d bytes", maxPaths)
		}
		out = append(out, name)
	}
	return out, nil
}

// maxPaths bounds the paths of one package, in bytes: names share directories, so that a
// small header could state large ones.
const maxPaths = 64 << 20

// Package returns the package as a reference set names it.
func (h *Header) Package() refval.Package {
	return refval.Package{Name: h.Name(), Version: h.Version(), Architecture: h.Architecture(), Digest: h.Digest(), Strength: refval.StrengthSignedHeader, Format: refval.FormatRPM}
}

// Repository returns what stands for the origin of a header in a reference set, where
// the vendor's key is all that is known of it: whoever holds it made the package.
func (p Origin) Repository() refval.Repository {
	return refval.Repository{Origin: p.Vendor, Suite: "signed-headers", Codename: "rpm", Release: keystead.Sum([]byte("keystead/rpm-vendor/1\x00" + p.Signer)), Signers: []string{p.Signer}}
}

// Origin is who signed headers.
type Origin struct {
	Vendor string // the name that the verifier has for the key's holder
	Signer string // fingerprint of the primary key
}

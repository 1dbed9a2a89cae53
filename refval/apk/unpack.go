package apk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/bounded"
	"github.com/keystead/keystead/refval"
)

// Limits bound what a package may unpack to.
type Limits struct {
	Bytes int64 // of the unpacked data, and of the files' content
	Files int   // members of the data
}

// DefaultLimits hold for Alpine's largest packages.
var DefaultLimits = Limits{Bytes: 8 << 30, Files: 1 << 19}

// File is a regular file of a package, or a hard link to one.
type File struct {
	refval.File
	Executable bool // it can be executed or mapped: see refval.SelectExecutable
}

// Unpack returns the regular files of a package, once its control part is the one that
// the index states and its data the one that the control part states by SHA-256. Where
// the index states SHA-1, a key must have signed the package itself. Refusals:
//
//	index-mismatch    another file than the index names
//	package-unsigned  the index states SHA-1, and nobody signed the package
//	package-foreign   none of the keys did
//	digest-weak       it is signed over SHA-1
//	package-corrupt   it does not unpack within its bounds, its data is not what its control part states, or
//	                  a path leads outside of the root
func Unpack(raw []byte, want Package, keys []Key, limits Limits) ([]File, error) {
	where := want.Filename()
	corrupt := func(err error) ([]File, error) {
		return nil, deny(keystead.ReasonPackageCorrupt, where, "a file that unpacks within its bounds", err.Error())
	}
	if int64(len(raw)) != want.Size {
		return nil, deny(keystead.ReasonIndexMismatch, where, fmt.Sprintf("%d bytes", want.Size), fmt.Sprintf("%d bytes", len(raw)))
	}
	_, signatures, rest, err := cut(raw, maxSignature)
	if err != nil {
		return corrupt(err)
	}
	packed, control, data, err := cut(rest, maxSigned)
	if err != nil {
		return corrupt(err)
	}
	var sum []byte
	if want.strong {
		s := sha256.Sum256(packed)
		sum = s[:]
	} else {
		s := sha1.Sum(packed)
		sum = s[:]
	}
	if !bytes.Equal(sum, want.control) {
		return nil, deny(keystead.ReasonIndexMismatch, where, fmt.Sprintf("a control part of %x", want.control), fmt.Sprintf("%x", sum))
	}
	if !want.strong {
		if by, reason, got := signer(signatures, packed, keys); by == "" {
			return nil, deny(reason, where, "a signature over SHA-256 (.SIGN.RSA256.) by an accepted key, for the index states SHA-1", got)
		}
	}
	info, err := member(control, ".PKGINFO")
	if err == nil {
		err = checkData(info, want.Name, data)
	}
	if err != nil {
		return corrupt(err)
	}
	files, err := unpack(data, limits)
	if err != nil {
		return corrupt(err)
	}
	return files, nil
}

// checkData holds name and data against what .PKGINFO states, each once.
func checkData(info []byte, n Name, data []byte) error {
	stated := map[string]string{}
	for line := range strings.Lines(string(info)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		switch key {
		case "pkgname", "pkgver", "arch", "datahash":
			if _, twice := stated[key]; twice {
				return fmt.Errorf(".PKGINFO states %s twice", key)
			}
			stated[key] = value
		}
	}
	got := sha256.Sum256(data)
	switch {
	case stated["datahash"] != hex.EncodeToString(got[:]):
		return fmt.Errorf("its data is of SHA-256 %x, .PKGINFO states %.80q", got, stated["datahash"])
	case stated["pkgname"] != n.Package || stated["pkgver"] != n.Version || stated["arch"] != n.Architecture && stated["arch"] != "noarch":
		return fmt.Errorf(".PKGINFO is of %.80q, want %s", stated["pkgname"]+"="+stated["pkgver"]+":"+stated["arch"], n)
	}
	return nil
}

func unpack(data []byte, limits Limits) ([]File, error) {
	r := bytes.NewReader(data)
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	archive := &bounded.Reader{R: z, Left: limits.Bytes}
	t := tar.NewReader(archive)
	var files []File
	byPath := map[string]int{}
	left := limits.Bytes
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if _, err := io.Copy(io.Discard, archive); err != nil { // to gzip's own check at the end
				return nil, err
			}
			if r.Len() > 0 {
				return nil, fmt.Errorf("%d bytes follow the data", r.Len())
			}
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if n == limits.Files {
			return nil, fmt.Errorf("holds more than %d members", limits.Files)
		}
		if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeFifo {
			continue
		}
		path, ok := refval.CanonicalPath(h.Name)
		if !ok {
			return nil, fmt.Errorf("%.200q is not a path below the root", h.Name)
		}
		f := File{}
		switch h.Typeflag {
		case tar.TypeReg:
			size, err := f.read(&bounded.Reader{R: t, Left: left})
			if err != nil {
				return nil, fmt.Errorf("%.200q: %w", h.Name, err)
			}
			left -= size // a sparse member has more content than the archive has bytes
			f.Executable = f.Executable || h.Mode&0o111 != 0 || refval.Loadable(path)
		case tar.TypeLink:
			target, ok := refval.CanonicalPath(h.Linkname)
			i, known := byPath[target]
			if !ok || !known {
				return nil, fmt.Errorf("%.200q is a hard link to %.200q, which is not in the package", h.Name, h.Linkname)
			}
			f = files[i]
		default:
			return nil, fmt.Errorf("%.200q has member type %q", h.Name, h.Typeflag)
		}
		f.Path = path
		byPath[path] = len(files)
		files = append(files, f)
	}
}

// read hashes a file's content and notes whether it is ELF.
func (f *File) read(r io.Reader) (int64, error) {
	h := sha256.New()
	var head bytes.Buffer
	n, err := io.CopyN(io.MultiWriter(h, &head), r, 4)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err != nil {
		return n, err
	}
	f.Executable = head.String() == "\x7fELF"
	more, err := io.Copy(h, r)
	h.Sum(f.Digest[:0])
	return n + more, err
}

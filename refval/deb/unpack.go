package deb

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/authenticode"
	"github.com/keystead/keystead/internal/bounded"
	"github.com/keystead/keystead/refval"
)

// Limits bound what a package may unpack to.
type Limits struct {
	Bytes int64 // of each unpacked archive, and of the files' content
	Files int   // members of each archive
}

// DefaultLimits hold for Debian's largest packages: debug symbols and game data.
var DefaultLimits = Limits{Bytes: 16 << 30, Files: 1 << 20}

// File is a regular file of a package, or a hard link to one.
type File struct {
	refval.File
	Executable bool              // it can be executed or mapped: see refval.SelectExecutable
	EFI        keystead.Digest   // Authenticode's, if it is an EFI program: see refval.SelectEFI
	Boot384    keystead.Measured // likewise of SHA-384, or an initrd's: see refval.SelectBoot
}

// Select returns the files of a selection, each by the digest that the selection wants.
func Select(files []File, s refval.Selection) (out []refval.File) {
	for _, f := range files {
		switch {
		case s == refval.SelectEFI && !f.EFI.IsZero():
			out = append(out, refval.File{Path: f.Path, Digest: f.EFI})
		case s == refval.SelectBoot && !f.Boot384.IsZero():
			out = append(out, refval.File{Path: f.Path, Digest: f.Boot384.Name()})
			if !f.EFI.IsZero() {
				out = append(out, refval.File{Path: f.Path, Digest: f.EFI})
			}
		case s == refval.SelectAll, s == refval.SelectExecutable && f.Executable:
			out = append(out, f.File)
		}
	}
	return out
}

// maxEFI bounds an EFI program, in bytes; it is held in memory.
const maxEFI = 256 << 20

// Unpack returns the regular files of a .deb, once its size and SHA-256 are those
// that the index states (else index-mismatch). What does not unpack, or exceeds the
// limits, or holds a path outside of the root, is package-corrupt. Symbolic links,
// directories and devices have no content and are left out. The scripts that dpkg
// executes are among the files, by the names under which it keeps them.
func Unpack(deb []byte, want Package, limits Limits) ([]File, error) {
	if err := compare(want.Filename, fileSum{want.Size, want.Digest}, deb); err != nil {
		return nil, err
	}
	files, err := unpack(deb, want.Name, limits)
	if err != nil {
		return nil, corrupt(want.Filename, err)
	}
	return files, nil
}

func corrupt(where string, err error) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonPackageCorrupt, Where: where, Want: "a file that unpacks within its bounds", Got: err.Error()})
}

func unpack(deb []byte, name Name, limits Limits) ([]File, error) {
	control, data, err := tarballs(deb)
	if err != nil {
		return nil, err
	}
	u := unpacker{limits: limits, byPath: map[string]int{}, sum: newSummer()}
	if err := u.walk(data, u.member); err != nil {
		return nil, err
	}
	scripts, err := u.scripts(control, name)
	return append(u.files, scripts...), err
}

// walk calls member for each member of the archive.
func (u *unpacker) walk(t tarball, member func(*tar.Header, io.Reader) error) error {
	r, err := decompressor(t.suffix, bytes.NewReader(t.content))
	if err != nil {
		return err
	}
	defer r.Close()
	data := &bounded.Reader{R: r, Left: u.limits.Bytes}
	archive := tar.NewReader(data)
	for members := 0; ; members++ {
		h, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			_, err := io.Copy(io.Discard, data) // to the decompressor's own check at the end
			return err
		case err != nil:
			return err
		case members == u.limits.Files:
			return fmt.Errorf("holds more than %d members", u.limits.Files)
		}
		if err := member(h, archive); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
}

type unpacker struct {
	limits Limits
	files  []File
	byPath map[string]int // last member of each canonical path
	sum    *summer
}

func (u *unpacker) member(h *tar.Header, content io.Reader) error {
	if strings.TrimSuffix(strings.TrimPrefix(h.Name, "."), "/") == "" && h.Typeflag == tar.TypeDir {
		return nil // the root itself
	}
	path, ok := refval.CanonicalPath(strings.TrimSuffix(h.Name, "/"))
	if !ok {
		return errors.New("is not a path below the root")
	}
	f := File{}
	switch h.Typeflag {
	case tar.TypeReg:
		n, err := u.sum.read(&bounded.Reader{R: content, Left: u.limits.Bytes}, refval.IsInitrd(path))
		if err != nil {
			return err
		}
		f.EFI, f.Boot384 = u.sum.boot()
		u.limits.Bytes -= n // a sparse member has more content than the archive has bytes
		f.Digest, f.Executable = u.sum.digest(), h.Mode&0o111 != 0 || u.sum.elf() || refval.Loadable(path)
	case tar.TypeLink:
		target, ok := refval.CanonicalPath(h.Linkname)
		i, known := u.byPath[target]
		if !ok || !known {
			return fmt.Errorf("is a hard link to %.200q, which is not in the package", h.Linkname)
		}
		f = u.files[i]
		f.Executable = f.Executable || refval.Loadable(path)
		if f.EFI.IsZero() && !refval.IsInitrd(path) {
			f.Boot384 = keystead.Measured{}
		}
	case tar.TypeDir, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return nil
	default:
		return fmt.Errorf("has member type %q", h.Typeflag)
	}
	f.Path = path
	u.byPath[path] = len(u.files)
	u.files = append(u.files, f)
	return nil
}

// summer hashes one file after the other and remembers how each begins.
type summer struct {
	hash interface {
		io.Writer
		Sum([]byte) []byte
		Reset()
	}
	long  hash.Hash // SHA-384, of an initrd; else nil
	begin [4]byte
	buf   []byte
	kept  []byte // the whole file, if it begins as EFI programs do
}

func newSummer() *summer { return &summer{hash: sha256.New(), buf: make([]byte, 128<<10)} }

func (s *summer) read(r io.Reader, initrd bool) (n int64, err error) {
	s.hash.Reset()
	if s.long = nil; initrd {
		s.long = sha512.New384()
	}
	s.begin, s.kept = [4]byte{}, s.kept[:0]
	for {
		k, err := r.Read(s.buf)
		if n < int64(len(s.begin)) {
			copy(s.begin[n:], s.buf[:k])
		}
		if n == 0 || s.mz() && len(s.kept) <= maxEFI {
			s.kept = append(s.kept, s.buf[:k]...)
		}
		s.hash.Write(s.buf[:k])
		if initrd {
			s.long.Write(s.buf[:k])
		}
		n += int64(k)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (s *summer) digest() (d keystead.Digest) {
	s.hash.Sum(d[:0])
	return d
}

// boot returns the Authenticode digests of an EFI program; of an initrd its digest of
// SHA-384; zeros of anything else.
func (s *summer) boot() (efi keystead.Digest, long keystead.Measured) {
	if s.mz() && len(s.kept) <= maxEFI {
		// What fails is a program for DOS or 32 bits, which no firmware here starts.
		if efi, long, err := authenticode.Digests(s.kept); err == nil {
			return efi, long
		}
	}
	if s.long != nil {
		long = keystead.MeasuredBytes(s.long.Sum(nil))
	}
	return efi, long
}

func (s *summer) mz() bool { return string(s.begin[:2]) == "MZ" }

func (s *summer) elf() bool { return string(s.begin[:]) == "\x7fELF" }

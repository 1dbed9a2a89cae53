package fetch

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval/deb"
)

// cache keeps files below one directory, each written whole or not at all. Reading
// what is not there, or damaged, is a miss.
type cache struct{ dir string }

// maxCached bounds a file of the cache, in bytes.
const maxCached = 1 << 30

// openCache makes the directory; "" is keystead in the user's cache directory.
func openCache(dir string) (cache, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return cache{}, fmt.Errorf("no cache directory: %w", err)
		}
		dir = filepath.Join(user, "keystead")
	}
	for _, sub := range []string{"", "release", "index", "deb"} {
		name := filepath.Join(dir, sub)
		if err := os.MkdirAll(name, 0o700); err != nil {
			return cache{}, err
		}
		if err := checkOwner(name); err != nil {
			return cache{}, err
		}
	}
	return cache{dir}, nil
}

// checkOwner refuses a directory that somebody else can write to: what is cached of
// a package is believed.
func checkOwner(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st.Mode()&0o022 != 0 {
		return fmt.Errorf("%s: others may write to the cache (mode %v)", dir, st.Mode().Perm())
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return trustedOwner(dir, int(sys.Uid), os.Geteuid())
	}
	return nil
}

func trustedOwner(dir string, owner, me int) error {
	if owner != 0 && owner != me {
		return fmt.Errorf("%s: the cache is another user's (uid %d)", dir, owner)
	}
	return nil
}

func (c cache) read(kind, name string) ([]byte, error) {
	return readFile(filepath.Join(c.dir, kind, name), maxCached)
}

func (c cache) write(kind, name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Join(c.dir, kind), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.dir, kind, name))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// writeIndex keeps an unpacked index, packed for speed, under the digest of its text.
func (c cache) writeIndex(x *deb.Index) error {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	d := keystead.Sum(x.Bytes())
	return c.write("index", fmt.Sprintf("%x", d[:]), w.EncodeAll(x.Bytes(), nil))
}

// files returns what was computed from the .deb of that digest.
func (c cache) files(d keystead.Digest) ([]deb.File, error) {
	raw, err := c.read("deb", fmt.Sprintf("%x", d[:]))
	if err != nil {
		return nil, err
	}
	return parseFiles(raw, d)
}

func (c cache) writeFiles(d keystead.Digest, files []deb.File) error {
	return c.write("deb", fmt.Sprintf("%x", d[:]), formatFiles(d, files))
}

// The digests of one .deb, as lines: magic and the .deb's digest; for each file x or -
// for executable or not, digest, Authenticode digest or -, SHA-384 digest for the boot or
// -, quoted path; at the end the digest of all that. Version 1 had no Authenticode digests,
// 2 no maintainer scripts, 3 nothing of SHA-384.
const filesMagic = "keystead-deb-files/4 "

func formatFiles(d keystead.Digest, files []deb.File) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%v\n", filesMagic, d)
	for _, f := range files {
		mark := "-"
		if f.Executable {
			mark = "x"
		}
		efi, boot := "-", "-"
		if !f.EFI.IsZero() {
			efi = f.EFI.String()
		}
		if !f.Boot384.IsZero() {
			boot = f.Boot384.String()
		}
		fmt.Fprintf(&b, "%s %v %s %s %s\n", mark, f.Digest, efi, boot, strconv.Quote(f.Path))
	}
	fmt.Fprintf(&b, "sum %v\n", keystead.Digest(sha256.Sum256(b.Bytes())))
	return b.Bytes()
}

func parseFiles(raw []byte, d keystead.Digest) ([]deb.File, error) {
	fail := func(at int, field, problem string) ([]deb.File, error) {
		return nil, &keystead.FormatError{Format: "deb-files", Offset: int64(at), Field: field, Problem: problem}
	}
	end := bytes.LastIndex(raw, []byte("sum sha256:"))
	if end < 0 || string(raw[end:]) != fmt.Sprintf("sum %v\n", keystead.Sum(raw[:end])) {
		return fail(max(end, 0), "sum", "does not match")
	}
	body, ok := strings.CutPrefix(string(raw[:end]), fmt.Sprintf("%s%v\n", filesMagic, d))
	if !ok {
		return fail(0, "magic", "is of another package or version")
	}
	var files []deb.File
	offset := end - len(body)
	for line := range strings.Lines(body) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5)
		if len(f) != 5 || f[0] != "x" && f[0] != "-" {
			return fail(offset, "file", "is not a mark, three digests and a path")
		}
		file := deb.File{Executable: f[0] == "x"}
		var err1, err2, err3, err4 error
		file.Digest, err1 = keystead.ParseDigest(f[1])
		if f[2] != "-" {
			file.EFI, err2 = keystead.ParseDigest(f[2])
		}
		if f[3] != "-" {
			file.Boot384, err3 = keystead.ParseMeasured(f[3])
		}
		file.Path, err4 = strconv.Unquote(f[4])
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return fail(offset, "file", err.Error())
		}
		files = append(files, file)
		offset += len(line)
	}
	return files, nil
}

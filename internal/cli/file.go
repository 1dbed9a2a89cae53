package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keystead/keystead/key"
)

// ReadFile reads a file of the caller's, of at most limit bytes; "-" is stdin.
func ReadFile(name string, limit int64) ([]byte, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, Misuse(err, "")
		}
		defer f.Close()
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than the %d bytes that are accepted", name, limit)
	}
	if err != nil {
		return nil, Misuse(err, "")
	}
	return b, nil
}

// CreateFile writes a new file, and never over one that exists.
func CreateFile(name string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return Misuse(err, "choose another name; keys and secrets are never overwritten")
	}
	if err != nil {
		return Misuse(err, "")
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Output is a file that is written whole or not at all: under a name of its own, which
// it changes at the end. What stood there before is lost only then.
type Output struct {
	*os.File
	name string
}

// OpenOutput fails early, before long work. The caller calls Discard in the end.
func OpenOutput(name string) (*Output, error) {
	switch info, err := os.Stat(name); {
	case err == nil && !info.Mode().IsRegular():
		return nil, Misuse(fmt.Errorf("%s is not a regular file", name), "--out names a file to write")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, Misuse(err, "")
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".part-*")
	if err != nil {
		return nil, Misuse(fmt.Errorf("%s can not be written: %w", name, err), "--out names a file to write")
	}
	return &Output{f, name}, nil
}

// Commit writes the file for good, with that mode.
func (o *Output) Commit(content []byte, mode fs.FileMode) error {
	_, err := o.Write(content)
	err = errors.Join(err, o.Chmod(mode), o.Sync(), o.Close())
	if err == nil {
		err = os.Rename(o.Name(), o.name)
	}
	if err != nil {
		return Misuse(err, "")
	}
	return nil
}

// Discard removes what was not committed.
func (o *Output) Discard() {
	o.Close()
	os.Remove(o.Name())
}

// ReadMember reads a private key from a file that nobody else may read.
func ReadMember(name string) (key.Member, error) {
	info, err := os.Stat(name)
	if err != nil {
		return key.Member{}, Misuse(err, "keystead member create makes a key")
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return key.Member{}, Misuse(fmt.Errorf("%s: others may read this private key (mode %04o)", name, info.Mode().Perm()), "chmod 600 "+name)
	}
	text, err := ReadFile(name, 1<<10)
	if err != nil {
		return key.Member{}, err
	}
	m, err := key.ParseMember(text)
	if err != nil {
		return key.Member{}, Misuse(fmt.Errorf("%s: %w", name, err), "")
	}
	return m, nil
}

// SignerKeys reads the values of --signer: public keys, or files that hold one.
func SignerKeys(values []string) (keys []key.MemberPublic, err error) {
	for _, v := range values {
		k, err := key.ParseMemberPublic([]byte(v))
		if err != nil {
			text, err := ReadFile(v, 1<<10)
			if err != nil {
				return nil, err
			}
			if k, err = key.ParseMemberPublic(text); err != nil {
				return nil, Misuse(fmt.Errorf("%s: %w", v, err), "")
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

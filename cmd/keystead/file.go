package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keystead/keystead/key"
)

// readFile reads a file of the caller's, of at most limit bytes; "-" is stdin.
func readFile(name string, limit int64) ([]byte, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, misuse(err, "")
		}
		defer f.Close()
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than the %d bytes that are accepted", name, limit)
	}
	if err != nil {
		return nil, misuse(err, "")
	}
	return b, nil
}

// createFile writes a new file, and never over one that exists.
func createFile(name string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return misuse(err, "choose another name; keys and secrets are never overwritten")
	}
	if err != nil {
		return misuse(err, "")
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// output is a file that is written whole or not at all: under a name of its own, which
// it changes at the end. What stood there before is lost only then.
type output struct {
	*os.File
	name string
}

// openOutput fails early, before long work. The caller calls discard in the end.
func openOutput(name string) (*output, error) {
	switch info, err := os.Stat(name); {
	case err == nil && !info.Mode().IsRegular():
		return nil, misuse(fmt.Errorf("%s is not a regular file", name), "--out names a file to write")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, misuse(err, "")
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".part-*")
	if err != nil {
		return nil, misuse(fmt.Errorf("%s can not be written: %w", name, err), "--out names a file to write")
	}
	return &output{f, name}, nil
}

// commit writes the file for good, with that mode.
func (o *output) commit(content []byte, mode fs.FileMode) error {
	_, err := o.Write(content)
	err = errors.Join(err, o.Chmod(mode), o.Sync(), o.Close())
	if err == nil {
		err = os.Rename(o.Name(), o.name)
	}
	if err != nil {
		return misuse(err, "")
	}
	return nil
}

// discard removes what was not committed.
func (o *output) discard() {
	o.Close()
	os.Remove(o.Name())
}

// readMember reads a private key from a file that nobody else may read.
func readMember(name string) (key.Member, error) {
	info, err := os.Stat(name)
	if err != nil {
		return key.Member{}, misuse(err, "keystead member create makes a key")
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return key.Member{}, misuse(fmt.Errorf("%s: others may read this private key (mode %04o)", name, info.Mode().Perm()), "chmod 600 "+name)
	}
	text, err := readFile(name, 1<<10)
	if err != nil {
		return key.Member{}, err
	}
	m, err := key.ParseMember(text)
	if err != nil {
		return key.Member{}, misuse(fmt.Errorf("%s: %w", name, err), "")
	}
	return m, nil
}

// signerKeys reads the values of --signer: public keys, or files that hold one.
func signerKeys(values []string) (keys []key.MemberPublic, err error) {
	for _, v := range values {
		k, err := key.ParseMemberPublic([]byte(v))
		if err != nil {
			text, err := readFile(v, 1<<10)
			if err != nil {
				return nil, err
			}
			if k, err = key.ParseMemberPublic(text); err != nil {
				return nil, misuse(fmt.Errorf("%s: %w", v, err), "")
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

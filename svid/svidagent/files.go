package svidagent

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/keystead/keystead/svid"
)

// The files of an SVID, below svid.dir.
const (
	ChainFile  = "svid.pem"   // the chain, leaf first
	KeyFile    = "svid.key"   // PKCS #8
	BundleFile = "bundle.pem" // the domain's trust bundle: one certificate a node
)

// write puts the files in place, the certificate last: whoever waits for it finds the
// others.
func write(dir string, s *svid.SVID, key []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		replace(filepath.Join(dir, KeyFile), key, 0o600),
		replace(filepath.Join(dir, BundleFile), s.Bundle, 0o644),
		replace(filepath.Join(dir, ChainFile), s.Chain, 0o644),
	)
}

// remove removes the files; it is no error that they are not there.
func remove(dir string) error {
	var errs []error
	for _, name := range []string{ChainFile, KeyFile, BundleFile} {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// replace writes a file whole or not at all.
func replace(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

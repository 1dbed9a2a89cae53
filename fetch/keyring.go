package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// maxKeyFile bounds a keyring file, in bytes.
const maxKeyFile = 4 << 20

// keyring returns the keys that may sign the source: those of the caller, else of the
// source's Signed-By, else apt's trusted keys, all below root.
func (f *fetcher) keyring(s Source) (deb.Keyring, error) {
	if f.Keyring != nil {
		return deb.ParseKeyring(f.Keyring)
	}
	if vendors := f.vendors(); vendors != nil {
		var k deb.Keyring
		for _, v := range vendors {
			more, err := deb.ParseKeyring(v.Key)
			if err != nil {
				return k, fmt.Errorf("vendor %s: %w", v.Name, err)
			}
			k = k.Add(more)
		}
		return k, nil
	}
	if s.Key != nil {
		return deb.ParseKeyring(s.Key)
	}
	var k deb.Keyring
	var fingerprints []string
	files := false
	for _, by := range s.SignedBy {
		if !strings.HasPrefix(by, "/") {
			fingerprints = append(fingerprints, strings.TrimSuffix(by, "!"))
			continue
		}
		more, err := f.keyFile(filepath.Join(f.Root, by))
		if err != nil {
			return k, err
		}
		files, k = true, k.Add(more)
	}
	if !files { // a file without keys accepts nobody, not everybody
		var err error
		if k, err = f.trustedKeys(); err != nil {
			return k, err
		}
	}
	if len(fingerprints) > 0 {
		k = k.Only(fingerprints...)
	}
	return k, nil
}

// vendors are those of Debian's packages; nil if none is named.
func (f *fetcher) vendors() (out []refval.Vendor) {
	for _, v := range f.Vendors {
		if v.Format == refval.FormatDeb {
			out = append(out, v)
		}
	}
	return out
}

// accepts reports whether a package counts that a release of those signers offers.
func (f *fetcher) accepts(pkg string, signers []string) bool {
	vendors := f.vendors()
	return vendors == nil || slices.ContainsFunc(vendors, func(v refval.Vendor) bool {
		theirs, err := v.Signers()
		return err == nil && v.Covers(pkg) && slices.ContainsFunc(theirs, func(s string) bool { return slices.Contains(signers, s) })
	})
}

// trustedKeys are those that apt accepts for any source without a Signed-By.
func (f *fetcher) trustedKeys() (k deb.Keyring, err error) {
	names := []string{filepath.Join(f.Root, "/etc/apt/trusted.gpg")}
	for _, pattern := range []string{"*.gpg", "*.asc"} {
		found, _ := filepath.Glob(filepath.Join(f.Root, "/etc/apt/trusted.gpg.d", pattern))
		names = append(names, found...)
	}
	for _, name := range names {
		more, err := f.keyFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return k, err
		}
		k = k.Add(more)
	}
	return k, nil
}

func (f *fetcher) keyFile(name string) (deb.Keyring, error) {
	raw, err := readFile(name, maxKeyFile)
	if err != nil {
		return deb.Keyring{}, err
	}
	k, err := deb.ParseKeyring(raw)
	if err != nil {
		return k, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

// Package rpmrepo makes rpm packages, databases and repositories with the real tools
// (rpmbuild, rpmsign, rpm, createrepo_c, gpg), for tests. It touches one directory of
// its own.
package rpmrepo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Bench is a directory in which packages are made.
type Bench struct{ dir string }

// New returns a bench in an empty directory.
func New(dir string) (*Bench, error) {
	b := &Bench{dir}
	for _, sub := range []string{"build", "home"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// run runs a tool in an environment that is the bench's own.
func (b *Bench) run(name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Dir = b.dir
	c.Env = append(os.Environ(), "HOME="+filepath.Join(b.dir, "home"), "LC_ALL=C", "TZ=UTC", "SOURCE_DATE_EPOCH=1772366400")
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// A Signer is an OpenPGP key of gpg's that signs packages.
type Signer struct {
	bench *Bench
	home  string
	name  string
}

// Signer makes a signing key. Algorithm is one of gpg's, such as rsa2048 or ed25519.
func (b *Bench) Signer(name, algorithm string) (*Signer, error) {
	s := &Signer{b, filepath.Join(b.dir, "gpg-"+name), name}
	if err := os.MkdirAll(s.home, 0o700); err != nil {
		return nil, err
	}
	_, err := b.run("gpg", "--homedir", s.home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", name+" <"+name+"@example.org>", algorithm, "sign", "never")
	return s, err
}

// Close ends gpg's agent.
func (s *Signer) Close() { s.bench.run("gpgconf", "--homedir", s.home, "--kill", "all") }

// Public returns the signer's certificate, armoured.
func (s *Signer) Public() ([]byte, error) {
	out, err := s.bench.run("gpg", "--homedir", s.home, "--batch", "--quiet", "--armor", "--export", s.name)
	return []byte(out), err
}

// Package is what to build. Files hold a shell script each, mode 755.
type Package struct {
	Name, Version, Release string
	Epoch                  int // 0: none stated
	Files                  map[string]string
}

// Build builds a package for x86_64, signed by the signer unless that is nil, and
// returns its file. Defines are further macros, such as "_binary_filedigest_algorithm 1".
func (b *Bench) Build(p Package, s *Signer, defines ...string) (string, error) {
	var spec, install, list strings.Builder
	fmt.Fprintf(&spec, "Name: %s\nVersion: %s\nRelease: %s\n", p.Name, p.Version, p.Release)
	if p.Epoch != 0 {
		fmt.Fprintf(&spec, "Epoch: %d\n", p.Epoch)
	}
	for name, content := range p.Files {
		fmt.Fprintf(&install, "mkdir -p %%{buildroot}%s\ncat > %%{buildroot}%s <<'END-OF-FILE'\n%sEND-OF-FILE\n", filepath.Dir(name), name, content)
		fmt.Fprintf(&list, "%%attr(755,root,root) %s\n", name)
	}
	fmt.Fprintf(&spec, "Summary: %s\nLicense: none\nAutoReqProv: no\n%%description\nFor tests.\n%%install\n%s%%files\n%s", p.Name, &install, &list)
	name := filepath.Join(b.dir, "build", p.Name+".spec")
	if err := os.WriteFile(name, []byte(spec.String()), 0o600); err != nil {
		return "", err
	}
	args := []string{"-bb", "--quiet", "--target", "x86_64-linux", "--define", "_topdir " + filepath.Join(b.dir, "build"), "--define", "debug_package %{nil}", "--define", "__os_install_post %{nil}"}
	for _, d := range defines {
		args = append(args, "--define", d)
	}
	if _, err := b.run("rpmbuild", append(args, name)...); err != nil {
		return "", err
	}
	file := filepath.Join(b.dir, "build/RPMS/x86_64", fmt.Sprintf("%s-%s-%s.x86_64.rpm", p.Name, p.Version, p.Release))
	if s == nil {
		return file, nil
	}
	gpg, err := exec.LookPath("gpg") // Debian's rpm looks for gpg2
	if err != nil {
		return "", err
	}
	_, err = b.run("rpmsign", "--addsign", "--define", "__gpg "+gpg, "--define", "_gpg_name "+s.name, "--define", "_gpg_path "+s.home, "--define", "_gpg_digest_algo sha256", file)
	return file, err
}

// Install installs packages into the database below a directory, of the one backend
// that Debian's rpm writes: var/lib/rpm/rpmdb.sqlite. No files are unpacked.
func (b *Bench) Install(root string, files ...string) error {
	place := filepath.Join(root, "var/lib/rpm")
	if err := os.MkdirAll(place, 0o755); err != nil {
		return err
	}
	_, err := b.run("rpm", append([]string{"--dbpath", place, "-U", "--oldpackage", "--justdb", "--nodeps", "--noscripts", "--ignorearch", "--nosignature"}, files...)...)
	return err
}

// Repository makes a repository of the packages in a directory.
func (b *Bench) Repository(dir string) error {
	_, err := b.run("createrepo_c", "--quiet", dir)
	return err
}

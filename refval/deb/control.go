package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/keystead/keystead/internal/bounded"
)

// maintainer are the scripts of a control.tar that dpkg (deb-preinst(5) and the like) and
// debconf execute. They are what runs when a package is installed, upgraded or removed.
var maintainer = map[string]bool{"preinst": true, "postinst": true, "prerm": true, "postrm": true, "config": true}

// maxControl bounds a package's control file, in bytes.
const maxControl = 1 << 20

// scripts returns the maintainer scripts, by the names under which dpkg keeps them:
// with the architecture for packages of which several may be installed side by side.
func (u *unpacker) scripts(control tarball, name Name) (out []File, err error) {
	prefix := "/var/lib/dpkg/info/" + name.Package
	err = u.walk(control, func(h *tar.Header, content io.Reader) error {
		member := strings.TrimPrefix(h.Name, "./")
		switch {
		case h.Typeflag != tar.TypeReg:
			return nil
		case member == "control":
			same, err := multiArch(content)
			if same {
				prefix += ":" + name.Architecture
			}
			return err
		case !maintainer[member]:
			return nil
		}
		n, err := u.sum.read(&bounded.Reader{R: content, Left: u.limits.Bytes}, false)
		if err != nil {
			return err
		}
		u.limits.Bytes -= n
		f := File{Executable: true}
		f.Path, f.Digest = member, u.sum.digest()
		out = append(out, f)
		return nil
	})
	for i := range out {
		out[i].Path = prefix + "." + out[i].Path
	}
	return out, err
}

// multiArch reports whether the control file says Multi-Arch: same.
func multiArch(control io.Reader) (bool, error) {
	raw, err := io.ReadAll(io.LimitReader(control, maxControl+1))
	if err == nil && len(raw) > maxControl {
		err = errors.New("is too long")
	}
	if err != nil {
		return false, err
	}
	for s, err := range Stanzas("deb-control", bytes.TrimSpace(raw)) {
		if err != nil {
			return false, err
		}
		return strings.EqualFold(strings.TrimSpace(s.Get("Multi-Arch")), "same"), nil
	}
	return false, nil
}

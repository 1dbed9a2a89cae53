package deb

import (
	"fmt"
	"strconv"
	"strings"
)

// An ar archive (deb(5)): a magic, then members of a 60-byte header in ASCII and
// content, padded to an even length.
const (
	arMagic  = "!<arch>\n"
	arHeader = 60
)

// tarball is a member of a .deb that is an archive itself, packed as its suffix says.
type tarball struct {
	suffix  string
	content []byte
}

// tarballs returns a .deb's control.tar and data.tar, and checks what comes before
// them: debian-binary of format 2.
func tarballs(deb []byte) (control, data tarball, err error) {
	rest, ok := strings.CutPrefix(string(deb[:min(len(deb), len(arMagic))]), arMagic)
	if !ok || rest != "" {
		return control, data, fmt.Errorf("is not an ar archive")
	}
	deb = deb[len(arMagic):]
	for number := 0; len(deb) > 0; number++ {
		name, body, next, err := nextMember(deb)
		if err != nil {
			return control, data, fmt.Errorf("member %d: %w", number, err)
		}
		deb = next
		switch {
		case number == 0 && (name != "debian-binary" || !strings.HasPrefix(string(body[:min(len(body), 8)]), "2.")):
			return control, data, fmt.Errorf("does not begin with debian-binary of format 2")
		case number == 1 && !strings.HasPrefix(name, "control.tar"):
			return control, data, fmt.Errorf("has %.16q where control.tar belongs", name)
		case number == 1:
			control = tarball{strings.TrimPrefix(name, "control.tar"), body}
			continue
		case number == 0 || strings.HasPrefix(name, "_"): // deb(5): such members are passed over
			continue
		case !strings.HasPrefix(name, "data.tar"):
			return control, data, fmt.Errorf("has %.16q where data.tar belongs", name)
		}
		return control, tarball{strings.TrimPrefix(name, "data.tar"), body}, nil
	}
	return control, data, fmt.Errorf("has no data.tar")
}

func nextMember(b []byte) (name string, body, rest []byte, err error) {
	if len(b) < arHeader {
		return "", nil, nil, fmt.Errorf("header is cut off")
	}
	h := string(b[:arHeader])
	size, err := strconv.ParseUint(strings.TrimRight(h[48:58], " "), 10, 40)
	if err != nil || h[58:] != "`\n" {
		return "", nil, nil, fmt.Errorf("header is malformed")
	}
	b = b[arHeader:]
	if size > uint64(len(b)) {
		return "", nil, nil, fmt.Errorf("states %d bytes, %d are left", size, len(b))
	}
	pad := min(size+size%2, uint64(len(b)))
	return strings.TrimSuffix(strings.TrimRight(h[:16], " "), "/"), b[:size], b[pad:], nil
}

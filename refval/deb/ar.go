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

// dataMember returns the suffix and content of a .deb's data.tar member, and checks
// what comes before it: debian-binary of format 2, one control.tar.
func dataMember(deb []byte) (suffix string, content []byte, err error) {
	rest, ok := strings.CutPrefix(string(deb[:min(len(deb), len(arMagic))]), arMagic)
	if !ok || rest != "" {
		return "", nil, fmt.Errorf("is not an ar archive")
	}
	deb = deb[len(arMagic):]
	for number := 0; len(deb) > 0; number++ {
		name, body, next, err := nextMember(deb)
		if err != nil {
			return "", nil, fmt.Errorf("member %d: %w", number, err)
		}
		deb = next
		switch {
		case number == 0 && (name != "debian-binary" || !strings.HasPrefix(string(body[:min(len(body), 8)]), "2.")):
			return "", nil, fmt.Errorf("does not begin with debian-binary of format 2")
		case number == 1 && !strings.HasPrefix(name, "control.tar"):
			return "", nil, fmt.Errorf("has %.16q where control.tar belongs", name)
		case number < 2 || strings.HasPrefix(name, "_"): // deb(5): such members are passed over
			continue
		case !strings.HasPrefix(name, "data.tar"):
			return "", nil, fmt.Errorf("has %.16q where data.tar belongs", name)
		}
		return strings.TrimPrefix(name, "data.tar"), body, nil
	}
	return "", nil, fmt.Errorf("has no data.tar")
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

package deb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
)

// ParseStatus reads /var/lib/dpkg/status and returns the packages whose files are
// there, sorted by their names. It is the host's own word: what it names still has
// to be found in a signed index. It fails with a *keystead.FormatError, also for a
// package that is stated twice.
func ParseStatus(raw []byte) ([]Name, error) {
	var out []Name
	seen := map[[2]string]bool{}
	for s, err := range Stanzas("dpkg-status", raw) {
		if err != nil {
			return nil, err
		}
		fail := func(field, problem string, args ...any) ([]Name, error) {
			return nil, &keystead.FormatError{Format: "dpkg-status", Offset: int64(s.Offset), Field: field, Problem: fmt.Sprintf(problem, args...)}
		}
		state := strings.Fields(s.Get("Status"))
		if len(state) != 3 {
			return fail("Status", "%.60q is not a selection, a flag and a state", s.Get("Status"))
		}
		n := Name{s.Get("Package"), s.Get("Version"), s.Get("Architecture")}
		if id := [2]string{n.Package, n.Architecture}; seen[id] {
			return fail("Package", "%s:%s is stated twice", n.Package, n.Architecture)
		} else {
			seen[id] = true
		}
		if !unpacked(state[2]) {
			continue
		}
		if err := n.check(); err != nil {
			return fail("Package", "%v", err)
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Name) int {
		return cmp.Or(strings.Compare(a.Package, b.Package), strings.Compare(a.Version, b.Version), strings.Compare(a.Architecture, b.Architecture))
	})
	return out, nil
}

// unpacked reports whether dpkg's state (dpkg(1)) means that the files are in place.
func unpacked(state string) bool {
	switch state {
	case "installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending":
		return true
	}
	return false
}

package appraise

import (
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/apk"
	"github.com/keystead/keystead/refval/deb"
	"github.com/keystead/keystead/refval/rpm"
)

// installed is a host's list of packages, read. Names and versions are its word alone;
// what it proves of itself is apart.
type installed struct {
	packages []refval.Package // name, version and format
	proven   *rpm.Proven      // nil where the format proves nothing
}

// size is how much memory it takes, about, in bytes.
func (i *installed) size() int {
	n := 256
	for _, p := range i.packages {
		n += 160 + len(p.Name) + len(p.Version) + len(p.Architecture)
	}
	if i.proven != nil {
		n += provenSize(i.proven)
	}
	return n
}

// provenSize is likewise what a list proves of itself, and what it does not.
func provenSize(p *rpm.Proven) int {
	n := p.Set.Size()
	for _, list := range [][]rpm.Refusal{p.Refused, p.Weak} {
		for _, r := range list {
			f := &r.Finding
			n += 256 + len(r.Name) + len(r.Version) + len(f.Where) + len(f.Want) + len(f.Got)
			for _, file := range r.Files {
				n += 224 + 2*len(file.Path) // with the references' index of them
			}
		}
	}
	return n
}

// readInstalled reads a list. What the rpm headers of it prove, they prove by the
// vendors' keys, signed by the time at.
func readInstalled(list *evidence.PackageList, vendors []refval.Vendor, at time.Time) (*installed, error) {
	out := &installed{}
	switch list.Format {
	case evidence.FormatDpkgStatus:
		names, err := deb.ParseStatus(list.Data)
		for _, n := range names {
			out.packages = append(out.packages, refval.Package{Name: n.Package, Version: n.Version})
		}
		return out, err
	case evidence.FormatAPKInstalled:
		names, err := apk.ParseInstalled(list.Data)
		for _, n := range names {
			out.packages = append(out.packages, refval.Package{Name: n.Package, Version: n.Version, Format: refval.FormatAPK})
		}
		return out, err
	case evidence.FormatRPMHeaders:
		p, err := rpm.Prove(rpm.Unpack(list.Data), vendors, refval.SelectAll, at)
		if err != nil {
			return nil, err
		}
		out.packages, out.proven = p.Packages, p
		return out, nil
	}
	return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "packages",
		Want: fmt.Sprintf("%s, %s or %s", evidence.FormatDpkgStatus, evidence.FormatRPMHeaders, evidence.FormatAPKInstalled), Got: fmt.Sprintf("format %.40q", list.Format)})
}

// ever is a time after all signatures.
var ever = time.Unix(1<<40, 0)

// installed is readInstalled of a list that reads. The caller must not change it.
func (m *Memory) installed(list *evidence.PackageList, vendors []refval.Vendor, at time.Time) (*installed, error) {
	if m == nil {
		return readInstalled(list, vendors, at)
	}
	parts := [][]byte{[]byte(list.Format), list.Data}
	if list.Format == evidence.FormatRPMHeaders {
		for _, v := range vendors {
			parts = append(parts, []byte(v.Name), []byte(v.Format), v.Key)
			for _, p := range v.Packages {
				parts = append(parts, []byte(p))
			}
			parts = append(parts, nil)
		}
	}
	name := nameOf(parts)
	m.mu.Lock()
	on, ok := m.lists.items[name]
	m.mu.Unlock()
	known := on.item
	if !ok {
		var err error
		if known, err = readInstalled(list, vendors, ever); err != nil {
			return nil, err
		}
		m.mu.Lock()
		m.lists.put(name, known, known.size())
		m.mu.Unlock()
	}
	if known.proven != nil && known.proven.Latest.After(at) { // a signature that is to come counts for nothing yet
		return readInstalled(list, vendors, at)
	}
	return known, nil
}

// comparers order versions, by the package's format.
var comparers = map[refval.Format]func(a, b string) int{refval.FormatDeb: deb.Compare, refval.FormatRPM: rpm.Compare, refval.FormatAPK: apk.Compare}

// floors are the oldest versions that a policy accepts, by format and name.
type floors map[[2]string]string

func (a *appraisal) floors() floors {
	f := floors{}
	for _, one := range a.in.Policy.Floors() {
		f[[2]string{one.Format, one.Package}] = one.Version
	}
	return f
}

// below returns the floor that a package is below of, or "".
func (f floors) below(p *refval.Package) string {
	if len(f) == 0 {
		return ""
	}
	floor, ok := f[[2]string{p.Format.String(), p.Name}]
	if ok && comparers[p.Format](p.Version, floor) < 0 {
		return floor
	}
	return ""
}

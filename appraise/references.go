package appraise

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/refval"
)

// references are all sets and code sets of one appraisal, and what was seen of them.
type references struct {
	sets      []*refval.Set
	codes     []*refval.CodeSet
	seen      [][]bool // by set and package number: something of it ran; nil in a continuation
	listed    [][]bool // likewise: the host lists a package of that name; nil when it sent no list
	codePaths map[string][]accepted
	before    []seenPackage // in a continuation: of which something ran before, in order
	later     []seenPackage // and what ran since that did not
}

// accepted is a file of a code set.
type accepted struct {
	code   string
	digest keystead.Digest
}

// newReferences takes the sets of files, not those of EFI programs: their digests are
// of another kind.
func newReferences(sets []*refval.Set, codes []*refval.CodeSet) *references {
	r := &references{codes: codes}
	for _, s := range sets {
		if s.Header().Selection == refval.SelectEFI {
			continue
		}
		r.sets = append(r.sets, s)
		r.seen = append(r.seen, make([]bool, len(s.Header().Packages)))
	}
	return r
}

// list marks the packages that the host lists.
func (r *references) list(names map[string]bool) {
	r.listed = make([][]bool, len(r.sets))
	for n, s := range r.sets {
		for _, p := range s.Header().Packages {
			r.listed[n] = append(r.listed[n], names[p.Name])
		}
	}
}

// owner is the package or code set that names a file.
type owner struct {
	pkg  *refval.Package
	code string
}

func (o owner) String() string {
	switch {
	case o.code != "":
		return "code set " + o.code
	case o.pkg != nil:
		return o.pkg.Name + " " + o.pkg.Version
	}
	return ""
}

// judge names the entry's content. It does not allocate for a file that is named.
func (r *references) judge(e ima.Entry) (Status, owner) {
	switch {
	case e.Violation:
		return Violation, owner{}
	case e.Alg == "md5" || e.Alg == "sha1":
		return Weak, owner{}
	case e.Alg != "sha256":
		return Unknown, owner{} // reference values are of sha256 alone
	case buffer(e):
		return Unknown, owner{}
	}
	if o, ok := r.lookup(keystead.Digest(e.FileDigest)); ok {
		return Named, o
	}
	if o, wanted := r.path(e.Path); wanted != nil {
		return Altered, o
	}
	return Unknown, owner{}
}

// buffer reports whether the entry is of a measured buffer, such as the command line
// of a kexec: its name is no path, and its third field is what was measured. That
// a package ships a file of the same content does not make it good in that role.
func buffer(e ima.Entry) bool {
	return (len(e.Path) == 0 || e.Path[0] != '/') && len(e.Signature) > 0 && keystead.Sum(e.Signature) == keystead.Digest(e.FileDigest)
}

// lookup finds who ships the content, preferring a package that the host lists.
func (r *references) lookup(d keystead.Digest) (owner, bool) {
	for _, c := range r.codes {
		if _, ok := c.Lookup(d); ok {
			return owner{code: c.Name()}, true
		}
	}
	set, number := -1, -1
	for n, s := range r.sets {
		first, ok := s.Number(d)
		switch {
		case !ok:
			continue
		case r.listed == nil || r.listed[n][first]:
			return r.ships(n, first), true
		case set < 0:
			set, number = n, first
		}
		for other := range s.Sources(d) {
			if r.listed[n][other.Number] {
				return r.ships(n, other.Number), true
			}
		}
	}
	if set < 0 {
		return owner{}, false
	}
	return r.ships(set, number), true
}

// ships notes that something of a package ran.
func (r *references) ships(set, number int) owner {
	if r.seen != nil {
		r.seen[set][number] = true
	} else if p := (seenPackage{uint32(set), uint32(number)}); !r.seenBefore(p) {
		r.later = append(r.later, p)
	}
	return owner{pkg: &r.sets[set].Header().Packages[number]}
}

// path finds who owns a path, and the digests wanted there.
func (r *references) path(path ima.Path) (o owner, wanted []string) {
	for _, s := range r.sets {
		refs, _ := s.Path(string(path))
		for _, ref := range refs {
			o.pkg = &s.Header().Packages[ref.Source.Number]
			wanted = append(wanted, fmt.Sprintf("%s of package %s %s", ref.Digest, ref.Source.Package, ref.Source.Version))
		}
	}
	if r.codePaths == nil {
		r.indexCode()
	}
	if p, ok := refval.CanonicalPath(string(path)); ok {
		for _, f := range r.codePaths[p] {
			o.code = f.code
			wanted = append(wanted, fmt.Sprintf("%s of code set %s", f.digest, f.code))
		}
	}
	return o, wanted
}

// indexCode makes the code sets' files known by path, for logs full of unknown files.
func (r *references) indexCode() {
	r.codePaths = map[string][]accepted{}
	for _, c := range r.codes {
		for _, f := range c.Files() {
			if p, ok := refval.CanonicalPath(f.Path); ok {
				r.codePaths[p] = append(r.codePaths[p], accepted{c.Name(), f.Digest})
			}
		}
	}
}

// maxWanted bounds how many accepted versions of a file a finding lists.
const maxWanted = 4

func (r *references) finding(reason keystead.Reason, i int, e ima.Entry) keystead.Finding {
	f := keystead.Finding{Reason: reason, Where: e.Path.String(), Got: digestOf(e)}
	if len(e.Path) == 0 {
		f.Where = fmt.Sprintf("measurement list, entry %d", i)
	}
	switch reason {
	case keystead.ReasonFileAltered:
		_, wanted := r.path(e.Path)
		if n := len(wanted) - maxWanted; n > 0 {
			wanted = append(wanted[:maxWanted], fmt.Sprintf("%d more", n))
		}
		f.Want = strings.Join(wanted, " or ")
	case keystead.ReasonFileUnknown:
		f.Want = "a file of a package or code set"
		if e.Alg != "sha256" {
			f.Want = "a file measured by sha256, as reference values are"
		}
	case keystead.ReasonDigestWeak:
		f.Want = "a measurement by sha256"
	case keystead.ReasonViolation:
		f.Want, f.Got = "a file that nobody writes while it is measured", "a violation; that it was this file is the log's word alone"
	}
	return f
}

// digestOf gives what the entry says of the file's content, in text.
func digestOf(e ima.Entry) string {
	if e.FileDigest == nil {
		return "no digest of a file"
	}
	return e.Alg + ":" + hex.EncodeToString(e.FileDigest)
}

// ran lists the packages of which something ran: name=version, sorted.
func (r *references) ran() []string {
	return r.seenPackages(func(n, i int, p *refval.Package) string { return p.Name + "=" + p.Version })
}

// unlisted lists the names of packages of which something ran though the host's list
// lacks them.
func (r *references) unlisted() []string {
	if r.listed == nil {
		return nil
	}
	return r.seenPackages(func(n, i int, p *refval.Package) string {
		if r.listed[n][i] {
			return ""
		}
		return p.Name
	})
}

// seenPackages returns what name gives for each package of which something ran,
// sorted, without "" and doubles.
func (r *references) seenPackages(name func(set, number int, p *refval.Package) string) (out []string) {
	for _, p := range r.seenList() {
		if text := name(int(p.set), int(p.number), &r.sets[p.set].Header().Packages[p.number]); text != "" {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// debuggers lists which packages that can attach to processes the sets ship.
func (r *references) debuggers() (out []string) {
	for _, s := range r.sets {
		packages := s.Header().Packages // in order of their names
		for _, name := range debuggers {
			i, _ := slices.BinarySearchFunc(packages, name, func(p refval.Package, name string) int { return strings.Compare(p.Name, name) })
			for ; i < len(packages) && isDebugger(packages[i].Name, name); i++ {
				out = append(out, packages[i].Name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// isDebugger reports whether a package is the named one, perhaps with a version.
func isDebugger(pkg, name string) bool {
	version, ok := strings.CutPrefix(pkg, name)
	return ok && strings.Trim(version, "-.0123456789") == ""
}

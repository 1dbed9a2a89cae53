package appraise

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/rpm"
)

// references are all sets and code sets of one appraisal, and what was seen of them.
type references struct {
	sets      []*refval.Set
	codes     []*refval.CodeSet
	ended     []lapsed  // sets that count no more
	faults    [][]fault // by set and package number
	seen      [][]bool  // likewise: something of it ran; nil in a continuation
	listed    [][]bool  // likewise: the host lists a package of that name; nil when it sent no list
	codePaths map[string][]accepted
	floors    floors
	vendors   []vendor
	closed    []refval.Format // of whose packages those of vendors alone count, though the vendors' code sets ended
	keys      []ima.Key       // of IMA signatures
	keyNames  []string
	unproven  unproven
	proof     keystead.Digest // of the host's list, where that proves itself
	early     bool            // and what it proves may be more at a later time
	size      int             // in memory, about, in bytes, without sets that are the rules'
	before    []seenPackage   // in a continuation: of which something ran before, in order
	later     []seenPackage   // and what ran since that did not
}

// A fault is why files of a package that a set proves do not count all the same. Of two
// the lower one is told: no signature makes good what is below a floor.
type fault uint8

const (
	faultNone     fault = iota
	faultOutdated       // below the policy's floor
	faultForeign        // its repository's signer is none whom a code set accepts for it
)

// vendor is a code set's, with its keys' fingerprints.
type vendor struct {
	refval.Vendor
	signers []string
}

// unproven are the files of packages whose own headers do not prove them.
type unproven struct {
	byDigest map[keystead.Digest]*rpm.Refusal
	byPath   map[string]*rpm.Refusal // canonical
}

// accepted is a file of a code set.
type accepted struct {
	code   string
	digest keystead.Digest
}

// newReferences takes the sets of files, not those of EFI programs: their digests are
// of another kind.
func newReferences(in *Input, f floors) *references {
	r := &references{codes: in.CodeSets, floors: f}
	for _, c := range in.CodeSets {
		r.trust(c)
	}
	for _, d := range in.Ended {
		r.lapse(d)
	}
	for _, s := range in.References {
		if !s.Header().Selection.Boots() {
			r.add(s)
		}
	}
	return r
}

// trust takes in whose signatures a code set accepts.
func (r *references) trust(c *refval.CodeSet) {
	for v := range c.Vendors() {
		signers, err := v.Signers()
		if err == nil { // a code set that parses has keys that do
			r.vendors = append(r.vendors, vendor{v, signers})
		}
	}
	for k := range c.IMAKeys() {
		public, err := k.Public()
		if err != nil {
			continue
		}
		if one, err := ima.NewKey(public); err == nil {
			r.keys, r.keyNames = append(r.keys, one), append(r.keyNames, k.Name)
		}
	}
}

// add takes a set in.
func (r *references) add(s *refval.Set) {
	h := s.Header()
	faults := make([]fault, len(h.Packages))
	for i := range h.Packages {
		faults[i] = r.faultOf(&h.Packages[i], h.Repositories)
	}
	r.size += 2*len(faults) + 64 // and listed
	r.sets, r.faults, r.seen = append(r.sets, s), append(r.faults, faults), append(r.seen, make([]bool, len(h.Packages)))
}

// faultOf says why a package of a set does not count, if it does not.
func (r *references) faultOf(p *refval.Package, repositories []refval.Repository) fault {
	switch {
	case r.floors.below(p) != "":
		return faultOutdated
	case !r.vouched(p, repositories):
		return faultForeign
	}
	return faultNone
}

// vouched reports whether an accepted vendor stands behind the package. Where no code
// set names vendors of its format, whoever built the set chose them. That the code set
// which named them ended opens nothing to other vendors.
func (r *references) vouched(p *refval.Package, repositories []refval.Repository) bool {
	named := slices.Contains(r.closed, p.Format) || slices.ContainsFunc(r.vendors, func(v vendor) bool { return v.Format == p.Format })
	return !named || signedBy(r.vendors, p, repositories)
}

// signedBy reports whether one of the vendors signed for the package, and may.
func signedBy(vendors []vendor, p *refval.Package, repositories []refval.Repository) bool {
	return slices.ContainsFunc(vendors, func(v vendor) bool {
		return v.Format == p.Format && v.Covers(p.Name) && slices.ContainsFunc(p.Repositories, func(n int) bool {
			return slices.ContainsFunc(repositories[n].Signers, func(s string) bool { return slices.Contains(v.signers, s) })
		})
	})
}

// prove takes in what a host's list of that digest proves of itself, and what it does not.
func (r *references) prove(list keystead.Digest, p *rpm.Proven) {
	r.add(p.Set)
	r.proof, r.early = list, p.Early
	r.size += provenSize(p)
	r.unproven = unproven{map[keystead.Digest]*rpm.Refusal{}, map[string]*rpm.Refusal{}}
	for _, list := range [][]rpm.Refusal{p.Refused, p.Weak} {
		for i := range list {
			for _, f := range list[i].Files {
				r.unproven.byPath[f.Path] = &list[i]
				if !f.Digest.IsZero() {
					r.unproven.byDigest[f.Digest] = &list[i]
				}
			}
		}
	}
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

// owner is the package, code set or IMA key that names a file.
type owner struct {
	pkg     *refval.Package
	code    string
	signer  string
	refused *rpm.Refusal // a package that does not prove itself
}

func (o owner) String() string {
	switch {
	case o.code != "":
		return "code set " + o.code
	case o.signer != "":
		return "IMA key " + o.signer
	case o.pkg != nil:
		return o.pkg.Name + " " + o.pkg.Version
	case o.refused != nil:
		return o.refused.Name + " " + o.refused.Version
	}
	return ""
}

// judge names the entry's content. It does not allocate for a file that is named.
func (r *references) judge(e *ima.Entry) (Status, owner) {
	switch {
	case e.Violation:
		return Violation, owner{}
	case e.Alg == "md5" || e.Alg == "sha1":
		return Weak, owner{}
	case e.Alg != "sha256": // reference values are of sha256 alone
		if o, ok := r.signed(e); ok {
			return Named, o
		}
		return Unknown, owner{}
	case buffer(e):
		return Unknown, owner{}
	}
	d := keystead.Digest(e.FileDigest)
	o, f, ok := r.lookup(d)
	switch {
	case ok && f == faultNone:
		return Named, o
	case ok && f == faultOutdated:
		return Outdated, o
	}
	if signer, ok := r.signed(e); ok {
		return Named, signer
	}
	if ok {
		return Unproven, o
	}
	if refused := r.unproven.byDigest[d]; refused != nil {
		return Unproven, owner{refused: refused}
	}
	if o, wanted := r.path(e.Path); wanted != nil {
		return Altered, o
	}
	if path, ok := refval.CanonicalPath(string(e.Path)); ok {
		if refused := r.unproven.byPath[path]; refused != nil {
			return Unproven, owner{refused: refused}
		}
	}
	return Unknown, owner{}
}

// signed reports whether an accepted IMA key signed the entry's content.
func (r *references) signed(e *ima.Entry) (owner, bool) {
	if len(r.keys) == 0 || !e.Signable() {
		return owner{}, false
	}
	n, err := e.Signed(r.keys)
	if err != nil {
		return owner{}, false
	}
	return owner{signer: r.keyNames[n]}, true
}

// buffer reports whether the entry is of a measured buffer, such as the command line
// of a kexec: its name is no path, and its third field is what was measured. That
// a package ships a file of the same content does not make it good in that role.
func buffer(e *ima.Entry) bool {
	return (len(e.Path) == 0 || e.Path[0] != '/') && len(e.Signature) > 0 && keystead.Sum(e.Signature) == keystead.Digest(e.FileDigest)
}

// lookup finds who ships the content, preferring a package without fault, and among
// these one that the host lists.
func (r *references) lookup(d keystead.Digest) (owner, fault, bool) {
	for _, c := range r.codes {
		if _, ok := c.Lookup(d); ok {
			return owner{code: c.Name()}, faultNone, true
		}
	}
	set, number := -1, -1
	better := func(n, i int) bool {
		if set < 0 {
			return true
		}
		f, best := r.faults[n][i], r.faults[set][number]
		return f < best || f == best && r.lists(n, i) && !r.lists(set, number)
	}
	for n, s := range r.sets {
		first, ok := s.Number(d)
		if !ok {
			continue
		}
		if r.faults[n][first] == faultNone && r.lists(n, first) {
			return r.ships(n, first), faultNone, true
		}
		for other := range s.Sources(d) {
			if better(n, other.Number) {
				set, number = n, other.Number
			}
		}
	}
	if set < 0 {
		return owner{}, faultNone, false
	}
	return r.ships(set, number), r.faults[set][number], true
}

// lists reports whether the host lists the package, or sent no list.
func (r *references) lists(set, number int) bool { return r.listed == nil || r.listed[set][number] }

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
			if p, ok := refval.CanonicalPath(f.Path); ok && f.Digest384.IsZero() {
				r.codePaths[p] = append(r.codePaths[p], accepted{c.Name(), f.Digest})
			}
		}
	}
}

// maxWanted bounds how many accepted versions of a file a finding lists.
const maxWanted = 4

func (r *references) finding(reason keystead.Reason, i int, e *ima.Entry, o owner) keystead.Finding {
	f := keystead.Finding{Reason: reason, Where: e.Path.String(), Got: digestOf(e)}
	if len(e.Path) == 0 {
		f.Where = fmt.Sprintf("measurement list, entry %d", i)
	}
	switch reason {
	case keystead.ReasonFileUnknown, keystead.ReasonFileAltered, keystead.ReasonPackageForeign:
		if was, ended := r.vouchedOnce(e, o); ended != nil {
			f.Reason, f.Want, f.Got = keystead.ReasonGraceEnded, wantAfterGrace, f.Got+was.fileOf()+": "+ended.String()
			return f
		}
	}
	switch reason {
	case keystead.ReasonFileAltered:
		_, wanted := r.path(e.Path)
		if n := len(wanted) - maxWanted; n > 0 {
			wanted = append(wanted[:maxWanted], fmt.Sprintf("%d more", n))
		}
		f.Want = strings.Join(wanted, " or ")
	case keystead.ReasonPackageOutdated:
		f.Want, f.Got = fmt.Sprintf("%s %s or later", o.pkg.Name, r.floors.below(o.pkg)), f.Got+" of package "+o.String()
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
	switch { // of a package without proof, whatever the reason
	case o.refused != nil:
		f.Want, f.Got = o.refused.Finding.Want, fmt.Sprintf("%s of package %s: %s", f.Got, o, o.refused.Finding.Got)
	case reason == keystead.ReasonPackageForeign:
		f.Want, f.Got = "a package of a vendor whom a code set accepts for "+o.pkg.Name, f.Got+" of package "+o.String()
	}
	return f
}

// outdated lists the packages below a floor of which something ran: name=version.
func (r *references) outdated() []string {
	return r.seenPackages(func(n, i int, p *refval.Package) string {
		if r.faults[n][i] != faultOutdated {
			return ""
		}
		return p.Name + "=" + p.Version
	})
}

// sorted returns the list in order, each once.
func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// fileOf says whose file it is, where a package ships it.
func (o owner) fileOf() string {
	if o.pkg == nil {
		return ""
	}
	return " of package " + o.String()
}

// strength says how strongly the owner names its files.
func (o owner) strength() string {
	switch {
	case o.signer != "":
		return refval.StrengthIMASignature.String()
	case o.code != "":
		return "code-set"
	case o.pkg != nil:
		return o.pkg.Strength.String()
	}
	return ""
}

// reason says why the owner's package does not count.
func (o owner) reason() keystead.Reason {
	if o.refused != nil {
		return o.refused.Finding.Reason
	}
	return keystead.ReasonPackageForeign
}

// digestOf gives what the entry says of the file's content, in text.
func digestOf(e *ima.Entry) string {
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
	return sorted(out)
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
	return sorted(out)
}

// isDebugger reports whether a package is the named one, perhaps with a version.
func isDebugger(pkg, name string) bool {
	version, ok := strings.CutPrefix(pkg, name)
	return ok && strings.Trim(version, "-.0123456789") == ""
}

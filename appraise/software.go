package appraise

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// A Status is what became of one entry of the IMA log.
type Status string

// The statuses; all but Named and Aggregate speak against the host.
const (
	Aggregate Status = "boot-aggregate" // the first entry, which commits to the boot registers
	Named     Status = "named"          // by a package or a code set
	Unknown   Status = "unknown"
	Altered   Status = "altered" // unknown content at a path that a package or code set owns
	Weak      Status = "weak"    // measured by MD5 or SHA-1, which never suffices
	Violation Status = "violation"
)

// A File is an entry of the IMA log and what it was found to be.
type File struct {
	Entry  int // from 1, as in ascii_runtime_measurements
	Path   string
	Digest string // algorithm and hex
	Status Status
	Source string // the package or code set that names it, or that owns the path
}

// debuggers are packages whose programs attach to processes or read their memory. A
// machine whose accepted files hold one can not claim that root is kept out.
var debuggers = []string{"bpftrace", "crash", "delve", "gdb", "gdb-minimal", "gdbserver", "lldb", "ltrace", "reptyr", "rr", "strace", "systemtap", "valgrind"}

// software names every file that the covered IMA log holds.
func (a *appraisal) software() {
	refs := newReferences(a.in.References, a.in.CodeSets)
	a.packages(refs)
	if a.files == nil {
		return
	}
	c := &a.claims.Software
	c.Entries, c.Uncovered = int64(a.files.Len()), int64(a.files.Uncovered())
	first := true
	for i, e := range a.files.All() {
		a.file(refs, i, e, first)
		first = false
	}
	c.Packages = refs.ran()
	a.claims.Packages.Unlisted = refs.unlisted()
	if !a.in.Policy.EveryEntry() {
		return
	}
	if !slices.Contains(a.claims.Kernel.Guarantees, string(refval.GuaranteeIMAPolicy)) {
		a.find(keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: "ima-policy", Want: "an accepted initrd that guarantees " + string(refval.GuaranteeIMAPolicy),
			Got: "a kernel that may have measured less than every executed file"})
	}
	for _, name := range a.claims.Packages.Unlisted {
		a.find(keystead.Finding{Reason: keystead.ReasonPackageUnlisted, Where: name, Want: "the package in the host's list", Got: "files of it that ran"})
	}
}

// packages reads the host's own list, which counts as names only.
func (a *appraisal) packages(refs *references) {
	c := &a.claims.Packages
	c.Debuggers = refs.shipping(debuggers)
	list := a.parts.Packages
	if list == nil {
		if a.in.Policy.EveryEntry() {
			a.missing("packages", "the host's package list, which the policy asks for")
		}
		return
	}
	if list.Format != evidence.FormatDpkgStatus {
		a.find(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "packages", Want: evidence.FormatDpkgStatus, Got: fmt.Sprintf("format %.40q", list.Format)})
		return
	}
	installed, err := deb.ParseStatus(list.Data)
	if err != nil {
		a.fail("packages", err)
		return
	}
	c.Listed = int64(len(installed))
	refs.listed = map[string]bool{}
	for _, p := range installed {
		refs.listed[p.Package] = true
	}
}

// file judges one entry. The first one is boot_aggregate, which logs checked.
func (a *appraisal) file(refs *references, i int, e ima.Entry, first bool) {
	c := &a.claims.Software
	status, source, reason := Aggregate, owner{}, keystead.Reason("")
	if !first {
		status, source = refs.judge(e)
	}
	switch status {
	case Named:
		c.Named++
	case Unknown:
		c.Unknown++
		reason = keystead.ReasonFileUnknown
	case Altered:
		c.Altered++
		reason = keystead.ReasonFileAltered
	case Weak:
		c.Weak++
		reason = keystead.ReasonDigestWeak
	case Violation:
		c.Violations++
		reason = keystead.ReasonViolation
	}
	if a.each != nil {
		a.each(File{Entry: i, Path: e.Path.String(), Digest: digestOf(e), Status: status, Source: source.String()})
	}
	if reason != "" && a.in.Policy.EveryEntry() {
		a.find(refs.finding(reason, e))
	}
}

// references are all sets and code sets of one appraisal, and what was seen of them.
type references struct {
	sets   []*refval.Set
	codes  []*refval.CodeSet
	seen   [][]bool        // by set and package number: something of it ran
	listed map[string]bool // names on the host's list; nil when it sent none
}

func newReferences(sets []*refval.Set, codes []*refval.CodeSet) *references {
	r := &references{sets: sets, codes: codes}
	for _, s := range sets {
		r.seen = append(r.seen, make([]bool, len(s.Header().Packages)))
	}
	return r
}

// owner is the package or code set that names a file.
type owner struct {
	pkg  refval.Source
	code string
}

func (o owner) String() string {
	switch {
	case o.code != "":
		return "code set " + o.code
	case o.pkg.Package != "":
		return o.pkg.Package + " " + o.pkg.Version
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
	case e.Alg == "sha256" && len(e.FileDigest) == len(keystead.Digest{}):
		if o, ok := r.lookup(keystead.Digest(e.FileDigest)); ok {
			return Named, o
		}
	}
	if o, _, ok := r.path(e.Path.String()); ok {
		return Altered, o
	}
	return Unknown, owner{}
}

// lookup finds who ships the content, preferring a package that the host lists.
func (r *references) lookup(d keystead.Digest) (owner, bool) {
	for _, c := range r.codes {
		if _, ok := c.Lookup(d); ok {
			return owner{code: c.Name()}, true
		}
	}
	best, in := refval.Source{}, -1
	for n, s := range r.sets {
		first, ok := s.Lookup(d)
		if !ok {
			continue
		}
		if in < 0 {
			best, in = first, n
		}
		if r.listed == nil || r.listed[first.Package] {
			best, in = first, n
			break
		}
		for other := range s.Sources(d) {
			if r.listed[other.Package] {
				best, in = other, n
				break
			}
		}
		if r.listed[best.Package] {
			break
		}
	}
	if in < 0 {
		return owner{}, false
	}
	r.seen[in][best.Number] = true
	return owner{pkg: best}, true
}

// path finds who owns a path, and the digests wanted there.
func (r *references) path(path string) (o owner, wanted []string, ok bool) {
	for _, s := range r.sets {
		refs, _ := s.Path(path)
		for _, ref := range refs {
			o.pkg = ref.Source
			wanted = append(wanted, fmt.Sprintf("%s of package %s %s", ref.Digest, ref.Source.Package, ref.Source.Version))
		}
	}
	for _, c := range r.codes {
		for _, f := range c.Path(path) {
			o.code = c.Name()
			wanted = append(wanted, fmt.Sprintf("%s of code set %s", f.Digest, c.Name()))
		}
	}
	return o, wanted, len(wanted) > 0
}

// digestOf gives what the entry says of the file's content, in text.
func digestOf(e ima.Entry) string {
	if e.FileDigest == nil {
		return "no digest of a file"
	}
	return e.Alg + ":" + hex.EncodeToString(e.FileDigest)
}

// maxWanted bounds how many accepted versions of a file a finding lists.
const maxWanted = 4

func (r *references) finding(reason keystead.Reason, e ima.Entry) keystead.Finding {
	f := keystead.Finding{Reason: reason, Where: e.Path.String(), Got: digestOf(e)}
	switch reason {
	case keystead.ReasonFileAltered:
		_, wanted, _ := r.path(f.Where)
		if n := len(wanted) - maxWanted; n > 0 {
			wanted = append(wanted[:maxWanted], fmt.Sprintf("%d more", n))
		}
		f.Want = strings.Join(wanted, " or ")
	case keystead.ReasonFileUnknown:
		f.Want = "a file of a package or code set"
	case keystead.ReasonDigestWeak:
		f.Want = "a measurement by sha256"
	case keystead.ReasonViolation:
		f.Want, f.Got = "a file that nobody writes while it is measured", "a violation"
	}
	return f
}

// ran lists the packages of which something ran: name=version, sorted.
func (r *references) ran() (out []string) {
	for n, s := range r.sets {
		for i, p := range s.Header().Packages {
			if r.seen[n][i] {
				out = append(out, p.Name+"="+p.Version)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// unlisted lists the names of packages of which something ran though the host's list
// lacks them.
func (r *references) unlisted() (out []string) {
	if r.listed == nil {
		return nil
	}
	for n, s := range r.sets {
		for i, p := range s.Header().Packages {
			if r.seen[n][i] && !r.listed[p.Name] {
				out = append(out, p.Name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// shipping lists which of the named packages the sets ship.
func (r *references) shipping(names []string) (out []string) {
	for _, s := range r.sets {
		for _, p := range s.Header().Packages {
			if _, ok := slices.BinarySearchFunc(names, p.Name, cmp.Compare[string]); ok {
				out = append(out, p.Name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

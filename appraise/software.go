package appraise

import (
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/rpm"
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
	Unproven  Status = "unproven" // of a package that nobody signed, somebody else did, or whose header was altered
	Outdated  Status = "outdated" // of a package below the policy's floor
)

// A File is an entry of the IMA log and what it was found to be.
type File struct {
	Entry  int // from 1, as in ascii_runtime_measurements
	Path   string
	Digest string // algorithm and hex
	Status Status
	Source string // the package, code set or IMA key that names it, or that owns the path

	Strength string // of what names it: signed-header, repository-rehash, ima-signature, code-set; "" if nothing does
}

// debuggers are packages whose programs attach to processes or read their memory, in
// order; Debian also ships them with a version in the name (lldb-14). A machine whose
// accepted files hold one can not claim that root is kept out.
var debuggers = []string{"bpfcc-tools", "bpftrace", "crash", "criu", "delve", "edb-debugger", "gdb", "gdb-minimal", "gdb-multiarch", "gdbserver",
	"linux-perf", "lldb", "ltrace", "radare2", "reptyr", "rr", "strace", "sysdig", "systemtap", "systemtap-runtime", "uftrace", "valgrind"}

// references are the reference values, of a continuation those of before.
func (a *appraisal) references() *references {
	switch {
	case a.refs != nil:
	case a.prior != nil:
		a.refs = a.prior.refs.resumed(a.prior.seen)
	default:
		a.refs = newReferences(&a.in, a.floors())
	}
	return a.refs
}

// software names every file that the covered IMA log holds.
func (a *appraisal) software() {
	c, refs := &a.claims.Software, a.references()
	if s := a.prior; s != nil {
		*c, a.claims.Packages = s.software, s.packages
	} else {
		a.packages(refs)
		a.claims.Packages.Outdated = few(a.claims.Packages.Outdated)
		a.claims.Packages.Debuggers = refs.debuggers()
	}
	if a.files == nil {
		if a.parts.TPM == nil && a.in.Policy.EveryEntry() {
			a.missing("ima-log", "the kernel's IMA log, which the policy asks for")
		}
		return
	}
	c.Entries, c.Uncovered = int64(a.files.Len()), int64(a.files.Uncovered())
	a.entries(refs)
	if a.prior == nil || len(refs.later) > 0 {
		c.Packages = refs.ran()
		a.claims.Packages.Outdated = sorted(slices.Concat(a.claims.Packages.Outdated, refs.outdated()))
		a.claims.Packages.Unlisted = refs.unlisted()
	}
	if !a.in.Policy.EveryEntry() {
		return
	}
	if !a.replaced && !slices.Contains(a.claims.Kernel.Guarantees, string(refval.GuaranteeIMAPolicy)) {
		a.find(keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: "ima-policy", Want: "an accepted initrd that guarantees " + string(refval.GuaranteeIMAPolicy),
			Got: "a kernel that may have measured less than every executed file"})
	}
	for _, name := range a.claims.Packages.Unlisted {
		a.find(keystead.Finding{Reason: keystead.ReasonPackageUnlisted, Where: name, Want: "the package in the host's list", Got: "files of it that ran"})
	}
}

// packages reads the host's own list, which counts as names only.
func (a *appraisal) packages(refs *references) {
	list := a.parts.Packages
	if list == nil {
		if a.in.Policy.EveryEntry() {
			a.missing("packages", "the host's package list, which the policy asks for")
		}
		return
	}
	vendors := []refval.Vendor{}
	for _, v := range refs.vendors {
		vendors = append(vendors, v.Vendor)
	}
	installed, err := a.in.Memory.installed(list, vendors, a.in.Time)
	if err != nil {
		a.fail("packages", err)
		return
	}
	c := &a.claims.Packages
	c.Format, c.Listed = list.Format, int64(len(installed.packages))
	if p := installed.proven; p != nil {
		a.proven(refs, keystead.Sum(list.Data), p)
	}
	names := map[string]bool{}
	for i := range installed.packages {
		p := &installed.packages[i]
		names[p.Name] = true
		if floor := refs.floors.below(p); floor != "" {
			c.Outdated = append(c.Outdated, p.Name+"="+p.Version)
			if a.in.Policy.EveryEntry() {
				a.find(keystead.Finding{Reason: keystead.ReasonPackageOutdated, Where: "packages", Want: fmt.Sprintf("%s %s or later", p.Name, floor), Got: p.Version + " in the host's list"})
			}
		}
	}
	refs.list(names)
}

// proven takes in what the list proves of itself. A header that was meddled with speaks
// against the host; one without a vendor's signature only if something of it runs.
func (a *appraisal) proven(refs *references, list keystead.Digest, p *rpm.Proven) {
	refs.prove(list, p)
	c := &a.claims.Packages
	c.Proven = int64(len(p.Packages) - len(p.Refused))
	for _, r := range p.Refused {
		c.Unproven = append(c.Unproven, r.Name+"="+r.Version)
		if r.Lie() && a.in.Policy.EveryEntry() {
			a.find(r.Finding)
		}
	}
	c.Unproven = few(c.Unproven)
}

// maxNames bounds what claims list of packages that a host made up.
const maxNames = 1024

// few returns the first of a list in order, each once.
func few(list []string) []string {
	list = sorted(list)
	return list[:min(len(list), maxNames):min(len(list), maxNames)]
}

// ahead is how many entries are read before the first of them is judged, so that the
// processor fetches the reference values of all of them at once.
const ahead = 32

// entries judges the entries in turn.
func (a *appraisal) entries(refs *references) {
	type numbered struct {
		number int
		ima.Entry
	}
	list, digests := make([]numbered, 0, ahead), make([]keystead.Digest, 0, ahead)
	judge := func() {
		for _, s := range refs.sets {
			s.Prefetch(digests)
		}
		for i := range list {
			a.file(refs, list[i].number, &list[i].Entry)
		}
		list, digests = list[:0], digests[:0]
	}
	aggregate := a.prior == nil // the first entry is boot_aggregate, which logs checked
	for i, e := range a.files.All() {
		if aggregate {
			aggregate = false
			a.tell(i, &e, Aggregate, owner{})
			continue
		}
		if e.Alg == "sha256" {
			digests = append(digests, keystead.Digest(e.FileDigest))
		}
		if list = append(list, numbered{i, e}); len(list) == ahead {
			judge()
		}
	}
	judge()
}

// file judges one entry.
func (a *appraisal) file(refs *references, i int, e *ima.Entry) {
	c := &a.claims.Software
	if e.Aggregate() {
		c.Unknown++
		a.tell(i, e, Unknown, owner{})
		a.replace(i)
		return
	}
	status, source := refs.judge(e)
	var reason keystead.Reason
	switch status {
	case Named:
		c.Named++
		*strengthOf(c, source)++
	case Unproven:
		c.Unproven++
		reason = source.reason()
	case Outdated:
		c.Outdated++
		reason = keystead.ReasonPackageOutdated
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
	a.tell(i, e, status, source)
	switch {
	case reason == "" || !a.in.Policy.EveryEntry():
	case len(a.findings) < maxFindings:
		a.find(refs.finding(reason, i, e, source))
	default:
		a.omitted++ // without making words of it
	}
}

// strengthOf is the count of those that are named as strongly as the owner's files.
func strengthOf(c *evidence.SoftwareClaims, o owner) *int64 {
	switch {
	case o.signer != "":
		return &c.IMASignature
	case o.pkg == nil:
		return &c.CodeSet
	case o.pkg.Strength == refval.StrengthSignedHeader:
		return &c.SignedHeader
	case o.pkg.Strength == refval.StrengthIMASignature:
		return &c.IMASignature
	}
	return &c.RepositoryRehash
}

func (a *appraisal) tell(i int, e *ima.Entry, s Status, o owner) {
	if a.each != nil {
		a.each(File{Entry: i, Path: e.Path.String(), Digest: digestOf(e), Status: s, Source: o.String(), Strength: o.strength()})
	}
}

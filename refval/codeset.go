package refval

import (
	"bytes"
	"iter"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// Code is a file that a code set accepts.
type Code struct {
	Digest  keystead.Digest
	Path    string // where it is meant to lie, absolute; informative: the digest is what counts
	Version string

	// In place of Digest: of a program that runs before the kernel, or of a file that such
	// a one reads, by SHA-384. The kernel's IMA log is not judged by it.
	Digest384 keystead.Measured
}

// measured returns the one digest.
func (c Code) measured() keystead.Measured {
	if !c.Digest384.IsZero() {
		return c.Digest384
	}
	return c.Digest.Measured()
}

// Boot is a way to boot that a code set accepts: the three belong together.
type Boot struct {
	Name        string
	Kernel      keystead.Digest // Authenticode SHA-256 of the EFI program: kernel or unified image
	Initrd      keystead.Digest // zero, without a package: the boot measures none, as with a unified image
	CommandLine string          // exact, in UTF-8; the log measures it as UTF-16. See Line
	Guarantees  []Guarantee     // what the initrd enforces, by the word of whoever signed; sorted

	// Beside them or in their place: the same contents by SHA-384, as a TD's registers and
	// the SHA-384 banks of TPMs have them.
	Kernel384, Initrd384 keystead.Measured

	// In place of a digest: whatever the package ships as a kernel, or as an initrd. A
	// package's name, or what names begin with and an asterisk.
	KernelPackage, InitrdPackage string
}

// HasKernel reports whether the boot names what was measured as its kernel.
func (b Boot) HasKernel(m keystead.Measured) bool {
	return !m.IsZero() && (m == b.Kernel.Measured() || m == b.Kernel384)
}

// HasInitrd reports whether the boot names what was measured as its initrd: the zero
// value if it measures none.
func (b Boot) HasInitrd(m keystead.Measured) bool {
	if m.IsZero() {
		return b.Initrd.IsZero() && b.Initrd384.IsZero() && b.InitrdPackage == ""
	}
	return m == b.Initrd.Measured() || m == b.Initrd384
}

// ShipsKernel reports whether the boot takes a package's file for its kernel.
func (b Boot) ShipsKernel(s Source) bool { return ships(b.KernelPackage, s, "vmlinuz") }

// ShipsInitrd reports whether the boot takes a package's file for its initrd.
func (b Boot) ShipsInitrd(s Source) bool { return of(b.InitrdPackage, s) && IsInitrd(s.Path) }

// IsInitrd reports whether a file is called as initrds are.
func IsInitrd(path string) bool { return called(path, "initrd") || called(path, "initramfs") }

// ships reports whether a file is of a package of that name, and called as told,
// perhaps with a version.
func ships(name string, s Source, as string) bool { return called(s.Path, as) && of(name, s) }

func called(file, as string) bool {
	rest, ok := strings.CutPrefix(path.Base(file), as)
	return ok && (rest == "" || rest[0] == '-' || rest[0] == '.')
}

// of reports whether a file is of a package of that name, or of one whose name begins
// with what stands before an asterisk.
func of(name string, s Source) bool {
	prefix, open := strings.CutSuffix(name, "*")
	return name != "" && (s.Package == prefix || open && strings.HasPrefix(s.Package, prefix))
}

// version stands in a command line for what follows "vmlinuz-" in the kernel's name.
const version = "${version}"

// Line returns the command line of a boot whose kernel is a package's file of that path.
func (b Boot) Line(kernel string) string {
	_, v, _ := strings.Cut(path.Base(kernel), "vmlinuz-")
	return strings.ReplaceAll(b.CommandLine, version, v)
}

// Guarantee is something that an initrd enforces before it starts the system.
type Guarantee string

const (
	// GuaranteeIMAPolicy: loads this project's IMA policy and stops if it can not.
	GuaranteeIMAPolicy Guarantee = "ima-policy"
	// GuaranteePtraceScope3: sets kernel.yama.ptrace_scope to 3, for good.
	GuaranteePtraceScope3 Guarantee = "ptrace-scope-3"
	// GuaranteeInitrdBound: the kernel starts no system without this initrd, as one in a
	// unified image, or one that has the drivers of every root file system. Since version 3.
	GuaranteeInitrdBound Guarantee = "initrd-bound"
)

var guarantees = []Guarantee{GuaranteeIMAPolicy, GuaranteePtraceScope3, GuaranteeInitrdBound}

// Launch is what a code set accepts as the launch measurement of a confidential machine.
type Launch struct {
	Name   string
	Digest keystead.Measured // MRTD, MEASUREMENT, PCR0, MRENCLAVE: claim tee.launch

	// Image says that the measurement covers all that starts, and so stands for a boot, with
	// what that guarantees. Else it is of firmware alone, which measures what it starts.
	Image      bool
	Guarantees []Guarantee
}

// CodeSet is a governed list of files and boot entries. The zero value accepts
// nothing. It is immutable and safe for concurrent use.
type CodeSet struct {
	text     string
	digest   keystead.Digest
	name     string
	files    map[keystead.Digest]Code
	boots    []Boot   // in order of their names
	loaders  []string // packages whose EFI programs may run before the kernel
	vendors  []Vendor
	imaKeys  []IMAKey
	launches []Launch
	version  int // 1 to 3: see codeSetMagics
	signers  []key.MemberPublic
}

// NewCodeSet returns a code set of its content; loaders are packages whose EFI programs
// may run before the kernel. It fails if the content has no text form.
func NewCodeSet(name string, files []Code, boots []Boot, loaders ...string) (*CodeSet, error) {
	for _, b := range boots {
		if !utf8.ValidString(b.CommandLine) {
			return nil, codeSetError(0, "cmdline", "of %s is not UTF-8", b.Name)
		}
	}
	return ParseCodeSet(formatCodeSet(name, files, boots, loaders))
}

// OpenCodeSet reads a signed note whose text is a code set. At least one of the
// accepted keys must have signed it; a signature by anyone else counts for nothing.
// A refusal is note-unsigned.
func OpenCodeSet(signed []byte, accepted ...key.MemberPublic) (*CodeSet, error) {
	kind := key.KindCodeSet
	for _, k := range codeSetKinds {
		if bytes.HasPrefix(signed, []byte(k+"\n")) {
			kind = k
		}
	}
	text, by, err := key.Open(signed, kind, accepted...)
	if err != nil {
		return nil, err
	}
	c, err := ParseCodeSet(string(text))
	if err != nil {
		return nil, err
	}
	c.signers = by
	return c, nil
}

// Sign returns the code set as a note signed by m. Further members cosign the note.
func (c *CodeSet) Sign(m key.Member) ([]byte, error) { return m.Sign([]byte(c.text)) }

// Text returns the text as it was read, or as NewCodeSet wrote it.
func (c *CodeSet) Text() string { return c.text }

// Digest names the code set: of the text, without signatures.
func (c *CodeSet) Digest() keystead.Digest { return c.digest }

// Name returns the name that its signer gave it.
func (c *CodeSet) Name() string { return c.name }

// SignedBy returns the accepted keys whose signatures OpenCodeSet found; none after ParseCodeSet.
func (c *CodeSet) SignedBy() []key.MemberPublic { return c.signers }

// Len returns the number of files.
func (c *CodeSet) Len() int { return len(c.files) }

// Lookup returns the file of that content.
func (c *CodeSet) Lookup(d keystead.Digest) (Code, bool) {
	f, ok := c.files[d]
	return f, ok && f.Digest == d // not the name of a digest of SHA-384
}

// Files returns the files in order of their digests.
func (c *CodeSet) Files() []Code {
	files := make([]Code, 0, len(c.files))
	for _, f := range c.files {
		files = append(files, f)
	}
	slices.SortFunc(files, Code.compare)
	return files
}

// compare puts files in order: by SHA-256 first, each by digest.
func (c Code) compare(d Code) int {
	return strings.Compare(c.measured().String(), d.measured().String())
}

// Knows reports whether a file of the code set was measured: see Code.
func (c *CodeSet) Knows(m keystead.Measured) bool {
	f, ok := c.files[m.Name()]
	return ok && f.measured() == m
}

// Path returns the files that are meant to lie at a path, in any spelling that
// CanonicalPath accepts: several when several versions are accepted.
func (c *CodeSet) Path(path string) (wanted []Code) {
	p, ok := CanonicalPath(path)
	for _, f := range c.Files() {
		if q, _ := CanonicalPath(f.Path); ok && p == q && f.Digest384.IsZero() {
			wanted = append(wanted, f)
		}
	}
	return wanted
}

// Loads reports whether a package's EFI program may run before the kernel.
func (c *CodeSet) Loads(s Source) bool {
	return slices.ContainsFunc(c.loaders, func(name string) bool { return of(name, s) })
}

// Launch returns what the code set accepts under a launch measurement.
func (c *CodeSet) Launch(m keystead.Measured) (Launch, bool) {
	i := slices.IndexFunc(c.launches, func(l Launch) bool { return l.Digest == m })
	if i < 0 {
		return Launch{}, false
	}
	return c.launches[i], true
}

// Launches returns the accepted launch measurements, in the code set's order.
func (c *CodeSet) Launches() iter.Seq[Launch] { return slices.Values(c.launches) }

// WithLaunches returns the code set with launch measurements added to it, unsigned. It
// fails if these have no text form.
func (c *CodeSet) WithLaunches(list ...Launch) (*CodeSet, error) {
	if len(list) == 0 {
		return c, nil
	}
	text := c.raised(3)
	for _, l := range list {
		text += l.line()
	}
	return ParseCodeSet(text)
}

// Boots returns the boot entries in order of their names.
func (c *CodeSet) Boots() iter.Seq[Boot] { return slices.Values(c.boots) }

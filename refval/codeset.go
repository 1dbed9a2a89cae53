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
}

// Boot is a way to boot that a code set accepts: the three belong together.
type Boot struct {
	Name        string
	Kernel      keystead.Digest // Authenticode SHA-256 of the EFI program: kernel or unified image
	Initrd      keystead.Digest // zero, without a package: the boot measures none, as with a unified image
	CommandLine string          // exact, in UTF-8; the log measures it as UTF-16. See Line
	Guarantees  []Guarantee     // what the initrd enforces, by the word of whoever signed; sorted

	// In place of a digest: whatever the package ships as a kernel, or as an initrd. A
	// package's name, or what names begin with and an asterisk.
	KernelPackage, InitrdPackage string
}

// ShipsKernel reports whether the boot takes a package's file for its kernel.
func (b Boot) ShipsKernel(s Source) bool { return ships(b.KernelPackage, s, "vmlinuz") }

// ShipsInitrd reports whether the boot takes a package's file for its initrd.
func (b Boot) ShipsInitrd(s Source) bool {
	return ships(b.InitrdPackage, s, "initrd") || ships(b.InitrdPackage, s, "initramfs")
}

// ships reports whether a file is of a package of that name, and called as told,
// perhaps with a version.
func ships(name string, s Source, called string) bool {
	rest, ok := strings.CutPrefix(path.Base(s.Path), called)
	return ok && (rest == "" || rest[0] == '-' || rest[0] == '.') && of(name, s)
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
)

var guarantees = []Guarantee{GuaranteeIMAPolicy, GuaranteePtraceScope3}

// CodeSet is a governed list of files and boot entries. The zero value accepts
// nothing. It is immutable and safe for concurrent use.
type CodeSet struct {
	text    string
	digest  keystead.Digest
	name    string
	files   map[keystead.Digest]Code
	boots   []Boot   // in order of their names
	loaders []string // packages whose EFI programs may run before the kernel
	vendors []Vendor
	imaKeys []IMAKey
	// packages says that boots may name them: version 2.
	packages bool
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
	if bytes.HasPrefix(signed, []byte(key.KindBootSet+"\n")) {
		kind = key.KindBootSet
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
	return f, ok
}

// Files returns the files in order of their digests.
func (c *CodeSet) Files() []Code {
	files := make([]Code, 0, len(c.files))
	for _, f := range c.files {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b Code) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	return files
}

// Path returns the files that are meant to lie at a path, in any spelling that
// CanonicalPath accepts: several when several versions are accepted.
func (c *CodeSet) Path(path string) (wanted []Code) {
	p, ok := CanonicalPath(path)
	for _, f := range c.Files() {
		if q, _ := CanonicalPath(f.Path); ok && p == q {
			wanted = append(wanted, f)
		}
	}
	return wanted
}

// Loads reports whether a package's EFI program may run before the kernel.
func (c *CodeSet) Loads(s Source) bool {
	return slices.ContainsFunc(c.loaders, func(name string) bool { return of(name, s) })
}

// Boots returns the boot entries in order of their names.
func (c *CodeSet) Boots() iter.Seq[Boot] { return slices.Values(c.boots) }

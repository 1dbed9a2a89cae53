package refval

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/keystead/keystead"
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
	Initrd      keystead.Digest // zero: the boot measures none, as with a unified image
	CommandLine string          // exact, in UTF-8; the log measures it as UTF-16
	Guarantees  []Guarantee     // what the initrd enforces, by the word of whoever signed; sorted
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
	name    string
	files   map[keystead.Digest]Code
	boots   []Boot // in order of their names
	signers []string
}

// NewCodeSet returns a code set of its content. It fails if the content has no text form.
func NewCodeSet(name string, files []Code, boots []Boot) (*CodeSet, error) {
	for _, b := range boots {
		if !utf8.ValidString(b.CommandLine) {
			return nil, codeSetError(0, "cmdline", "of %s is not UTF-8", b.Name)
		}
	}
	return ParseCodeSet(formatCodeSet(name, files, boots))
}

// OpenCodeSet reads a signed note whose text is a code set. At least one of the
// verifiers must have signed it; a signature by anyone else counts for nothing.
// A refusal is note-unsigned.
func OpenCodeSet(signed []byte, accepted ...note.Verifier) (*CodeSet, error) {
	if len(signed) > MaxCodeSet {
		return nil, codeSetError(0, "whole", "is %d bytes long, at most %d are accepted", len(signed), MaxCodeSet)
	}
	n, err := note.Open(signed, note.VerifierList(accepted...))
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		return nil, unsigned(accepted, signerNames(unverified.Note.UnverifiedSigs))
	case errors.As(err, &invalid):
		return nil, unsigned(accepted, "a signature of "+invalid.Name+" that does not verify")
	case err != nil:
		return nil, codeSetError(0, "note", "%v", err)
	}
	c, err := ParseCodeSet(n.Text)
	if err != nil {
		return nil, err
	}
	for _, s := range n.Sigs {
		c.signers = append(c.signers, s.Name)
	}
	slices.Sort(c.signers)
	return c, nil
}

func unsigned(accepted []note.Verifier, got string) error {
	names := make([]string, len(accepted))
	for i, v := range accepted {
		names[i] = fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash())
	}
	want := "a signature of one of " + strings.Join(names, ", ")
	if len(names) == 0 {
		want = "a signature of an accepted key, of which none was given"
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoteUnsigned, Where: "code set", Want: want, Got: got})
}

func signerNames(sigs []note.Signature) string {
	names := make([]string, len(sigs))
	for i, s := range sigs {
		names[i] = fmt.Sprintf("%s+%08x", s.Name, s.Hash)
	}
	return "only signatures of " + strings.Join(names, ", ")
}

// Sign returns the code set as a signed note.
func (c *CodeSet) Sign(signers ...note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text}, signers...)
}

// Text returns the text as it was read, or as NewCodeSet wrote it.
func (c *CodeSet) Text() string { return c.text }

// Digest names the code set: of the text, without signatures.
func (c *CodeSet) Digest() keystead.Digest { return keystead.Sum([]byte(c.text)) }

// Name returns the name that its signer gave it.
func (c *CodeSet) Name() string { return c.name }

// Signers returns the names of the accepted keys that signed; none after ParseCodeSet.
func (c *CodeSet) Signers() []string { return slices.Clone(c.signers) }

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

// Boots returns the boot entries in order of their names.
func (c *CodeSet) Boots() iter.Seq[Boot] { return slices.Values(c.boots) }

package app

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/process"
)

// A Program is a signed file that was read. Nothing in it is believed.
type Program struct {
	Image *Image // of the file before it was signed
	Note  *Note

	file *Joined // before it was signed
}

// Parse reads a signed file of size bytes. It refuses a file without a note
// (app-unsigned), one whose end is not what signing makes of its note (app-altered), and
// what can not be signed (binary-unsuitable). A note that does not parse gives a
// *keystead.FormatError.
func Parse(file io.ReaderAt, size int64) (*Program, error) {
	image, err := ParseImage(file, size)
	if err != nil {
		return nil, err
	}
	raw, err := image.readNote(file)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonAppUnsigned, Where: "executable", Want: "a program that ends with a section " + sectionName, Got: "none"})
	}
	p := &Program{}
	if p.Note, err = ParseNote(raw); err != nil {
		return nil, err
	}
	if p.Note.Size > uint64(size) {
		return nil, appAltered("a file of %d bytes", "%d", p.Note.Size, size)
	}
	before := image.header
	p.Note.sections.put(before[:])
	p.file = &Joined{parts: []io.ReaderAt{bytesAt(before[:]), file}, starts: []int64{0, 0}, ends: []int64{headerSize, int64(p.Note.Size)}}
	if p.Image, err = ParseImage(p.file, p.file.Size()); err != nil {
		return nil, err
	}
	trailer, now, err := p.Image.trailer(p.file, raw)
	if err != nil {
		return nil, err
	}
	got := make([]byte, min(size-p.file.Size(), int64(len(trailer))+1))
	if err := readAt(file, got, p.file.Size()); err != nil {
		return nil, err
	}
	if !bytes.Equal(got, trailer) || now != image.fields() {
		return nil, appAltered("a file that ends as signing ends it", "another end after %d bytes", p.Note.Size)
	}
	return p, nil
}

// Carries reports whether a file of size bytes ends with what signing writes, good or not. A
// file that can not be signed carries nothing.
func Carries(file io.ReaderAt, size int64) (bool, error) {
	image, err := ParseImage(file, size)
	if errors.Is(err, keystead.ReasonBinaryUnsuitable) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	raw, err := image.readNote(file)
	if errors.Is(err, keystead.ReasonBinaryUnsuitable) {
		return false, nil
	}
	return raw != nil, err
}

// Unsigned returns the file as it was before it was signed.
func (p *Program) Unsigned() *Joined { return p.file }

// Measured is what was found to run: not what the program says.
type Measured struct {
	File keystead.Digest // of the file, as it was before it was signed
	Text keystead.Digest // of the fixed section in memory (Text)
}

// FileMeasured measures the file itself, for who judges a file that does not run.
func (p *Program) FileMeasured() (m Measured, err error) {
	if m.File, err = p.FileDigest(); err == nil {
		m.Text, err = p.Image.FileText(p.file)
	}
	return m, err
}

// FileDigest reads the whole file and returns its digest before it was signed.
func (p *Program) FileDigest() (keystead.Digest, error) { return digest(p.file.Reader()) }

// An Identity is a program that a root of the domain vouches for. Only
// [Note.Verify] makes one; the zero value is nobody.
type Identity struct {
	name      string
	program   keystead.Digest
	key, root keystead.Digest
	entry     *Root
}

// Name is the application's.
func (i Identity) Name() string { return i.name }

// Program is the digest of the file before it was signed.
func (i Identity) Program() keystead.Digest { return i.program }

// Key is the digest of the sub-certificate's public key (PKIX DER), which a denial names.
func (i Identity) Key() keystead.Digest { return i.key }

// Admits refuses a level below the root's least (level-low), and a host or user on which
// the root does not let the program run (application-mismatch).
func (i Identity) Admits(level process.Level, host string, uid uint32) error {
	if i.entry == nil {
		return appMismatch("an application that a root vouches for", "none")
	}
	return i.entry.admits(level, host, uid)
}

// Verify holds what a program says of itself to what was measured and to the roots of the
// domain at a time. Denied says whether a digest is on the domain's deny list: that of a
// sub-certificate's key (PKIX DER), or of a program. It refuses with app-altered,
// text-altered, app-cert-foreign, app-cert-expired or app-cert-revoked.
func (n *Note) Verify(m Measured, roots *Roots, denied func(keystead.Digest) bool, at time.Time) (Identity, error) {
	sub, err := parseSub(n.Certificate)
	if err != nil {
		return Identity{}, err
	}
	if sub.name != n.Name {
		return Identity{}, certForeign("a sub-certificate of "+n.Name, "one of "+sub.name)
	}
	root, err := roots.issuer(sub, at)
	if err != nil {
		return Identity{}, err
	}
	switch {
	case !verifyLow(sub.key, signed(noteContext, n.body()), n.Signature):
		return Identity{}, appAltered("a signature by the sub-certificate's key", "another")
	case n.File != m.File:
		return Identity{}, appAltered("the file that was signed, %v", "%v", n.File, m.File)
	case n.Text != m.Text:
		return Identity{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTextAltered, Where: "application " + n.Name, Want: "the signed text, " + n.Text.String(), Got: m.Text.String()})
	}
	for _, d := range []keystead.Digest{sub.digest, n.File} {
		if denied(d) {
			return Identity{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonAppCertRevoked, Where: "application " + n.Name, Want: "a program that members did not deny", Got: "a denial of app/" + d.String()})
		}
	}
	return Identity{name: n.Name, program: n.File, key: sub.digest, root: root.digest, entry: root}, nil
}

// Verify is [Note.Verify] of the program's note.
func (p *Program) Verify(m Measured, roots *Roots, denied func(keystead.Digest) bool, at time.Time) (Identity, error) {
	return p.Note.Verify(m, roots, denied, at)
}

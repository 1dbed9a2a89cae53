package app

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// noteMagic opens what a signed program carries, and has its version. It only ever grows:
//
//	1  name, size, section fields, digests, libraries, certificate, signature
const noteMagic = "keystead-app/1\n"

// Bounds of a note, in bytes.
const (
	MaxNote        = 48 << 10
	maxName        = 128
	maxCertificate = 4 << 10
	maxSignature   = 72 // ECDSA on P-256, DER
)

// A Note is what a signed program says of itself. Nothing in it is believed before
// [Program.Verify].
type Note struct {
	Name        string          // of the application: segments of a-z 0-9 . _ -, parted by /
	Size        uint64          // bytes of the file before it was signed
	File        keystead.Digest // of the file before it was signed
	Text        keystead.Digest // of the fixed section (Text)
	Libraries   []string        // names of the libraries that may be mapped, ascending
	Certificate []byte          // the sub-certificate, DER
	Signature   []byte          // ECDSA (DER, low s) by the certificate's key

	sections fields // of the file before it was signed
}

// body returns what the signature is over, after its context.
func (n *Note) body() []byte {
	b := []byte(noteMagic)
	b = cursor.AppendSized16(b, n.Name)
	b = binary.BigEndian.AppendUint64(b, n.Size)
	b = binary.BigEndian.AppendUint64(b, n.sections.offset)
	for _, v := range []uint16{n.sections.entry, n.sections.count, n.sections.string} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	b = append(append(b, n.File[:]...), n.Text[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(n.Libraries)))
	for _, l := range n.Libraries {
		b = cursor.AppendSized16(b, l)
	}
	return cursor.AppendSized16(b, n.Certificate)
}

// Encode returns the bytes of a note, or a *keystead.FormatError if a field is out of its
// bounds.
func (n *Note) Encode() ([]byte, error) {
	if len(n.Name) > maxName || len(n.Libraries) > maxLibraries || len(n.Certificate) > maxCertificate || len(n.Signature) > maxSignature {
		return nil, &keystead.FormatError{Format: "app-note", Field: "whole", Problem: "has a field beyond its bounds"}
	}
	b := cursor.AppendSized16(n.body(), n.Signature)
	_, err := ParseNote(b)
	return b, err
}

// ParseNote reads a note. It fails with a *keystead.FormatError. There is one spelling of
// each note.
func ParseNote(raw []byte) (*Note, error) {
	c := cursor.New("app-note", binary.BigEndian, raw)
	if len(raw) > MaxNote {
		c.Fail("size", "is %d bytes, at most %d are accepted", len(raw), MaxNote)
	}
	if magic := c.Bytes(len(noteMagic), "magic"); c.Err() == nil && string(magic) != noteMagic {
		c.Fail("magic", "is %q, want %q", magic, noteMagic)
	}
	n := &Note{Name: string(c.Sized16(maxName, "name"))}
	if c.Err() == nil && CheckName(n.Name) != nil {
		c.Fail("name", "%v", CheckName(n.Name))
	}
	n.Size = c.U64("size")
	n.sections = fields{c.U64("section offset"), c.U16("section size"), c.U16("section count"), c.U16("section names")}
	copy(n.File[:], c.Bytes(len(n.File), "file digest"))
	copy(n.Text[:], c.Bytes(len(n.Text), "text digest"))
	count := int(c.U16("libraries"))
	if count > maxLibraries {
		c.Fail("libraries", "are %d, at most %d are accepted", count, maxLibraries)
	}
	for range count {
		l := string(c.Sized16(maxSymbol, "library"))
		if c.Err() != nil {
			return nil, c.Err()
		}
		if !libraryName(l) || len(n.Libraries) > 0 && n.Libraries[len(n.Libraries)-1] >= l {
			c.Fail("library", "%.80q is no name of a file, or out of order", l)
		}
		n.Libraries = append(n.Libraries, l)
	}
	n.Certificate = slices.Clone(c.Sized16(maxCertificate, "certificate"))
	n.Signature = slices.Clone(c.Sized16(maxSignature, "signature"))
	c.End()
	if c.Err() == nil && (n.Size < headerSize || n.Size > MaxProgram) {
		c.Fail("size", "of the file is %d bytes", n.Size)
	}
	if c.Err() != nil {
		return nil, c.Err()
	}
	return n, nil
}

// CheckName says why a string is no name of an application, or nil. A name is 1 to 128
// bytes: segments of a-z 0-9 . _ - that do not begin with a dot, parted by single slashes.
func CheckName(s string) error {
	fail := &keystead.FormatError{Format: "application", Field: "name", Problem: "is 1 to 128 bytes: words of a-z 0-9 . _ - that do not begin with a dot, parted by /"}
	if s == "" || len(s) > maxName {
		return fail
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment[0] == '.' || strings.ContainsFunc(segment, func(r rune) bool {
			return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r))
		}) {
			return fail
		}
	}
	return nil
}

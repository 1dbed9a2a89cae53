// Package authenticode computes the digest by which firmware measures and signs an
// EFI program: SHA-256 or SHA-384 over the file without its checksum, its certificate table
// and the entry that points to it (Windows Authenticode Portable Executable
// Signature Format, "Calculating the PE Image Hash").
//
// It trusts nothing; bytes that are no PE32+ file give a *keystead.FormatError.
package authenticode

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// Offsets of the PE format, in bytes from the named structure.
const (
	peOffsetAt     = 0x3c // from the file: where the PE header starts
	coffSize       = 24   // the PE signature and the COFF header
	pe32plus       = 0x20b
	checksumAt     = 64  // from the optional header; 4 bytes
	certificatesAt = 144 // from the optional header of PE32+; offset and size, 4 bytes each
)

// Digest returns the Authenticode SHA-256 digest of a PE32+ file. Sections are taken to
// lie in file order without gaps, as in Linux kernels and in what GNU and LLVM
// linkers write.
func Digest(file []byte) (keystead.Digest, error) {
	d, _, err := Digests(file)
	return d, err
}

// Digests returns the digest of SHA-256, and that of SHA-384.
func Digests(file []byte) (short keystead.Digest, long keystead.Measured, err error) {
	c := cursor.New("pe", binary.LittleEndian, file)
	if magic := c.Bytes(2, "DOS magic"); magic != nil && string(magic) != "MZ" {
		c.Fail("DOS magic", "is %q, want MZ", magic)
	}
	c.Bytes(peOffsetAt-2, "DOS header")
	at := int(c.U32("PE offset"))
	if at < c.Offset() || at > len(file) {
		c.Fail("PE offset", "is %d in a file of %d bytes", at, len(file))
	}
	c.Bytes(at-c.Offset(), "DOS stub")
	if sig := c.Bytes(4, "PE signature"); sig != nil && string(sig) != "PE\x00\x00" {
		c.Fail("PE signature", "is %q", sig)
	}
	c.Bytes(coffSize-4, "COFF header")
	optional := c.Offset()
	if m := c.U16("optional header's magic"); c.Err() == nil && m != pe32plus {
		c.Fail("optional header's magic", "is %#x, want %#x (PE32+)", m, pe32plus)
	}
	c.Bytes(certificatesAt-2, "optional header")
	start, size := int(c.U32("certificate table's offset")), int(c.U32("certificate table's size"))
	header := c.Offset()
	end := len(file)
	if size > 0 {
		if start < header || start > len(file) || start+size != len(file) {
			c.Fail("certificate table", "%d bytes at %d do not end the file of %d bytes", size, start, len(file))
		}
		end = start
	}
	if c.Err() != nil {
		return short, long, c.Err()
	}
	sum := func(h hash.Hash) []byte {
		h.Write(file[:optional+checksumAt])
		h.Write(file[optional+checksumAt+4 : optional+certificatesAt])
		h.Write(file[header:end])
		return h.Sum(nil)
	}
	return keystead.Digest(sum(sha256.New())), keystead.MeasuredBytes(sum(sha512.New384())), nil
}

package archive

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/receipt"
)

// magic opens a file; its number only ever grows.
const magic = "keystead-archive/1\n"

// Bounds of a file: objects, and bytes.
const (
	maxObjects = 256
	maxObject  = 64 << 20
	MaxFile    = 1 << 30
)

// File is everything that a replay needs. It is untrusted; Replay checks it.
type File struct {
	Receipt []byte // of the effective entry of the admission (docs/spec/receipt.md)
	Record  []byte // Record.Bytes
	Objects [][]byte
}

// Bytes returns the file's one encoding.
func (f *File) Bytes() []byte {
	b := cursor.AppendSized32([]byte(magic), f.Receipt)
	b = binary.BigEndian.AppendUint16(cursor.AppendSized32(b, f.Record), uint16(len(f.Objects)))
	for _, o := range f.Objects {
		b = cursor.AppendSized32(b, o)
	}
	return b
}

// ParseFile reads a file. Its parts are of b, and no part is read yet. It fails with a
// *keystead.FormatError.
func ParseFile(b []byte) (f File, err error) {
	c := cursor.New("archive file", binary.BigEndian, b)
	if got := c.Bytes(len(magic), "first line"); c.Err() == nil && string(got) != magic {
		c.Fail("first line", "is %.40q, not %q", got, magic)
	}
	f.Receipt, f.Record = c.Sized32(receipt.MaxReceipt, "receipt"), c.Sized32(MaxRecord, "record")
	n := int(c.U16("objects"))
	if n > maxObjects {
		c.Fail("objects", "%d, at most %d are accepted", n, maxObjects)
	}
	for i := 0; i < n && c.Err() == nil; i++ {
		f.Objects = append(f.Objects, c.Sized32(maxObject, "object"))
	}
	c.End()
	if c.Err() != nil {
		return File{}, c.Err()
	}
	return f, nil
}

// object returns an object by its digest; nil if the file has none.
func (f *File) object(d keystead.Digest) []byte {
	for _, o := range f.Objects {
		if keystead.Sum(o) == d {
			return o
		}
	}
	return nil
}

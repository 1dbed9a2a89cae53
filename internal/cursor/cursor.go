// Package cursor reads bounded binary formats. The first error sticks and names
// the format, offset and field, so that a parser is a plain sequence of reads
// with one check at its end. No read allocates: byte fields alias the input.
package cursor

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
)

// Cursor walks over bytes from outside. The zero value reads nothing; use New.
type Cursor struct {
	format string
	data   []byte
	off    int
	order  binary.ByteOrder
	err    error
	short  bool
}

// New returns a cursor over data. Format appears in every error.
func New(format string, order binary.ByteOrder, data []byte) *Cursor {
	return &Cursor{format: format, data: data, order: order}
}

// Err returns the first error, a *keystead.FormatError, or nil.
func (c *Cursor) Err() error { return c.err }

// Short reports whether the error is that the input ended before a field did,
// which is how a file looks that was cut off.
func (c *Cursor) Short() bool { return c.short }

// Offset returns the number of bytes read.
func (c *Cursor) Offset() int { return c.off }

// Len returns the number of bytes left; 0 after an error.
func (c *Cursor) Len() int {
	if c.err != nil {
		return 0
	}
	return len(c.data) - c.off
}

// Ahead returns the bytes left without reading them; none after an error.
func (c *Cursor) Ahead() []byte { return c.data[len(c.data)-c.Len():] }

// Fail records an error at the current offset unless there is one already.
func (c *Cursor) Fail(field, format string, args ...any) {
	if c.err == nil {
		c.err = &keystead.FormatError{Format: c.format, Offset: int64(c.off), Field: field, Problem: fmt.Sprintf(format, args...)}
	}
}

// Bytes returns the next n bytes, aliasing the input; nil after an error.
func (c *Cursor) Bytes(n int, field string) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > len(c.data)-c.off {
		c.short = n > 0
		c.Fail(field, "needs %d bytes, %d are left", n, len(c.data)-c.off)
		return nil
	}
	b := c.data[c.off : c.off+n : c.off+n]
	c.off += n
	return b
}

// U8 reads one byte.
func (c *Cursor) U8(field string) uint8 {
	if b := c.Bytes(1, field); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads two bytes in the cursor's order.
func (c *Cursor) U16(field string) uint16 {
	if b := c.Bytes(2, field); b != nil {
		return c.order.Uint16(b)
	}
	return 0
}

// U32 reads four bytes in the cursor's order.
func (c *Cursor) U32(field string) uint32 {
	if b := c.Bytes(4, field); b != nil {
		return c.order.Uint32(b)
	}
	return 0
}

// U64 reads eight bytes in the cursor's order.
func (c *Cursor) U64(field string) uint64 {
	if b := c.Bytes(8, field); b != nil {
		return c.order.Uint64(b)
	}
	return 0
}

// Sized16 reads a two-byte length of at most limit, then that many bytes.
func (c *Cursor) Sized16(limit int, field string) []byte {
	return c.sized(int(c.U16(c.length(2, field))), limit, field)
}

// Sized32 reads a four-byte length of at most limit, then that many bytes.
func (c *Cursor) Sized32(limit int, field string) []byte {
	return c.sized(int(c.U32(c.length(4, field))), limit, field)
}

// length names a length field of size bytes. It makes a new name only where the
// read is about to fail, so that reads do not allocate.
func (c *Cursor) length(size int, field string) string {
	if c.Len() < size {
		return field + " length"
	}
	return field
}

func (c *Cursor) sized(n, limit int, field string) []byte {
	if n > limit {
		c.Fail(field, "is %d bytes long, at most %d are accepted", n, limit)
	}
	return c.Bytes(n, field)
}

// End fails if bytes are left over.
func (c *Cursor) End() {
	if n := c.Len(); n > 0 {
		c.Fail("end", "%d bytes are left over", n)
	}
}

// AppendSized16 appends what Sized16 reads, big-endian. The caller has bounded b.
func AppendSized16[T string | []byte](dst []byte, b T) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(b))), b...)
}

// AppendSized32 appends what Sized32 reads, big-endian. The caller has bounded b.
func AppendSized32[T string | []byte](dst []byte, b T) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

// Rest returns what is not read yet, without reading it; nil after an error.
func (c *Cursor) Rest() []byte {
	if c.err != nil {
		return nil
	}
	return c.data[c.off:]
}

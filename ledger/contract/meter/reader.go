package meter

import (
	"encoding/binary"

	"github.com/keystead/keystead/internal/cursor"
)

// reader reads the binary format (5.2): numbers in LEB128 beside bytes.
type reader struct{ c *cursor.Cursor }

func newReader(b []byte) *reader { return &reader{cursor.New("wasm", binary.LittleEndian, b)} }

func (r *reader) err() error  { return r.c.Err() }
func (r *reader) left() int   { return r.c.Len() }
func (r *reader) offset() int { return r.c.Offset() }

func (r *reader) fail(field, format string, args ...any) { r.c.Fail(field, format, args...) }
func (r *reader) u8(field string) byte                   { return r.c.U8(field) }
func (r *reader) bytes(n int, field string) []byte       { return r.c.Bytes(n, field) }

// end demands that nothing follows.
func (r *reader) end(field string) {
	if r.err() == nil && r.left() > 0 {
		r.fail(field, "are followed by %d bytes", r.left())
	}
}

// leb reads a number of at most so many bits (5.2.2) and returns its bits, sign-extended where
// it is signed.
func (r *reader) leb(field string, bits uint, signed bool) uint64 {
	var v uint64
	var shift uint
	for {
		b := r.u8(field)
		if r.err() != nil {
			return 0
		}
		v |= uint64(b&0x7f) << shift
		shift += 7
		if b&0x80 == 0 {
			if signed && shift < 64 && b&0x40 != 0 {
				v |= ^uint64(0) << shift
			}
			return v
		}
		if shift >= bits {
			r.fail(field, "is a number of more than %d bits", bits)
			return 0
		}
	}
}

// u32 reads an index or a size.
func (r *reader) u32(field string) uint32 {
	v := r.leb(field, 32, false)
	if r.err() == nil && v > 1<<32-1 {
		r.fail(field, "is a number of more than 32 bits")
	}
	return uint32(v)
}

// count reads the length of a vector, each item of which takes a byte at least.
func (r *reader) count(field string) int {
	n := r.u32(field)
	if r.err() == nil && int64(n) > int64(r.left()) {
		r.fail(field, "are %d, and %d bytes are left", n, r.left())
		return 0
	}
	return int(n)
}

// sized reads a size and so many bytes.
func (r *reader) sized(field string) []byte { return r.bytes(r.count(field), field) }

// vector reads value types.
func (r *reader) vector(field string) []byte {
	b := r.sized(field)
	for _, t := range b {
		switch t {
		case i32, i64, f32, f64, funcref, externs:
		default:
			r.fail(field, "has type 0x%02x", t)
		}
	}
	return b
}

func (r *reader) name() string {
	b := r.sized("name")
	if r.err() == nil && !validName(b) {
		r.fail("name", "is of %d bytes, or not UTF-8", len(b))
	}
	return string(b)
}

// limits reads those of a table or memory; most is unlimited where there is none.
func (r *reader) limits(unlimited uint32) (least, most uint32) {
	flag := r.u8("limits")
	least, most = r.u32("limits"), unlimited
	switch flag {
	case 0:
	case 1:
		most = r.u32("limits")
	default:
		r.fail("limits", "have the flag 0x%02x: shared memories are not accepted", flag)
	}
	return least, most
}

// constant passes over a constant expression (3.3.10). It names no global: only those that are
// imported may stand there, and none is.
func (r *reader) constant() {
	for r.err() == nil {
		switch op := r.u8("constant"); op {
		case opEnd:
			return
		case opI32Const:
			r.leb("constant", 32, true)
		case opI64Const:
			r.leb("constant", 64, true)
		case opF32Const:
			r.bytes(4, "constant")
		case opF64Const:
			r.bytes(8, "constant")
		case opRefFunc:
			r.u32("constant")
		case opRefNull:
			r.u8("constant")
		default:
			r.fail("constant", "has the instruction 0x%02x", op)
		}
	}
}

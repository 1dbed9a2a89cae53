package meter

// Instructions that the rewriting knows by name (5.4).
const (
	opUnreachable  = 0x00
	opBlock        = 0x02
	opLoop         = 0x03
	opIf           = 0x04
	opElse         = 0x05
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
	opReturn       = 0x0f
	opCall         = 0x10
	opCallIndirect = 0x11
	opSelect       = 0x1b
	opSelectTyped  = 0x1c
	opLocalGet     = 0x20
	opLocalSet     = 0x21
	opLocalTee     = 0x22
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opTableGet     = 0x25
	opTableSet     = 0x26
	opMemorySize   = 0x3f
	opMemoryGrow   = 0x40
	opI32Const     = 0x41
	opI64Const     = 0x42
	opF32Const     = 0x43
	opF64Const     = 0x44
	opRefNull      = 0xd0
	opRefIsNull    = 0xd1
	opRefFunc      = 0xd2
	opMore         = 0xfc
	opI32Eq        = 0x46
	opI32GtU       = 0x4b
	opI64LtS       = 0x53
	opF32Eq        = 0x5b
	opF64Eq        = 0x61
	opI32Add       = 0x6a
	opI64Sub       = 0x7d
	opI64Mul       = 0x7e
	opI64ShrU      = 0x88
	opI64ExtendU   = 0xad
)

// Those after opMore.
const (
	moreMemoryInit = 8
	moreDataDrop   = 9
	moreMemoryCopy = 10
	moreMemoryFill = 11
	moreTableInit  = 12
	moreElemDrop   = 13
	moreTableCopy  = 14
	moreTableGrow  = 15
	moreTableSize  = 16
	moreTableFill  = 17
)

// An instruction, with what of its immediates the rewriting needs.
type instruction struct {
	op    byte
	more  uint32 // after opMore
	index uint32 // of a local, global, function, …
	raw   []byte
}

// next reads an instruction.
func (r *reader) next(body []byte) (i instruction) {
	from := r.offset()
	i.op = r.u8("instruction")
	switch op := i.op; {
	case op == opBlock || op == opLoop || op == opIf:
		r.leb("block type", 33, true)
	case op == opBr || op == opBrIf || op == opCall || op == opRefFunc || op >= opLocalGet && op <= opTableSet:
		i.index = r.u32("index")
	case op == opBrTable:
		for n := r.count("labels"); n >= 0 && r.err() == nil; n-- {
			r.u32("label")
		}
	case op == opCallIndirect:
		i.index = r.u32("type")
		r.u32("table")
	case op == opSelectTyped:
		r.vector("types")
	case op >= 0x28 && op <= 0x3e:
		r.u32("align")
		r.u32("offset")
	case op == opMemorySize || op == opMemoryGrow || op == opRefNull:
		r.u8("immediate")
	case op == opI32Const:
		r.leb("constant", 32, true)
	case op == opI64Const:
		r.leb("constant", 64, true)
	case op == opF32Const:
		r.bytes(4, "constant")
	case op == opF64Const:
		r.bytes(8, "constant")
	case op == opMore:
		i.more = r.u32("instruction")
		r.moreImmediates(i.more)
	case op <= 0x01 || op == opElse || op == opEnd || op == opReturn || op == 0x1a || op == opSelect || op >= 0x45 && op <= 0xc4 || op == opRefIsNull:
	default:
		r.fail("instruction", "0x%02x is not accepted", op)
	}
	if r.err() == nil {
		i.raw = body[from:r.offset()]
	}
	return i
}

func (r *reader) moreImmediates(op uint32) {
	switch op {
	case 0, 1, 2, 3, 4, 5, 6, 7:
	case moreDataDrop, moreElemDrop, moreTableGrow, moreTableSize, moreTableFill:
		r.u32("index")
	case moreMemoryFill:
		r.u8("memory")
	case moreMemoryInit, moreMemoryCopy, moreTableInit, moreTableCopy:
		r.u32("index")
		r.u32("index")
	default:
		r.fail("instruction", "0xfc %d is not accepted", op)
	}
}

// lasting names an instruction whose effect would outlast a call; "" for all others.
func (i *instruction) lasting() string {
	switch {
	case i.op == opTableSet:
		return "table.set"
	case i.op != opMore:
		return ""
	}
	return map[uint32]string{moreDataDrop: "data.drop", moreTableInit: "table.init", moreElemDrop: "elem.drop", moreTableCopy: "table.copy",
		moreTableGrow: "table.grow", moreTableFill: "table.fill"}[i.more]
}

// ends reports whether what follows may run when this does not, or the other way round.
func (i *instruction) ends() bool {
	switch i.op {
	case opUnreachable, opLoop, opIf, opElse, opEnd, opBr, opBrIf, opBrTable, opReturn:
		return true
	}
	return false
}

// cost is the gas of an instruction, without what depends on its operands: about what it takes
// in nanoseconds, at least 1 for whatever does something.
func (i *instruction) cost() int64 {
	switch op := i.op; {
	case op == opElse || op == opEnd || op == opBlock || op == 0x01:
		return 0
	case op == opCall:
		return 4
	case op == opCallIndirect:
		return 8
	case op == opBrTable:
		return 3
	case op >= 0x28 && op <= 0x3e:
		return 2
	case op >= 0x6d && op <= 0x70, op >= 0x7f && op <= 0x82: // integers' div and rem
		return 10
	case op == 0x91 || op == 0x95 || op == 0x9f || op == 0xa3: // floats' sqrt and div
		return 10
	case op == opMemoryGrow:
		return 1000
	case op == opMore && i.more >= moreMemoryInit:
		return 20
	}
	return 1
}

// float returns the type of a result that may be a NaN of any form; 0 for no such.
func (i *instruction) float() byte {
	switch op := i.op; {
	case op >= 0x8d && op <= 0x97: // ceil to max, of f32; abs, neg and copysign keep what is there
		return f32
	case op >= 0x9b && op <= 0xa5:
		return f64
	case op == 0xb6: // f32.demote_f64
		return f32
	case op == 0xbb: // f64.promote_f32
		return f64
	}
	return 0
}

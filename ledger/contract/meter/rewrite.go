package meter

import (
	"encoding/binary"
	"fmt"
)

// Bounds are what a rewritten module is held to.
type Bounds struct {
	Pages uint32 // of memory, at most
	Start int64  // gas that it starts with: for what runs when it is instantiated
}

// Rewrite returns the module with its calls bounded. Its exports are those of the module, and
// Gas, Depth, Over, and Global of each that is mutable.
func (m *Module) Rewrite(b Bounds) ([]byte, error) {
	if m.Pages > b.Pages {
		return nil, unfit("contract", "memory of at most "+pages(b.Pages), "%s from the start", pages(m.Pages))
	}
	code, err := m.code()
	if err != nil {
		return nil, err
	}
	out := []byte("\x00asm\x01\x00\x00\x00")
	for _, id := range order {
		content := m.sections[id]
		switch id {
		case secMemory:
			content = m.memory(b)
		case secGlobal:
			content = m.withGlobals(b)
		case secExport:
			content = m.withExports()
		case secCode:
			content = code
		}
		if content != nil {
			out = append(uleb(append(out, byte(id)), uint64(len(content))), content...)
		}
	}
	if len(out) > maxRewritten {
		return nil, unfit("contract", "code that does not grow beyond 64 MiB with its gas", "%d bytes", len(out))
	}
	return out, nil
}

// memory gives the module's memory its bound.
func (m *Module) memory(b Bounds) []byte {
	if !m.Memory {
		return nil
	}
	return uleb(uleb([]byte{1, 1}, uint64(m.Pages)), uint64(min(m.most, b.Pages)))
}

// withGlobals adds gas, depth and over behind the module's own.
func (m *Module) withGlobals(b Bounds) []byte {
	out := uleb(nil, uint64(len(m.globals)+3))
	if own := m.sections[secGlobal]; own != nil {
		_, n := binary.Uvarint(own)
		out = append(out, own[n:]...)
	}
	out = append(sleb(append(out, i64, 1, opI64Const), b.Start), opEnd)
	return append(out, i32, 1, opI32Const, 0, opEnd, i32, 1, opI32Const, 0, opEnd)
}

// withExports adds the globals that a call sets or restores.
func (m *Module) withExports() []byte {
	out := uleb(nil, uint64(len(m.Exports)+3+m.Mutable))
	if own := m.sections[secExport]; own != nil {
		_, n := binary.Uvarint(own)
		out = append(out, own[n:]...)
	}
	add := func(name string, index int) {
		out = append(uleb(out, uint64(len(name))), name...)
		out = uleb(append(out, 3), uint64(index))
	}
	n := len(m.globals)
	add(Gas, n)
	add(Depth, n+1)
	add(Over, n+2)
	i := 0
	for index, g := range m.globals {
		if g.mutable {
			add(Global(i), index)
			i++
		}
	}
	return out
}

// code rewrites all functions.
func (m *Module) code() ([]byte, error) {
	if m.sections[secCode] == nil {
		return nil, nil
	}
	r := newReader(m.sections[secCode])
	n := r.count("bodies")
	if r.err() == nil && n != len(m.functions) {
		r.fail("bodies", "are %d, of %d functions", n, len(m.functions))
	}
	out := uleb(nil, uint64(n))
	for i := 0; i < n && r.err() == nil; i++ {
		body := r.sized("body")
		if r.err() != nil {
			break
		}
		f := function{module: m, params: m.types[m.functions[i]].params}
		rewritten, err := f.rewrite(body)
		if err != nil {
			return nil, err
		}
		if out = append(uleb(out, uint64(len(rewritten))), rewritten...); len(out) > maxRewritten {
			return nil, unfit("contract", "code that does not grow beyond 64 MiB with its gas", "more")
		}
	}
	r.end("bodies")
	return out, r.err()
}

// function is one that is being rewritten. Its code falls into stretches that run as a whole
// or not at all, and each takes its gas when it begins.
type function struct {
	module *Module
	params []byte
	locals int // with parameters
	calls  bool

	out     []byte // stretches that are done
	stretch []byte
	gas     int64 // of the stretch
}

// The locals that are added stand behind the function's own, in this order.
const (
	localSaved = iota // i32: depth with this function
	localSize         // i32: operand of what costs by size
	local32           // f32
	local64           // f64
)

func (f *function) local(which int) uint64 { return uint64(f.locals + which) }

func (f *function) rewrite(body []byte) ([]byte, error) {
	if len(body) > maxBody {
		return nil, unfit("function", "at most 1 MiB", "%d bytes", len(body))
	}
	r := newReader(body)
	declared, err := f.readLocals(r)
	if err != nil {
		return nil, err
	}
	code := body[r.offset():]
	for r.err() == nil && r.left() > 0 {
		i := r.next(body)
		if r.err() != nil {
			break
		}
		if err := f.add(r, &i); err != nil {
			return nil, err
		}
	}
	if r.err() != nil {
		return nil, r.err()
	}
	f.flush()
	out := append(declared, f.enter(len(code))...)
	return append(out, f.out...), nil
}

// readLocals reads the function's locals and declares those that are added with them.
func (f *function) readLocals(r *reader) ([]byte, error) {
	f.locals = len(f.params)
	n := r.count("locals")
	out := uleb(nil, uint64(n+3))
	for i := 0; i < n && r.err() == nil; i++ {
		count, t := r.u32("locals"), r.u8("locals")
		if r.err() == nil && (count > maxLocals || f.locals+int(count) > maxLocals) {
			return nil, unfit("function", "at most 4096 locals", "more")
		}
		f.locals += int(count)
		out = append(uleb(out, uint64(count)), t)
	}
	f.gas = int64(f.locals / 8)
	return append(out, 2, i32, 1, f32, 1, f64), r.err()
}

// add takes an instruction over, with what belongs to it.
func (f *function) add(r *reader, i *instruction) error {
	m := f.module
	switch op := i.op; {
	case i.lasting() != "":
		return unfit("function", "instructions whose effect ends with the call", "%s", i.lasting())
	case op >= opLocalGet && op <= opLocalTee && int(i.index) >= f.locals:
		r.fail("local", "%d is none: there are %d", i.index, f.locals)
		return r.err()
	case (op == opGlobalGet || op == opGlobalSet) && int(i.index) >= len(m.globals):
		r.fail("global", "%d is none: there are %d", i.index, len(m.globals))
		return r.err()
	}
	f.gas += i.cost()
	switch op := i.op; {
	case op == opMemoryGrow:
		f.bySize(10) // 1,024 for a page
		f.stretch = append(f.stretch, i.raw...)
		f.noteOver()
	case op == opMore && (i.more == moreMemoryInit || i.more == moreMemoryCopy || i.more == moreMemoryFill):
		f.bySize(-4) // 1 for 16 bytes
		f.stretch = append(f.stretch, i.raw...)
	case op == opCallIndirect || op == opCall && int(i.index) >= m.imported:
		f.calls = true
		f.stretch = append(f.stretch, i.raw...)
		f.stretch = f.setGlobal(uleb(append(f.stretch, opLocalGet), f.local(localSaved)), 1)
	case i.float() != 0:
		f.stretch = append(f.stretch, i.raw...)
		f.canonical(i.float())
	default:
		f.stretch = append(f.stretch, i.raw...)
	}
	if i.ends() {
		f.flush()
	}
	return nil
}

// flush ends a stretch: its gas is taken before it.
func (f *function) flush() {
	if f.gas > 0 {
		f.out = f.getGlobal(f.out, 0)
		f.out = append(sleb(append(f.out, opI64Const), f.gas), opI64Sub)
		f.out = f.stop(f.setGlobal(f.out, 0))
	}
	f.out = append(f.out, f.stretch...)
	f.stretch, f.gas = f.stretch[:0], 0
}

// stop traps where gas is below 0.
func (f *function) stop(b []byte) []byte {
	b = f.getGlobal(b, 0)
	return append(b, opI64Const, 0, opI64LtS, opIf, 0x40, opUnreachable, opEnd)
}

// bySize takes gas by the operand on top of the stack, shifted left by so many bits, or right.
func (f *function) bySize(shift int) {
	b := uleb(append(f.stretch, opLocalTee), f.local(localSize))
	b = f.getGlobal(b, 0)
	b = append(uleb(append(b, opLocalGet), f.local(localSize)), opI64ExtendU)
	if shift >= 0 {
		b = append(sleb(append(b, opI64Const), 1<<shift), opI64Mul)
	} else {
		b = append(sleb(append(b, opI64Const), int64(-shift)), opI64ShrU)
	}
	f.stretch = f.stop(f.setGlobal(append(b, opI64Sub), 0))
}

// noteOver remembers that memory did not grow.
func (f *function) noteOver() {
	b := uleb(append(f.stretch, opLocalTee), f.local(localSize))
	b = append(b, opI32Const, 0x7f, opI32Eq, opIf, 0x40, opI32Const, 1) // -1
	b = append(f.setGlobal(b, 2), opEnd)
	f.stretch = uleb(append(b, opLocalGet), f.local(localSize))
}

// canonical gives a NaN on top of the stack its one form (4.3.3, canonical NaN, positive).
func (f *function) canonical(t byte) {
	local, nan, eq := f.local(local32), []byte{opF32Const, 0, 0, 0xc0, 0x7f}, byte(opF32Eq)
	if t == f64 {
		local, nan, eq = f.local(local64), []byte{opF64Const, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f}, opF64Eq
	}
	b := uleb(append(f.stretch, opLocalTee), local)
	b = uleb(append(append(b, nan...), opLocalGet), local)
	b = uleb(append(b, opLocalGet), local)
	f.stretch = append(b, eq, opSelect)
}

// enter takes the function's slots of the depth, where it calls others. Who called it gives
// them back.
func (f *function) enter(size int) []byte {
	if !f.calls {
		return nil
	}
	slots := int64(8 + f.locals + size/16)
	b := append(sleb(append(f.getGlobal(nil, 1), opI32Const), slots), opI32Add)
	b = f.setGlobal(uleb(append(b, opLocalTee), f.local(localSaved)), 1)
	b = uleb(append(b, opLocalGet), f.local(localSaved))
	b = append(sleb(append(b, opI32Const), MaxDepth), opI32GtU)
	return append(b, opIf, 0x40, opUnreachable, opEnd)
}

// getGlobal and setGlobal are for gas (0), depth (1) and over (2).
func (f *function) getGlobal(b []byte, which int) []byte {
	return uleb(append(b, opGlobalGet), uint64(len(f.module.globals)+which))
}

func (f *function) setGlobal(b []byte, which int) []byte {
	return uleb(append(b, opGlobalSet), uint64(len(f.module.globals)+which))
}

func uleb(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func sleb(b []byte, v int64) []byte {
	for {
		low := byte(v & 0x7f)
		if v >>= 7; v == 0 && low&0x40 == 0 || v == -1 && low&0x40 != 0 {
			return append(b, low)
		}
		b = append(b, low|0x80)
	}
}

func pages(n uint32) string { return fmt.Sprintf("%d KiB", uint64(n)*PageSize>>10) }

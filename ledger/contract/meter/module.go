package meter

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/keystead/keystead"
)

// Bounds of a module.
const (
	MaxModule    = 8 << 20  // bytes
	maxRewritten = 64 << 20 // bytes
	maxTypes     = 16 << 10
	maxFunctions = 64 << 10
	maxGlobals   = 4096
	maxExports   = 4096
	maxImports   = 1024
	maxLocals    = 4096 // of a function, parameters included
	maxBody      = 1 << 20
	maxName      = 512     // bytes
	maxPages     = 1 << 16 // of a memory, by its addresses
	maxTables    = 4
	maxTable     = 1 << 17 // items
	maxElements  = 1024    // segments
	maxData      = 64 << 10
)

// PageSize is the size of a page of memory, in bytes.
const PageSize = 64 << 10

// Names under which the rewritten module exports what a call sets and restores. No module has
// names of its own that begin so.
const (
	prefix = "keystead:"
	Gas    = prefix + "gas"   // i64: what is left; below 0 once it was not enough
	Depth  = prefix + "depth" // i32: slots of calls under way
	Over   = prefix + "over"  // i32: 1 once memory was asked for beyond the bound
)

// MaxDepth is how many slots, of about 8 bytes, calls may take at a time.
const MaxDepth = 1 << 20

// Global returns the name under which the i-th mutable global of the module is exported.
func Global(i int) string { return fmt.Sprintf("%sg%d", prefix, i) }

// A Module is a module that was read, and can be rewritten.
type Module struct {
	Imports []Import
	Exports []Export
	Mutable int    // globals that a call may change
	Memory  bool   // it has one
	Pages   uint32 // that it begins with
	most    uint32 // pages that it may have by itself

	sections  [13][]byte // content by id
	types     []signature
	functions []uint32 // type of each that is not imported
	globals   []global
	imported  int // functions
}

// An Import is a function that a module asks for.
type Import struct {
	Module, Name string
	Params       []byte // value types
	Results      []byte
}

// Type writes an import's type as "i32 i32 -> i64".
func (i Import) Type() string {
	names := map[byte]string{i32: "i32", i64: "i64", f32: "f32", f64: "f64"}
	var b strings.Builder
	for _, t := range i.Params {
		b.WriteString(names[t] + " ")
	}
	b.WriteString("->")
	for _, t := range i.Results {
		b.WriteString(" " + names[t])
	}
	return b.String()
}

// An Export is what a module offers.
type Export struct {
	Name string
	Kind byte // 0 function, 1 table, 2 memory, 3 global
	Type string
}

// Kinds of exports.
const (
	KindFunction = 0
	KindMemory   = 2
	kindGlobal   = 3
)

type signature struct{ params, results []byte }

type global struct {
	kind    byte
	mutable bool
}

// Value types.
const (
	i32     = 0x7f
	i64     = 0x7e
	f32     = 0x7d
	f64     = 0x7c
	funcref = 0x70
	externs = 0x6f
)

// Section ids.
const (
	secType = 1 + iota
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
)

// order is that in which sections stand.
var order = []int{secType, secImport, secFunction, secTable, secMemory, secGlobal, secExport, secStart, secElement, secDataCount, secCode, secData}

func unfit(where, want, got string, args ...any) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonContractUnfit, Where: where, Want: want, Got: fmt.Sprintf(got, args...)})
}

// Read reads a module. It fails with a *keystead.FormatError, or refuses (contract-unfit) a
// module of more than the bounds, or with what could not be restored after a call.
func Read(wasm []byte) (*Module, error) {
	if len(wasm) > MaxModule {
		return nil, unfit("contract", fmt.Sprintf("at most %d bytes", MaxModule), "%d", len(wasm))
	}
	r := newReader(wasm)
	if head := r.bytes(8, "magic"); r.err() == nil && string(head) != "\x00asm\x01\x00\x00\x00" {
		r.fail("magic", "is not that of a WebAssembly module, version 1")
	}
	m := &Module{}
	last := -1
	for r.err() == nil && r.left() > 0 {
		id := int(r.u8("section"))
		content := r.sized("section")
		if r.err() != nil {
			break
		}
		if id == 0 { // a custom section has a name, and means nothing
			custom := newReader(content)
			custom.name()
			if custom.err() != nil {
				return nil, custom.err()
			}
			continue
		}
		at := position(id)
		if at < 0 || at <= last {
			r.fail("section", "%d is not known, or out of order", id)
			break
		}
		last = at
		m.sections[id] = content
	}
	if r.err() != nil {
		return nil, r.err()
	}
	for _, read := range []func() error{m.readTypes, m.readImports, m.readFunctions, m.readTables, m.readMemory, m.readGlobals, m.readExports, m.readElements, m.readData} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func position(id int) int {
	for i, x := range order {
		if x == id {
			return i
		}
	}
	return -1
}

// items reads a section that is a vector of items.
func (m *Module) items(id int, most int, what string, item func(r *reader)) error {
	if m.sections[id] == nil {
		return nil
	}
	r := newReader(m.sections[id])
	n := r.count(what)
	if r.err() == nil && n > most {
		return unfit("contract", fmt.Sprintf("at most %d %s", most, what), "%d", n)
	}
	for i := 0; i < n && r.err() == nil; i++ {
		item(r)
	}
	r.end(what)
	return r.err()
}

func (m *Module) readTypes() error {
	return m.items(secType, maxTypes, "types", func(r *reader) {
		if form := r.u8("type"); r.err() == nil && form != 0x60 {
			r.fail("type", "is of form 0x%02x", form)
		}
		s := signature{r.vector("parameters"), r.vector("results")}
		m.types = append(m.types, s)
	})
}

func (m *Module) readImports() (err error) {
	e := m.items(secImport, maxImports, "imports", func(r *reader) {
		module, name, kind := r.name(), r.name(), r.u8("import")
		if r.err() != nil || err != nil {
			return
		}
		if kind != KindFunction {
			err = unfit("contract", "imports that are functions", "%s.%s, which is none", module, name)
			r.fail("import", "is no function")
			return
		}
		t := r.u32("type")
		if r.err() == nil && int(t) >= len(m.types) {
			r.fail("import", "is of type %d, which there is not", t)
		}
		if r.err() != nil {
			return
		}
		m.Imports = append(m.Imports, Import{module, name, m.types[t].params, m.types[t].results})
		m.imported++
	})
	if err == nil {
		err = e
	}
	return err
}

func (m *Module) readFunctions() error {
	return m.items(secFunction, maxFunctions, "functions", func(r *reader) {
		t := r.u32("type")
		if r.err() == nil && int(t) >= len(m.types) {
			r.fail("function", "is of type %d, which there is not", t)
		}
		m.functions = append(m.functions, t)
	})
}

// readTables bounds tables; what they hold no call changes.
func (m *Module) readTables() error {
	var err error
	e := m.items(secTable, maxTables, "tables", func(r *reader) {
		r.u8("table")
		least, _ := r.limits(0)
		if r.err() == nil && least > maxTable && err == nil {
			err = unfit("contract", fmt.Sprintf("tables of at most %d items", maxTable), "%d", least)
		}
	})
	if err != nil {
		return err
	}
	return e
}

func (m *Module) readMemory() error {
	return m.items(secMemory, 1, "memories", func(r *reader) {
		m.Memory = true
		if m.Pages, m.most = r.limits(maxPages); r.err() == nil && (m.Pages > m.most || m.most > maxPages) {
			r.fail("memory", "is of %d to %d pages; there are at most %d", m.Pages, m.most, maxPages)
		}
	})
}

func (m *Module) readGlobals() (err error) {
	e := m.items(secGlobal, maxGlobals, "globals", func(r *reader) {
		g := global{kind: r.u8("global"), mutable: r.u8("global") == 1}
		r.constant()
		if r.err() == nil && g.mutable {
			m.Mutable++
			if g.kind != i32 && g.kind != i64 && g.kind != f32 && g.kind != f64 && err == nil {
				err = unfit("contract", "mutable globals that are numbers, which can be restored", "one of type 0x%02x", g.kind)
			}
		}
		m.globals = append(m.globals, g)
	})
	if err == nil {
		err = e
	}
	return err
}

func (m *Module) readExports() (err error) {
	e := m.items(secExport, maxExports, "exports", func(r *reader) {
		x := Export{Name: r.name(), Kind: r.u8("export")}
		index := r.u32("export")
		if r.err() == nil && strings.HasPrefix(x.Name, prefix) && err == nil {
			err = unfit("contract", "exports whose names do not begin with "+prefix, "%q", x.Name)
		}
		if r.err() == nil && x.Kind == kindGlobal && int(index) >= len(m.globals) { // those that are added are not the module's
			r.fail("export", "is of global %d, which there is not", index)
		}
		if x.Kind == KindFunction {
			if s, ok := m.typeOf(index); ok {
				x.Type = Import{Params: s.params, Results: s.results}.Type()
			}
		}
		m.Exports = append(m.Exports, x)
	})
	if err == nil {
		err = e
	}
	return err
}

// readElements bounds what fills tables (5.5.12): whoever compiles it makes room by the counts that
// stand there.
func (m *Module) readElements() error {
	return m.items(secElement, maxElements, "element segments", func(r *reader) {
		flags := r.u32("element")
		if r.err() == nil && flags > 7 {
			r.fail("element", "has the flags %d", flags)
		}
		if flags&1 == 0 { // active
			if flags&2 != 0 {
				r.u32("table")
			}
			r.constant()
		}
		if flags&3 != 0 {
			r.u8("element kind")
		}
		for n := r.count("elements"); n > 0 && r.err() == nil; n-- {
			if flags&4 != 0 {
				r.constant()
			} else {
				r.u32("element")
			}
		}
	})
}

// readData bounds what fills memory (5.5.14), likewise.
func (m *Module) readData() error {
	if count := m.sections[secDataCount]; count != nil {
		r := newReader(count)
		if n := r.u32("data"); r.err() == nil && n > maxData {
			return unfit("contract", fmt.Sprintf("at most %d data segments", maxData), "%d", n)
		}
		r.end("data")
		if r.err() != nil {
			return r.err()
		}
	}
	return m.items(secData, maxData, "data segments", func(r *reader) {
		flags := r.u32("data")
		if r.err() == nil && flags > 2 {
			r.fail("data", "has the flags %d", flags)
		}
		if flags == 2 {
			r.u32("memory")
		}
		if flags != 1 {
			r.constant()
		}
		r.sized("data")
	})
}

// typeOf returns the type of a function.
func (m *Module) typeOf(index uint32) (signature, bool) {
	switch i := int(index); {
	case i < m.imported:
		return signature{m.Imports[i].Params, m.Imports[i].Results}, true
	case i-m.imported < len(m.functions):
		return m.types[m.functions[i-m.imported]], true
	}
	return signature{}, false
}

func validName(b []byte) bool { return len(b) <= maxName && utf8.Valid(b) }

package contract_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger/contract"
	"github.com/keystead/keystead/ledger/contract/meter"
)

// assembly is a contract in machine code: method "run", beside what a test adds.
type assembly struct {
	imports  [][2]string // functions of (i32 i32 i32 i32), (i32 i32) or (i64) by their types
	types    []byte      // of the imports: indexes into the fixed list below
	globals  []byte      // global section's items
	nGlobals int
	pages    byte
	locals   []byte // of run
	run      []byte // its code, without the end
	more     []body // further functions, of type () -> ()
	table    []byte // function indexes in the table
	start    int    // index of a start function; 0 for none: run is never one
	exports  []string
	data     []byte
}

type body struct{ locals, code []byte }

func leb(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func vector(items ...[]byte) []byte { return append(leb(len(items)), bytes.Join(items, nil)...) }

func str(s string) []byte { return append(leb(len(s)), s...) }

// Types: 0 () -> (), 1 (i32 i32) -> (), 2 (i32 i32 i32 i32) -> (), 3 () -> i32, 4 (i32) -> ().
var fixedTypes = vector([]byte{0x60, 0, 0}, []byte{0x60, 2, 0x7f, 0x7f, 0}, []byte{0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 0}, []byte{0x60, 0, 1, 0x7f}, []byte{0x60, 1, 0x7f, 0})

func (a *assembly) wasm() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, content []byte) { out = append(append(append(out, id), leb(len(content))...), content...) }
	section(1, fixedTypes)
	var imports [][]byte
	for i, x := range a.imports {
		imports = append(imports, slices.Concat(str(x[0]), str(x[1]), []byte{0, a.types[i]}))
	}
	section(2, vector(imports...))
	bodies := append([]body{{a.locals, a.run}}, a.more...)
	functions, codes := [][]byte{}, [][]byte{}
	for _, b := range bodies {
		functions = append(functions, []byte{0})
		locals := b.locals
		if locals == nil {
			locals = []byte{0}
		}
		code := slices.Concat(locals, b.code, []byte{0x0b})
		codes = append(codes, append(leb(len(code)), code...))
	}
	section(3, vector(functions...))
	if a.table != nil {
		section(4, []byte{1, 0x70, 0, byte(len(a.table))})
	}
	section(5, []byte{1, 0, a.pages})
	if a.globals != nil {
		section(6, append(leb(a.nGlobals), a.globals...))
	}
	exports := [][]byte{append(str("run"), 0, byte(len(a.imports))), append(str("memory"), 2, 0)}
	for _, x := range a.exports {
		exports = append(exports, append(str(x), 0, byte(len(a.imports))))
	}
	section(7, vector(exports...))
	if a.start != 0 {
		section(8, leb(a.start))
	}
	if a.table != nil {
		section(9, slices.Concat([]byte{1, 0, 0x41, 0, 0x0b}, append(leb(len(a.table)), a.table...)))
	}
	if a.data != nil {
		section(12, leb(1))
	}
	section(10, vector(codes...))
	if a.data != nil {
		section(11, slices.Concat([]byte{1}, a.data))
	}
	return out
}

// once loads and runs a contract in machine code.
func once(t *testing.T, a *assembly, b contract.Bounds) (contract.Result, error) {
	t.Helper()
	c, err := engine(t).Load(t.Context(), a.wasm(), b)
	if err != nil {
		return contract.Result{}, err
	}
	return c.Call(t.Context(), &contract.Call{Method: "run", Caller: by("eve"), Clock: noon}, state{})
}

const i64counter = "\x7e\x01\x42\x00\x0b" // (global (mut i64) (i64.const 0))

var (
	output   = [2]string{"keystead", "output"}
	put      = [2]string{"keystead", "put"}
	emit     = [2]string{"keystead", "emit"}
	result   = [2]string{"keystead", "result"}
	loopOver = []byte{0x03, 0x40, 0x0c, 0, 0x0b} // loop br 0 end
)

// TestHostileCode runs contracts that would take the machine, or cheat the meter.
func TestHostileCode(t *testing.T) {
	small := contract.Bounds{Gas: 1_000_000, Pages: 16}
	recursion := []byte{0x10, 0} // call run
	manyLocals := slices.Concat(leb(1), leb(4000), []byte{0x7e})
	i32const := func(n int32) []byte {
		b, v := []byte{0x41}, int64(n)
		for {
			low := byte(v & 0x7f)
			if v >>= 7; v == 0 && low&0x40 == 0 || v == -1 && low&0x40 != 0 {
				return append(b, low)
			}
			b = append(b, low|0x80)
		}
	}
	for what, x := range map[string]struct {
		code   assembly
		bounds contract.Bounds
		want   keystead.Reason
	}{
		"an endless loop":                             {assembly{pages: 1, run: loopOver}, small, keystead.ReasonGasExhausted},
		"an endless loop of ifs":                      {assembly{pages: 1, run: []byte{0x03, 0x40, 0x41, 1, 0x04, 0x40, 0x0c, 1, 0x0b, 0x0b}}, small, keystead.ReasonGasExhausted},
		"an endless loop by br_if":                    {assembly{pages: 1, run: []byte{0x03, 0x40, 0x41, 1, 0x0d, 0, 0x0b}}, small, keystead.ReasonGasExhausted},
		"an endless loop by br_table":                 {assembly{pages: 1, run: []byte{0x03, 0x40, 0x41, 7, 0x0e, 1, 0, 0, 0x0b}}, small, keystead.ReasonGasExhausted},
		"recursion, with little gas":                  {assembly{pages: 1, run: recursion}, contract.Bounds{Gas: 1000, Pages: 1}, keystead.ReasonGasExhausted},
		"recursion":                                   {assembly{pages: 1, run: recursion}, contract.Bounds{Gas: contract.MaxGas, Pages: 1}, keystead.ReasonContractTrapped},
		"recursion with 4,000 locals":                 {assembly{pages: 1, locals: manyLocals, run: recursion}, contract.Bounds{Gas: contract.MaxGas, Pages: 1}, keystead.ReasonContractTrapped},
		"recursion through the table":                 {assembly{pages: 1, table: []byte{0}, run: []byte{0x41, 0, 0x11, 0, 0}}, contract.Bounds{Gas: contract.MaxGas, Pages: 1}, keystead.ReasonContractTrapped},
		"memory beyond the bound, and a trap":         {assembly{pages: 1, run: []byte{0x41, 32, 0x40, 0, 0x1a, 0x00}}, small, keystead.ReasonMemoryExceeded},
		"memory of 4 GiB, page by page":               {assembly{pages: 1, run: slices.Concat([]byte{0x03, 0x40, 0x41, 1, 0x40, 0, 0x1a, 0x0c, 0, 0x0b})}, small, keystead.ReasonGasExhausted},
		"fills of a MiB":                              {assembly{pages: 16, run: slices.Concat([]byte{0x03, 0x40, 0x41, 0, 0x41, 0}, i32const(1<<20), []byte{0xfc, 11, 0, 0x0c, 0, 0x0b})}, small, keystead.ReasonGasExhausted},
		"a fill of -1 bytes":                          {assembly{pages: 1, run: []byte{0x41, 0, 0x41, 0, 0x41, 0x7f, 0xfc, 11, 0}}, small, keystead.ReasonGasExhausted},
		"copies of a MiB":                             {assembly{pages: 16, run: slices.Concat([]byte{0x03, 0x40, 0x41, 0, 0x41, 0}, i32const(1<<20), []byte{0xfc, 10, 0, 0, 0x0c, 0, 0x0b})}, small, keystead.ReasonGasExhausted},
		"unreachable":                                 {assembly{pages: 1, run: []byte{0x00}}, small, keystead.ReasonContractTrapped},
		"an address outside":                          {assembly{pages: 1, run: slices.Concat(i32const(-8), []byte{0x28, 2, 0, 0x1a})}, small, keystead.ReasonContractTrapped},
		"output from outside":                         {assembly{pages: 1, imports: [][2]string{output}, types: []byte{1}, run: slices.Concat(i32const(65530), i32const(100), []byte{0x10, 0})}, small, keystead.ReasonContractTrapped},
		"output of -1 bytes":                          {assembly{pages: 1, imports: [][2]string{output}, types: []byte{1}, run: []byte{0x41, 0, 0x41, 0x7f, 0x10, 0}}, small, keystead.ReasonMemoryExceeded},
		"output of 64 KiB and one byte":               {assembly{pages: 2, imports: [][2]string{output}, types: []byte{1}, run: slices.Concat([]byte{0x41, 0}, i32const(65537), []byte{0x10, 0})}, small, keystead.ReasonMemoryExceeded},
		"a key of nothing":                            {assembly{pages: 1, imports: [][2]string{put}, types: []byte{2}, run: []byte{0x41, 0, 0x41, 0, 0x41, 0, 0x41, 0, 0x10, 0}}, small, keystead.ReasonMemoryExceeded},
		"a key of 257 bytes":                          {assembly{pages: 1, imports: [][2]string{put}, types: []byte{2}, run: slices.Concat([]byte{0x41, 0}, i32const(257), []byte{0x41, 0, 0x41, 0, 0x10, 0})}, small, keystead.ReasonMemoryExceeded},
		"puts without end":                            {assembly{pages: 1, imports: [][2]string{put}, types: []byte{2}, run: slices.Concat([]byte{0x03, 0x40, 0x41, 0, 0x41, 0, 0x28, 2, 0, 0x41, 1, 0x6a, 0x36, 2, 0, 0x41, 0, 0x41, 4, 0x41, 0, 0x41, 4, 0x10, 0, 0x0c, 0, 0x0b})}, contract.Bounds{Gas: 100_000_000, Pages: 1}, keystead.ReasonMemoryExceeded},
		"events without end":                          {assembly{pages: 1, imports: [][2]string{emit}, types: []byte{2}, run: slices.Concat([]byte{0x03, 0x40, 0x41, 0, 0x41, 1, 0x41, 0, 0x41, 4, 0x10, 0, 0x0c, 0, 0x0b})}, contract.Bounds{Gas: 100_000_000, Pages: 1}, keystead.ReasonMemoryExceeded},
		"a result without one, outside":               {assembly{pages: 1, imports: [][2]string{result}, types: []byte{4}, run: slices.Concat(i32const(65537), []byte{0x10, 0})}, small, keystead.ReasonContractTrapped},
		"gas for itself":                              {assembly{pages: 1, run: slices.Concat([]byte{0x42, 127, 0x24, 0}, loopOver)}, small, keystead.ReasonMalformed},
		"gas for itself, beside a global of its own":  {assembly{pages: 1, globals: []byte(i64counter), nGlobals: 1, run: []byte{0x42, 127, 0x24, 1}}, small, keystead.ReasonMalformed},
		"depth for itself":                            {assembly{pages: 1, run: []byte{0x41, 0, 0x24, 1}}, small, keystead.ReasonMalformed},
		"a local of the meter's":                      {assembly{pages: 1, run: []byte{0x41, 0, 0x21, 0}}, small, keystead.ReasonMalformed},
		"a name of the meter's":                       {assembly{pages: 1, run: nil, exports: []string{meter.Gas}}, small, keystead.ReasonContractUnfit},
		"an import of another's":                      {assembly{pages: 1, imports: [][2]string{{"os", "exec"}}, types: []byte{0}}, small, keystead.ReasonContractUnfit},
		"an import of another type":                   {assembly{pages: 1, imports: [][2]string{output}, types: []byte{0}}, small, keystead.ReasonContractUnfit},
		"table.set":                                   {assembly{pages: 1, table: []byte{0}, run: []byte{0x41, 0, 0xd2, 0, 0x26, 0}}, small, keystead.ReasonContractUnfit},
		"data.drop":                                   {assembly{pages: 1, data: []byte{1, 1, 'x'}, run: []byte{0xfc, 9, 0}}, small, keystead.ReasonContractUnfit},
		"elem.drop":                                   {assembly{pages: 1, table: []byte{0}, run: []byte{0xfc, 13, 0}}, small, keystead.ReasonContractUnfit},
		"vectors":                                     {assembly{pages: 1, run: []byte{0xfd, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1a}}, small, keystead.ReasonMalformed},
		"threads":                                     {assembly{pages: 1, run: []byte{0xfe, 3, 0}}, small, keystead.ReasonMalformed},
		"4,097 locals":                                {assembly{pages: 1, locals: slices.Concat(leb(1), leb(4097), []byte{0x7e})}, small, keystead.ReasonContractUnfit},
		"2^32 locals in two steps":                    {assembly{pages: 1, locals: slices.Concat(leb(2), leb(1<<31), []byte{0x7e}, leb(1<<31), []byte{0x7e})}, small, keystead.ReasonContractUnfit},
		"more memory from the start than it may have": {assembly{pages: 17}, small, keystead.ReasonContractUnfit},
		"a start that does not end":                   {assembly{pages: 1, more: []body{{nil, loopOver}}, start: 1}, small, keystead.ReasonContractUnfit},
		"a start that writes":                         {assembly{pages: 1, imports: [][2]string{put}, types: []byte{2}, more: []body{{nil, []byte{0x41, 0, 0x41, 1, 0x41, 0, 0x41, 0, 0x10, 0}}}, start: 2}, small, keystead.ReasonContractUnfit},
		"a command":                                   {assembly{pages: 1, exports: []string{"_start"}}, small, keystead.ReasonContractUnfit},
		"no bounds":                                   {assembly{pages: 1}, contract.Bounds{}, keystead.ReasonContractUnfit},
	} {
		_, err := once(t, &x.code, x.bounds)
		if x.want == keystead.ReasonMalformed {
			if err == nil || !strings.Contains(err.Error(), "wasm") {
				t.Errorf("%s: want bytes that do not parse, got %v", what, err)
			}
			continue
		}
		demand(t, what, err, x.want)
	}
	if _, err := once(t, &assembly{pages: 1}, small); err != nil {
		t.Errorf("a contract that does nothing: %v", err)
	}
}

// TestNothingIsLeft calls a contract that counts in a global, in memory and in memory that it
// grew: each call finds all of them as they were.
func TestNothingIsLeft(t *testing.T) {
	a := &assembly{pages: 1, imports: [][2]string{output}, types: []byte{1}, globals: []byte("\x7f\x01\x41\x05\x0b" + i64counter), nGlobals: 2,
		run: slices.Concat(
			[]byte{0x23, 0, 0x41, 1, 0x6a, 0x24, 0},                         // global 0 = global 0 + 1
			[]byte{0x41, 0, 0x41, 0, 0x28, 2, 0, 0x23, 0, 0x6a, 0x36, 2, 0}, // memory[0] += global 0
			[]byte{0x41, 4, 0x3f, 0, 0x36, 2, 0},                            // memory[4] = pages
			[]byte{0x41, 1, 0x40, 0, 0x1a},                                  // grow
			[]byte{0x41, 0, 0x41, 8, 0x10, 0},                               // output
		)}
	c, err := engine(t).Load(t.Context(), a.wasm(), contract.Bounds{Gas: 1_000_000, Pages: 16})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		r, err := c.Call(t.Context(), &contract.Call{Method: "run", Caller: by("eve")}, state{})
		if want := []byte{6, 0, 0, 0, 1, 0, 0, 0}; err != nil || !bytes.Equal(r.Output, want) {
			t.Errorf("call %d gives %x, want %x: %v", i, r.Output, want, err)
		}
	}
}

// TestNaNs computes NaNs of all forms: they have one.
func TestNaNs(t *testing.T) {
	quiet64, quiet32 := math.Float64bits(math.NaN())&^1, uint32(0x7fc00000)
	for what, x := range map[string]struct {
		code []byte // stores 8 bytes at 0
		want uint64
	}{
		"0/0":                       {slices.Concat([]byte{0x41, 0, 0x44}, make([]byte, 8), []byte{0x44}, make([]byte, 8), []byte{0xa3, 0x39, 3, 0}), quiet64},
		"a payload, doubled":        {slices.Concat([]byte{0x41, 0, 0x42}, sleb64(0x7ff8dead0000beef), []byte{0xbf, 0x42}, sleb64(0x7ff8dead0000beef), []byte{0xbf, 0xa0, 0x39, 3, 0}), quiet64},
		"a negative NaN, rounded":   {slices.Concat([]byte{0x41, 0, 0x42}, sleb64(-0x8000000000000), []byte{0xbf, 0x9c, 0x39, 3, 0}), quiet64},
		"a signalling NaN, demoted": {slices.Concat([]byte{0x41, 0, 0x42}, sleb64(0x7ff0dead0000beef), []byte{0xbf, 0xb6, 0x38, 2, 0}), uint64(quiet32)},
		"one kept":                  {slices.Concat([]byte{0x41, 0, 0x42}, sleb64(0x7ff8dead0000beef), []byte{0xbf, 0x39, 3, 0}), 0x7ff8dead0000beef},
		"1+1":                       {slices.Concat([]byte{0x41, 0, 0x44}, float(1), []byte{0x44}, float(1), []byte{0xa0, 0x39, 3, 0}), math.Float64bits(2)},
		"-0, rounded":               {slices.Concat([]byte{0x41, 0, 0x44}, float(math.Copysign(0, -1)), []byte{0x9b, 0x39, 3, 0}), 1 << 63},
	} {
		r, err := once(t, &assembly{pages: 1, imports: [][2]string{output}, types: []byte{1}, run: append(x.code, 0x41, 0, 0x41, 8, 0x10, 0)}, contract.Bounds{Gas: 1_000_000, Pages: 1})
		if err != nil || binary.LittleEndian.Uint64(r.Output) != x.want {
			t.Errorf("%s: %x, want %x: %v", what, r.Output, x.want, err)
		}
	}
}

func float(f float64) []byte { return binary.LittleEndian.AppendUint64(nil, math.Float64bits(f)) }

func sleb64(v int64) (b []byte) {
	for {
		low := byte(v & 0x7f)
		if v >>= 7; v == 0 && low&0x40 == 0 || v == -1 && low&0x40 != 0 {
			return append(b, low)
		}
		b = append(b, low|0x80)
	}
}

// FuzzLoad gives hostile bytes to reader and compiler: none may panic, and what loads is called
// within its bounds.
func FuzzLoad(f *testing.F) {
	f.Add((&assembly{pages: 1}).wasm())
	f.Add((&assembly{pages: 1, globals: []byte(i64counter), nGlobals: 1, table: []byte{0}, data: []byte{1, 1, 'x'}, run: loopOver}).wasm())
	f.Add((&assembly{pages: 1, imports: [][2]string{output, put}, types: []byte{1, 2}, run: []byte{0x41, 0, 0x41, 8, 0x10, 0}, more: []body{{nil, []byte{0x10, 2}}}}).wasm())
	e := engine(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := e.Load(t.Context(), b, contract.Bounds{Gas: 100_000, Pages: 4})
		if err != nil {
			return
		}
		defer c.Close(t.Context())
		for _, m := range c.Methods() {
			r, _ := c.Call(t.Context(), &contract.Call{Method: m}, state{})
			again, _ := c.Call(t.Context(), &contract.Call{Method: m}, state{})
			if r.Gas != again.Gas || fmt.Sprint(r.Writes) != fmt.Sprint(again.Writes) || r.Gas > 100_000 {
				t.Errorf("%s gives %+v, then %+v", m, r, again)
			}
		}
	})
}

package contract

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero/api"

	"github.com/keystead/keystead"
)

// A function is one that contracts import.
type function struct {
	params, results []api.ValueType
	do              func(r *run, m memory, a []uint64) uint64
}

const (
	i32 = api.ValueTypeI32
	i64 = api.ValueTypeI64
)

// text writes the function's type as meter.Import does.
func (f *function) text() string {
	var b strings.Builder
	for _, t := range f.params {
		b.WriteString(api.ValueTypeName(t) + " ")
	}
	b.WriteString("->")
	for _, t := range f.results {
		b.WriteString(" " + api.ValueTypeName(t))
	}
	return b.String()
}

// guarded calls the function for the call under way.
func (f *function) guarded() api.GoModuleFunction {
	return api.GoModuleFunc(func(ctx context.Context, module api.Module, stack []uint64) {
		r := ctx.Value(runKey{}).(*run)
		if r.on == nil { // within a start function, which runs before there is an instance
			r.refuse(keystead.ReasonContractUnfit, "code that asks the host for nothing before "+initialize, "a start function that does")
		}
		r.use(100)
		out := f.do(r, memory{r, module.Memory()}, stack)
		if len(f.results) > 0 {
			stack[0] = out
		}
	})
}

// memory is the guest's.
type memory struct {
	r *run
	m api.Memory
}

// outside ends the call.
func (m memory) outside() {
	m.r.refuse(keystead.ReasonContractTrapped, "bytes within the contract's memory", "an address outside")
}

// read returns so many bytes, which belong to the guest, for at most most of them.
func (m memory) read(at, size uint64, most int, what string) []byte {
	if uint32(size) > uint32(most) {
		m.r.refuse(keystead.ReasonMemoryExceeded, fmt.Sprintf("%s of at most %d bytes", what, most), fmt.Sprint(uint32(size)))
	}
	m.r.use(int64(uint32(size)) / 8)
	if m.m == nil {
		m.outside()
	}
	b, ok := m.m.Read(uint32(at), uint32(size))
	if !ok {
		m.outside()
	}
	return b
}

// copy is read, with bytes of the host's.
func (m memory) copy(at, size uint64, most int, what string) []byte {
	return append([]byte{}, m.read(at, size, most, what)...)
}

func (m memory) write(at uint64, b []byte) {
	m.r.use(int64(len(b)) / 8)
	if m.m == nil || !m.m.Write(uint32(at), b) {
		m.outside()
	}
}

// u32 writes a number as WASI does.
func (m memory) u32(at uint64, v uint32) { m.write(at, binary.LittleEndian.AppendUint32(nil, v)) }

// none is the length that says that there is no value.
const none = uint64(uint32(1<<32 - 1))

// keep holds a result for the guest to fetch, and returns its length.
func (r *run) keep(b []byte) uint64 {
	r.use(int64(len(b)) / 8)
	r.result = b
	return uint64(uint32(len(b)))
}

// running refuses what needs a call while code starts.
func (r *run) running() {
	if r.call == nil {
		r.refuse(keystead.ReasonContractUnfit, "code that reads and writes nothing when it starts", "code that does")
	}
}

func types(t ...api.ValueType) []api.ValueType { return t }

// modules are all imports that a contract may have (docs/spec/contract.md).
var modules = map[string]map[string]*function{"keystead": host, "wasi_snapshot_preview1": wasi, "env": env}

// host are the functions of module keystead. Addresses and sizes are i32; a function that has a
// value returns its length, and result copies it.
var host = map[string]*function{
	"input": {nil, types(i32), func(r *run, _ memory, _ []uint64) uint64 {
		r.running()
		return r.keep(r.call.Input)
	}},
	"result": {types(i32), nil, func(r *run, m memory, a []uint64) uint64 {
		m.write(a[0], r.result)
		return 0
	}},
	"output": {types(i32, i32), nil, func(r *run, m memory, a []uint64) uint64 {
		r.output = m.copy(a[0], a[1], MaxOutput, "output")
		return 0
	}},
	"get": {types(i32, i32), types(i32), func(r *run, m memory, a []uint64) uint64 {
		r.running()
		r.use(400)
		value, ok := r.get(m.read(a[0], a[1], MaxKey, "a key"))
		if !ok {
			return none
		}
		return r.keep(value)
	}},
	"put": {types(i32, i32, i32, i32), nil, func(r *run, m memory, a []uint64) uint64 {
		r.running()
		r.use(400)
		r.write(Write{Key: m.copy(a[0], a[1], MaxKey, "a key"), Value: m.copy(a[2], a[3], MaxValue, "a value")})
		return 0
	}},
	"delete": {types(i32, i32), nil, func(r *run, m memory, a []uint64) uint64 {
		r.running()
		r.use(400)
		r.write(Write{Key: m.copy(a[0], a[1], MaxKey, "a key"), Delete: true})
		return 0
	}},
	"scan": {types(i32, i32, i32, i32, i32), types(i32), func(r *run, m memory, a []uint64) uint64 {
		r.running()
		r.use(400)
		limit := min(int(uint32(a[4])), maxScan)
		if limit == 0 {
			return r.keep(nil)
		}
		var out []byte
		for _, w := range r.scan(m.copy(a[0], a[1], MaxKey, "a key"), m.copy(a[2], a[3], MaxKey, "a key"), limit) {
			out = append(binary.LittleEndian.AppendUint32(out, uint32(len(w.Key))), w.Key...)
			out = append(binary.LittleEndian.AppendUint32(out, uint32(len(w.Value))), w.Value...)
		}
		return r.keep(out)
	}},
	"caller": {nil, types(i32), func(r *run, _ memory, _ []uint64) uint64 { return r.keep(r.caller) }},
	"clock":  {nil, types(i64), func(r *run, _ memory, _ []uint64) uint64 { return r.clock }},
	"random": {types(i32, i32), nil, func(r *run, m memory, a []uint64) uint64 {
		r.fill(m, a[0], a[1])
		return 0
	}},
	"emit": {types(i32, i32, i32, i32), nil, func(r *run, m memory, a []uint64) uint64 {
		r.running()
		if len(r.events) == MaxEvents {
			r.refuse(keystead.ReasonMemoryExceeded, fmt.Sprintf("at most %d events", MaxEvents), "more")
		}
		r.events = append(r.events, Event{m.copy(a[0], a[1], MaxKey, "a topic"), m.copy(a[2], a[3], MaxEvent, "an event")})
		return 0
	}},
	"refuse": {types(i32, i32), nil, func(r *run, m memory, a []uint64) uint64 {
		r.refuse(keystead.ReasonContractRefused, "what the contract accepts", printable(m.read(a[0], a[1], MaxEvent, "a refusal")))
		return 0
	}},
	"log": {types(i32, i32), nil, func(r *run, m memory, a []uint64) uint64 {
		r.note(m.read(a[0], a[1], MaxEvent, "a line of the log"))
		return 0
	}},
	"hash":    {types(i32, i32, i32, i32), types(i32), hash},
	"verify":  {types(i32, i32, i32, i32, i32, i32, i32), types(i32), verify},
	"recover": {types(i32, i32, i32), types(i32), recoverKey},
}

// fill writes random bytes, of this call alone.
func (r *run) fill(m memory, at, size uint64) {
	if uint32(size) > MaxValue {
		r.refuse(keystead.ReasonMemoryExceeded, fmt.Sprintf("at most %d random bytes", MaxValue), fmt.Sprint(uint32(size)))
	}
	b := make([]byte, uint32(size))
	r.random.read(b)
	m.write(at, b)
}

// note adds to the log, which has no effect, as far as it has room.
func (r *run) note(b []byte) {
	if r.logged+len(b) <= MaxLog {
		r.logged += len(b)
		r.log = append(r.log, printable(b))
	}
}

// printable is text of the guest's for people.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.TrimRight(string(b), "\n"))
}

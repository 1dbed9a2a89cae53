package meter_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger/contract/meter"
)

// suite is a directory of the WebAssembly specification's tests, which come with wazero's module.
func suite(t *testing.T, version string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "internal/integration_test/spectest", version, "testdata")
}

// value is an argument or result in the suite's files.
type value struct {
	Type  string
	Value any
}

// bits are those of the value, and whether it stands for any NaN.
func (v value) bits(t *testing.T) (bits uint64, nan bool) {
	t.Helper()
	s, _ := v.Value.(string)
	if strings.HasPrefix(s, "nan:") {
		return 0, true
	}
	if s == "null" {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%+v: %v", v, err)
	}
	return n, false
}

type command struct {
	Type, Filename, Text, Name, As string
	Line                           int
	Action                         struct {
		Type, Field, Module string
		Args                []value
	}
	Expected []value
}

const features = api.CoreFeaturesV2 &^ api.CoreFeatureSIMD

// runner runs one file of the suite, every module of it metered.
type runner struct {
	t              *testing.T
	runtime        wazero.Runtime
	dir            string
	last           api.Module
	named          map[string]api.Module
	returns, traps int
	passed         map[string]int // over modules, by why
}

// TestSpecification runs the specification's tests on metered modules: what they return, and
// where they trap, is what it was. Modules that import memories, tables or globals are refused,
// as are those with vectors; they are counted.
func TestSpecification(t *testing.T) {
	returns, traps, over := 0, 0, map[string]int{}
	for _, version := range []string{"v1", "v2"} {
		dir := suite(t, version)
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(files) < 60 {
			t.Fatalf("%d files of the specification's tests in %s: %v", len(files), dir, err)
		}
		for _, file := range files {
			if base := filepath.Base(file); strings.HasPrefix(base, "simd_") || base == "linking.json" { // vectors; modules that share memories
				continue
			}
			r := &runner{t: t, dir: dir, named: map[string]api.Module{}, passed: over}
			r.file(file)
			returns, traps = returns+r.returns, traps+r.traps
		}
	}
	t.Logf("%d results and %d traps are what the specification says; modules passed over: %v", returns, traps, over)
	if returns < 30_000 || traps < 900 {
		t.Errorf("%d results and %d traps: are the tests still found?", returns, traps)
	}
}

func (r *runner) file(name string) {
	t := r.t
	t.Helper()
	ctx := t.Context()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var f struct{ Commands []command }
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	r.runtime = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCoreFeatures(features))
	defer r.runtime.Close(context.Background())
	b := r.runtime.NewHostModuleBuilder("spectest")
	for name, params := range map[string][]api.ValueType{"print": nil, "print_i32": {api.ValueTypeI32}, "print_i64": {api.ValueTypeI64}, "print_f32": {api.ValueTypeF32}, "print_f64": {api.ValueTypeF64},
		"print_i32_f32": {api.ValueTypeI32, api.ValueTypeF32}, "print_f64_f64": {api.ValueTypeF64, api.ValueTypeF64}} {
		b = b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(context.Context, api.Module, []uint64) {}), params, nil).Export(name)
	}
	if _, err := b.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range f.Commands {
		at := filepath.Base(name) + ":" + strconv.Itoa(c.Line)
		switch c.Type {
		case "module":
			r.module(ctx, at, &c)
		case "action", "assert_return":
			r.invoke(ctx, at, &c, false)
		case "assert_trap":
			r.invoke(ctx, at, &c, true)
		case "register": // others may change what it has from now on, and they are refused
			r.last = nil
			if c.Name != "" {
				r.named[c.Name] = nil
			}
		case "assert_invalid", "assert_malformed":
			r.invalid(ctx, at, &c)
		}
	}
}

// module meters a module. What is refused is passed over, with what is asked of it.
func (r *runner) module(ctx context.Context, at string, c *command) {
	r.last = nil
	if c.Name != "" {
		r.named[c.Name] = nil
	}
	wasm, err := os.ReadFile(filepath.Join(r.dir, c.Filename))
	if err != nil {
		r.t.Fatal(err)
	}
	rewritten, err := metered(wasm)
	if err != nil {
		var format *keystead.FormatError
		if errors.As(err, &format) && !strings.Contains(err.Error(), "import") && !strings.Contains(err.Error(), "0x7b") {
			r.t.Errorf("%s: %v", at, err)
		}
		r.passed["refused"]++
		return
	}
	compiled, err := r.runtime.CompileModule(ctx, rewritten)
	if err != nil {
		r.t.Errorf("%s: the metered module is not valid: %v", at, err)
		return
	}
	m, err := r.runtime.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		r.passed["linked to others"]++
		return
	}
	r.last = m
	if c.Name != "" {
		r.named[c.Name] = m
	}
}

func metered(wasm []byte) ([]byte, error) {
	m, err := meter.Read(wasm)
	if err != nil {
		return nil, err
	}
	return m.Rewrite(meter.Bounds{Pages: 65536, Start: math.MaxInt64})
}

func (r *runner) invoke(ctx context.Context, at string, c *command, traps bool) {
	m := r.last
	if c.Action.Module != "" {
		m = r.named[c.Action.Module]
	}
	if m == nil || c.Action.Type != "invoke" {
		return
	}
	f := m.ExportedFunction(c.Action.Field)
	if f == nil {
		return // of a module that was registered under another name
	}
	var args []uint64
	for _, a := range c.Action.Args {
		n, _ := a.bits(r.t)
		if a.Type == "externref" && a.Value != "null" {
			n++ // 0 is null
		}
		args = append(args, n)
	}
	m.ExportedGlobal(meter.Depth).(api.MutableGlobal).Set(0)
	got, err := f.Call(ctx, args...)
	if (err != nil) != traps {
		r.t.Errorf("%s: %s: %v", at, c.Action.Field, err)
		return
	}
	if traps {
		r.traps++
		return
	}
	for i, want := range c.Expected {
		bits, nan := want.bits(r.t)
		if want.Type == "externref" && want.Value != "null" {
			bits++
		}
		if want.Type == "funcref" && want.Value != "null" {
			continue
		}
		if want.Type == "i32" || want.Type == "f32" {
			got[i] &= math.MaxUint32
		}
		same := got[i] == bits
		if nan && want.Type == "f32" {
			f := math.Float32frombits(uint32(got[i]))
			same = f != f
		} else if nan {
			f := math.Float64frombits(got[i])
			same = f != f
		}
		if !same {
			r.t.Errorf("%s: %s gives %x, want %v", at, c.Action.Field, got[i], want.Value)
		}
	}
	r.returns++
}

// invalid is a module that is none. Metered it is none either.
func (r *runner) invalid(ctx context.Context, at string, c *command) {
	if !strings.HasSuffix(c.Filename, ".wasm") {
		return
	}
	wasm, err := os.ReadFile(filepath.Join(r.dir, c.Filename))
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features)).CompileModule(ctx, wasm); err == nil {
		return // wazero takes it as it stands
	}
	rewritten, err := metered(wasm)
	if err != nil {
		return
	}
	if _, err := r.runtime.CompileModule(ctx, rewritten); err == nil {
		r.t.Errorf("%s: %s is valid once it is metered: %s", at, c.Filename, c.Text)
	}
}

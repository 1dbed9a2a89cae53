package contract

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger/contract/meter"
)

// An Engine compiles and runs contracts. It is safe for concurrent use.
type Engine struct{ runtime wazero.Runtime }

// features are those of WebAssembly 2.0 but vectors: their NaNs have no one form.
const features = api.CoreFeaturesV2 &^ api.CoreFeatureSIMD

// NewEngine returns an engine. Close frees what it compiled.
func NewEngine(ctx context.Context) (*Engine, error) {
	e := &Engine{wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCoreFeatures(features))}
	for module, functions := range modules {
		b := e.runtime.NewHostModuleBuilder(module)
		for name, f := range functions {
			b = b.NewFunctionBuilder().WithGoModuleFunction(f.guarded(), f.params, f.results).Export(name)
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return nil, fmt.Errorf("host functions of %s: %w", module, err)
		}
	}
	return e, nil
}

// Close frees all code. No call may be under way.
func (e *Engine) Close(ctx context.Context) error { return e.runtime.Close(ctx) }

// Bounds are what members let a contract have.
type Bounds struct {
	Gas   int64  // of a call
	Pages uint32 // of memory, of 64 KiB
}

// The most that bounds may be.
const (
	MaxGas   = 10_000_000_000
	MaxPages = 1024 // 64 MiB
	startGas = 2_000_000_000
)

// Code is a contract that is ready to be called.
type Code struct {
	engine   *Engine
	bounds   Bounds
	compiled wazero.CompiledModule
	mutable  int
	methods  []string
	pristine []byte // memory as it is before each call

	mu   sync.Mutex
	idle []*instance
}

// maxIdle is how many instances of a contract are kept.
const maxIdle = 16

// Load reads, checks and compiles a contract, and runs what it does when it starts. It refuses
// (contract-unfit) what is no contract of ours: other imports, no method, too large, or with
// effects that would outlast a call.
func (e *Engine) Load(ctx context.Context, wasm []byte, b Bounds) (*Code, error) {
	if b.Gas < 1 || b.Gas > MaxGas || b.Pages < 1 || b.Pages > MaxPages {
		return nil, unfit(fmt.Sprintf("gas of 1 to %d, and 1 to %d pages", int64(MaxGas), MaxPages), fmt.Sprintf("%d and %d", b.Gas, b.Pages))
	}
	m, err := meter.Read(wasm)
	if err != nil {
		return nil, err
	}
	c := &Code{engine: e, bounds: b, mutable: m.Mutable}
	if err := c.check(m); err != nil {
		return nil, err
	}
	rewritten, err := m.Rewrite(meter.Bounds{Pages: b.Pages, Start: startGas})
	if err != nil {
		return nil, err
	}
	if c.compiled, err = e.runtime.CompileModule(ctx, rewritten); err != nil {
		return nil, &keystead.FormatError{Format: "wasm", Field: "whole", Problem: err.Error()}
	}
	i, err := c.instance(ctx)
	if err != nil {
		_ = c.compiled.Close(ctx)
		return nil, err
	}
	c.pristine = slices.Clone(i.bytes())
	c.put(ctx, i)
	return c, nil
}

// initialize is what a module of WASI exports that is no command (WASI preview 1, reactor).
const initialize = "_initialize"

// check holds imports to the host functions, and finds the methods.
func (c *Code) check(m *meter.Module) error {
	for _, i := range m.Imports {
		f, ok := modules[i.Module][i.Name]
		if !ok {
			return unfit("imports that a contract has (docs/spec/contract.md)", i.Module+"."+i.Name)
		}
		if want := f.text(); want != i.Type() {
			return unfit("import "+i.Module+"."+i.Name+" of type "+want, i.Type())
		}
	}
	memory := false
	for _, x := range m.Exports {
		switch {
		case x.Kind == meter.KindMemory && x.Name == "memory":
			memory = true
		case x.Kind == meter.KindFunction && x.Name == "_start":
			return unfit("a library (in Go: -buildmode=c-shared)", "a command, which ends when it has run")
		case x.Kind == meter.KindFunction && x.Type == "->" && x.Name != initialize && ValidMethod(x.Name):
			c.methods = append(c.methods, x.Name)
		}
	}
	switch {
	case !memory:
		return unfit("memory that is exported as \"memory\"", "none")
	case len(c.methods) == 0:
		return unfit("an exported function without parameters and results, for each method", "none")
	}
	slices.Sort(c.methods)
	return nil
}

// Methods are the names of the code's methods, ascending.
func (c *Code) Methods() []string { return slices.Clone(c.methods) }

// ValidMethod reports whether a method may be named so: 1 to 64 of a-z, 0-9 and _.
func ValidMethod(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '_' {
		return false
	}
	for _, r := range s {
		if !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '_') {
			return false
		}
	}
	return true
}

func unfit(want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonContractUnfit, Where: "contract", Want: want, Got: got})
}

// instance is code with a memory.
type instance struct {
	module           api.Module
	gas, depth, over api.MutableGlobal
	globals          []api.MutableGlobal
	values           []uint64 // of globals, before a call
}

// instance makes one, and has it start.
func (c *Code) instance(ctx context.Context) (*instance, error) {
	r := &run{clock: 1, random: newStream([32]byte{}), left: startGas}
	ctx = context.WithValue(ctx, runKey{}, r)
	module, err := c.engine.runtime.InstantiateModule(ctx, c.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, unfit("code that starts", err.Error())
	}
	i := &instance{module: module}
	global := func(name string) api.MutableGlobal { g, _ := module.ExportedGlobal(name).(api.MutableGlobal); return g }
	i.gas, i.depth, i.over = global(meter.Gas), global(meter.Depth), global(meter.Over)
	r.on = i
	if start := module.ExportedFunction(initialize); start != nil {
		if _, err := start.Call(ctx); err != nil {
			_ = module.Close(ctx)
			return nil, unfit("code that starts within its bounds", r.outcome(err, "start").Error())
		}
	}
	for n := range c.mutable {
		g := global(meter.Global(n))
		i.globals, i.values = append(i.globals, g), append(i.values, g.Get())
	}
	return i, nil
}

// bytes is the instance's memory.
func (i *instance) bytes() []byte {
	m := i.module.ExportedMemory("memory")
	b, _ := m.Read(0, m.Size())
	return b
}

// take returns an instance as it was when it had started.
func (c *Code) take(ctx context.Context) (*instance, error) {
	c.mu.Lock()
	var i *instance
	if n := len(c.idle); n > 0 {
		i, c.idle = c.idle[n-1], c.idle[:n-1]
	}
	c.mu.Unlock()
	if i == nil {
		return c.instance(ctx)
	}
	copy(i.bytes(), c.pristine)
	for n, g := range i.globals {
		g.Set(i.values[n])
	}
	return i, nil
}

// put gives an instance back. Memory that grew does not shrink: such an instance is closed.
func (c *Code) put(ctx context.Context, i *instance) {
	if len(i.bytes()) == len(c.pristine) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.idle) < maxIdle {
			c.idle = append(c.idle, i)
			return
		}
	}
	_ = i.module.Close(ctx)
}

// Close frees the code. No call may be under way.
func (c *Code) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.idle {
		_ = i.module.Close(ctx)
	}
	c.idle = nil
	return c.compiled.Close(ctx)
}

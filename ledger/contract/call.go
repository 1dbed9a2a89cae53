package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger/contract/meter"
)

// Bounds of what a call takes and leaves, in bytes or items.
const (
	MaxInput  = 64 << 10
	MaxOutput = 64 << 10
	MaxKey    = 256
	MaxValue  = 64 << 10
	MaxWrites = 1024
	MaxWrote  = 256 << 10 // keys and values
	MaxEvents = 64
	MaxEvent  = 4 << 10
	MaxLog    = 8 << 10
	maxScan   = 1024 // items
)

// A State is the contract's own part of the ledger, at one moment. Keys are without the
// contract's name.
type State interface {
	// Get returns a key's value; nil and false if there is none.
	Get(key []byte) (value []byte, ok bool, err error)
	// Scan calls each with the pairs from a key on and before another, ascending, until it
	// returns false. An empty end is that of all keys.
	Scan(from, to []byte, each func(key, value []byte) bool) error
}

// A Call is what is executed.
type Call struct {
	Method string
	Input  []byte
	Caller Caller
	Clock  uint64   // of the domain, Unix milliseconds
	Seed   [32]byte // of random values
	Gas    int64    // at most; 0: as much as the contract may have
}

// A Caller is who calls, as the nodes know it.
type Caller struct {
	Kind  string   // member, user, host, node, app or anyone
	Name  string   // empty of anyone
	Roles []string // ascending
}

// encode writes it for the guest: kind, name and roles, a line each.
func (c *Caller) encode() []byte {
	return []byte(strings.Join(append([]string{c.Kind, c.Name}, c.Roles...), "\n"))
}

// A Write is what a call does to a key.
type Write struct {
	Key    []byte
	Value  []byte // nil where Delete
	Delete bool
}

// An Event is what a call tells whoever listens.
type Event struct{ Topic, Data []byte }

// A Result is what a call came to.
type Result struct {
	Output []byte
	Writes []Write // ascending by key, each once
	Events []Event
	Gas    int64    // that was used
	Log    []string // for people, of no effect
}

// Call executes a call on a state. It refuses with contract-unknown for a method that there is
// not, contract-refused where the contract itself refuses, gas-exhausted, memory-exceeded, and
// contract-trapped for all other ends; nothing is written then, and Gas is what it took until
// there. Any other error is the state's, and says nothing of the call.
func (c *Code) Call(ctx context.Context, call *Call, st State) (Result, error) {
	if _, found := slices.BinarySearch(c.methods, call.Method); !found {
		return Result{}, deny(keystead.ReasonContractUnknown, "method", strings.Join(c.methods, ", "), fmt.Sprintf("%.80q", call.Method))
	}
	if len(call.Input) > MaxInput {
		return Result{}, deny(keystead.ReasonMemoryExceeded, "call of "+call.Method, fmt.Sprintf("input of at most %d bytes", MaxInput), fmt.Sprint(len(call.Input)))
	}
	gas := c.bounds.Gas
	if call.Gas > 0 && call.Gas < gas {
		gas = call.Gas
	}
	i, err := c.take(ctx)
	if err != nil {
		return Result{}, err
	}
	r := &run{on: i, state: st, call: call, clock: call.Clock, caller: call.Caller.encode(), random: newStream(call.Seed), left: gas, overlay: map[string]Write{}}
	i.gas.Set(uint64(gas))
	i.depth.Set(0)
	i.over.Set(0)
	_, err = i.module.ExportedFunction(call.Method).Call(context.WithValue(ctx, runKey{}, r))
	used := gas - max(0, int64(i.gas.Get()))
	if err != nil {
		err = r.outcome(err, call.Method)
		_ = i.module.Close(ctx) // what trapped is not used again
		return Result{Gas: used, Log: r.log}, err
	}
	c.put(ctx, i)
	return Result{Output: r.output, Writes: r.writes(), Events: r.events, Gas: used, Log: r.log}, nil
}

func deny(reason keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: reason, Where: where, Want: want, Got: got})
}

// run is a call under way.
type run struct {
	on     *instance
	state  State
	call   *Call // nil while code starts
	clock  uint64
	caller []byte
	random *stream
	left   int64 // gas at the beginning

	result  []byte // of the last host function that has one
	output  []byte
	overlay map[string]Write
	wrote   int
	events  []Event
	log     []string
	logged  int
	refused error // by the contract, or for a bound of ours
	failed  error // of the state
}

type runKey struct{}

// outcome says why a call ended early.
func (r *run) outcome(err error, method string) error {
	where := "call of " + method
	switch {
	case r.failed != nil:
		return r.failed
	case r.refused != nil:
		return r.refused
	case r.on == nil:
		return err
	case int64(r.on.gas.Get()) < 0:
		return deny(keystead.ReasonGasExhausted, where, fmt.Sprintf("at most %d gas", r.left), "more")
	case r.on.over.Get() != 0:
		return deny(keystead.ReasonMemoryExceeded, where, "memory within the contract's pages", "more")
	case r.on.depth.Get() > meter.MaxDepth:
		return deny(keystead.ReasonContractTrapped, where, "calls within calls to a depth of 1,048,576 slots", "a deeper one")
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return deny(keystead.ReasonContractTrapped, where, "an end", text)
}

// errStopped ends a call from within a host function.
var errStopped = errors.New("errStopped by the host")

// use takes gas for a host function.
func (r *run) use(gas int64) {
	left := int64(r.on.gas.Get()) - gas
	r.on.gas.Set(uint64(left))
	if left < 0 {
		panic(errStopped)
	}
}

// refuse ends the call for a reason.
func (r *run) refuse(reason keystead.Reason, want, got string) {
	method := "start"
	if r.call != nil {
		method = r.call.Method
	}
	r.refused = deny(reason, "call of "+method, want, got)
	panic(errStopped)
}

// fail ends the call because the state does.
func (r *run) fail(err error) {
	if err != nil {
		r.failed = err
		panic(errStopped)
	}
}

// get reads through what the call wrote.
func (r *run) get(key []byte) ([]byte, bool) {
	if w, ok := r.overlay[string(key)]; ok {
		return w.Value, !w.Delete
	}
	value, ok, err := r.state.Get(key)
	r.fail(err)
	return value, ok
}

// write takes a write into account.
func (r *run) write(w Write) {
	if len(w.Key) == 0 || len(w.Key) > MaxKey || len(w.Value) > MaxValue {
		r.refuse(keystead.ReasonMemoryExceeded, fmt.Sprintf("keys of 1 to %d bytes, values of at most %d", MaxKey, MaxValue), fmt.Sprintf("%d and %d", len(w.Key), len(w.Value)))
	}
	old, again := r.overlay[string(w.Key)]
	if again {
		r.wrote -= len(old.Key) + len(old.Value)
	}
	r.wrote += len(w.Key) + len(w.Value)
	r.overlay[string(w.Key)] = w
	if len(r.overlay) > MaxWrites || r.wrote > MaxWrote {
		r.refuse(keystead.ReasonMemoryExceeded, fmt.Sprintf("at most %d writes of %d bytes", MaxWrites, MaxWrote), "more")
	}
}

// writes are what the call did to keys, in order.
func (r *run) writes() (out []Write) {
	for _, w := range r.overlay {
		out = append(out, w)
	}
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i].Key, out[j].Key) < 0 })
	return out
}

// scan returns pairs of the state with what the call wrote, at most so many.
func (r *run) scan(from, to []byte, limit int) (out []Write) {
	var own []Write
	for _, w := range r.writes() {
		if bytes.Compare(w.Key, from) >= 0 && (len(to) == 0 || bytes.Compare(w.Key, to) < 0) {
			own = append(own, w)
		}
	}
	add := func(w Write) bool {
		if !w.Delete {
			r.use(int64(20 + (len(w.Key)+len(w.Value))/8))
			out = append(out, w)
		}
		return len(out) < limit
	}
	more := true
	err := r.state.Scan(from, to, func(key, value []byte) bool {
		for more && len(own) > 0 && bytes.Compare(own[0].Key, key) < 0 {
			more, own = add(own[0]), own[1:]
		}
		if !more {
			return false
		}
		if len(own) > 0 && bytes.Equal(own[0].Key, key) {
			more, own = add(own[0]), own[1:]
			return more
		}
		r.use(20)
		more = add(Write{Key: bytes.Clone(key), Value: bytes.Clone(value)})
		return more
	})
	r.fail(err)
	for more && len(own) > 0 {
		more, own = add(own[0]), own[1:]
	}
	return out
}

package replica

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// A StateMachine is what the replicas keep equal. Apply runs on one goroutine and
// must be a pure function of the state and the commands: every node runs it.
type StateMachine interface {
	// Open reads what the machine keeps in memory from the state as it stands at
	// an applied index. It is called before the first Apply and again whenever a
	// snapshot has replaced the state.
	Open(state View, applied uint64) error

	// Apply runs the commands in order, writes their effects to w, and appends one
	// result for each to results. A command that is refused has a result that says
	// so; an error means that this node cannot go on, and stops it. Commands and
	// their bytes are valid until Apply returns.
	Apply(w *Batch, commands []Command, results [][]byte) ([][]byte, error)

	// Position reports whether a command is a position: a place in the log at which
	// members compare their states. It is a function of the command alone.
	Position(command []byte) bool
}

// A Command is one committed proposal. Index and Offset order all commands of a
// domain, and are the same on every node.
type Command struct {
	Index, Term uint64 // of the log entry that carries it
	Offset      int    // its place in that entry
	Data        []byte
}

// A View reads the state machine's part of the store.
type View struct{ r pebble.Reader }

// Get returns a copy of the value, and whether there is one.
func (v View) Get(key []byte) ([]byte, bool, error) { return get(v.r, stateKey(key)) }

// Scan calls yield with each key in [from, to) in order until it returns false. A
// nil to means the end. Key and value are valid during the call only.
func (v View) Scan(from, to []byte, yield func(key, value []byte) bool) error {
	upper := []byte{prefixState + 1}
	if to != nil {
		upper = stateKey(to)
	}
	it, err := v.r.NewIter(&pebble.IterOptions{LowerBound: stateKey(from), UpperBound: upper})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if !yield(it.Key()[1:], it.Value()) {
			break
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// A Batch takes the effects of commands. They reach the store together with the
// applied index, all or none. Its View sees the state before the batch.
type Batch struct {
	View
	b *pebble.Batch
}

// Set writes a key of the state machine.
func (w *Batch) Set(key, value []byte) {
	d := w.b.SetDeferred(1+len(key), len(value))
	d.Key[0] = prefixState
	copy(d.Key[1:], key)
	copy(d.Value, value)
	finish(d)
}

// Delete removes a key of the state machine, if it is there.
func (w *Batch) Delete(key []byte) {
	d := w.b.DeleteDeferred(1 + len(key))
	d.Key[0] = prefixState
	copy(d.Key[1:], key)
	finish(d)
}

// finish ends a deferred operation, which fails only on a batch already in use.
func finish(d *pebble.DeferredBatchOp) {
	if err := d.Finish(); err != nil {
		panic(err)
	}
}

func stateKey(key []byte) []byte {
	return append(append(make([]byte, 0, 1+len(key)), prefixState), key...)
}

func get(r pebble.Reader, key []byte) ([]byte, bool, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	out := append([]byte(nil), v...)
	return out, true, closer.Close()
}

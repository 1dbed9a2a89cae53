package node

import (
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// machine makes a ledger the state machine of a replica, and tells what happened.
type machine struct {
	domain keystead.Digest
	heard  func(heard)             // after each Apply, on its goroutine; must not block
	opened func(ledger.View) error // with the state as it is opened; may be nil
	sees   map[receipt.Kind]bool   // kinds of entries that parts are told of

	mu       sync.Mutex // guards what follows between Apply and those who ask it
	m        *ledger.Machine
	replaced bool // the state, since the last batch
}

// heard is what this node's own tasks want to know of applied entries.
type heard struct {
	voted     *receipt.TreeHead // the newest head that a node signed
	judged    [][]byte          // proposals, endorsements, effective entries that were not refused
	effects   []effect          // of the effective ones
	roster    bool              // changed
	agreement bool              // something that rounds are made of
	ticked    bool
	size      uint64
	clock     uint64
	alarms    []ledger.Alarm
	completed bool // a checkpoint
	positions bool // one came, or a digest of one
	replaced  bool // the state, since the batch before
	applied   []part.Applied
}

// Open implements replica.StateMachine.
func (x *machine) Open(state replica.View, _ uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var err error
	x.replaced = x.m != nil
	if x.m, err = ledger.Open(state, x.domain); err != nil {
		return err
	}
	if x.opened == nil {
		return nil
	}
	return x.opened(ledger.NewView(state))
}

// writer adds the errors that replica.Batch has no need for.
type writer struct{ b *replica.Batch }

func (w writer) Set(k, v []byte) error { w.b.Set(k, v); return nil }
func (w writer) Delete(k []byte) error { w.b.Delete(k); return nil }

// Apply implements replica.StateMachine.
func (x *machine) Apply(w *replica.Batch, commands []replica.Command, results [][]byte) ([][]byte, error) {
	entries := make([]ledger.Committed, len(commands))
	for i := range commands {
		entries[i] = ledger.Committed(commands[i])
	}
	x.mu.Lock()
	a, err := x.m.Apply(entries, writer{w})
	h := heard{replaced: x.replaced, size: x.m.Size(), clock: x.m.Clock(), alarms: a.Alarms, voted: a.Voted, completed: a.Checkpoint != nil}
	x.replaced = false
	x.mu.Unlock()
	if err != nil {
		return results, err
	}
	arena := make([]byte, 0, 64*len(a.Results)) // most take 50 bytes; more grow another
	for i := range a.Results {
		r := &a.Results[i]
		from := len(arena)
		arena = r.Append(arena)
		results = append(results, arena[from:len(arena):len(arena)])
		if r.Err == nil {
			h.note(r.Kind, commands[i].Data)
			h.effect(r, commands[i].Data)
			if x.sees[r.Kind] {
				h.applied = append(h.applied, part.Applied{Kind: r.Kind, Leaf: r.Leaf, Entry: commands[i].Data})
			}
		}
	}
	x.heard(h)
	return results, nil
}

// Position implements replica.StateMachine.
func (x *machine) Position(command []byte) bool { return ledger.IsPosition(command) }

func (h *heard) note(kind receipt.Kind, entry []byte) {
	switch kind {
	case receipt.KindProposal, receipt.KindEndorsement, receipt.KindEffective:
		h.judged = append(h.judged, append([]byte(nil), entry...))
		h.agreement = h.agreement || kind == receipt.KindEffective
	case receipt.KindTransaction:
		h.agreement = h.agreement || string(ledger.ContractOf(entry)) == keyring.Contract
	case receipt.KindGenesis, receipt.KindRoster:
		h.roster, h.agreement = true, true
	case receipt.KindTick:
		h.ticked = true
	case receipt.KindPosition:
		h.positions = true
	}
}

// entryVersion returns the version up to which entries count.
func (x *machine) entryVersion() uint8 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		return 0 // not opened yet
	}
	return x.m.EntryVersion()
}

// size returns the number of leaves in the tree.
func (x *machine) size() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.Size()
}

// reached returns the tree at a size; false if it has not grown so far.
func (x *machine) reached(size uint64) (receipt.TreeHead, bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if size == 0 || size > x.m.Size() {
		return receipt.TreeHead{}, false, nil
	}
	h, err := x.m.Head(size)
	return h, true, err
}

// roster returns the roster in force, its sequence, and the domain clock.
func (x *machine) roster() (receipt.Roster, uint64, uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		return receipt.Roster{}, 0, 0 // not opened yet
	}
	r, sequence := x.m.Roster()
	return r, sequence, x.m.Clock()
}

// signs reports whether the roster in force is the one that signs a head.
func (x *machine) signs(h receipt.TreeHead) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, sequence := x.m.Roster()
	return sequence == h.Roster
}

// lastTick returns the time of a node's last tick in the log.
func (x *machine) lastTick(node string) uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.LastTick(node)
}

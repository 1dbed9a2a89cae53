package daemon

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// machine makes a ledger the state machine of a replica, and tells what happened.
type machine struct {
	domain keystead.Digest
	heard  func(heard) // after each Apply, on its goroutine; must not block

	mu sync.Mutex // guards m between Apply and those who ask it
	m  *ledger.Machine
}

// heard is what this node's own tasks want to know of applied entries.
type heard struct {
	votes     []ledger.Vote
	judged    [][]byte // proposals, endorsements, effective entries that were not refused
	roster    bool     // changed
	ticked    bool
	size      uint64
	clock     uint64
	alarms    []ledger.Alarm
	completed bool // a checkpoint
}

// Open implements replica.StateMachine.
func (x *machine) Open(state replica.View, _ uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var err error
	x.m, err = ledger.Open(state, x.domain)
	return err
}

// position orders the commands of the log as the ledger wants it: one number each.
// A log entry has at most 65,536 commands.
func position(c *replica.Command) uint64 { return c.Index<<16 | uint64(c.Offset) }

// writer adds the errors that replica.Batch has no need for.
type writer struct{ b *replica.Batch }

func (w writer) Set(k, v []byte) error { w.b.Set(k, v); return nil }
func (w writer) Delete(k []byte) error { w.b.Delete(k); return nil }

// Apply implements replica.StateMachine.
func (x *machine) Apply(w *replica.Batch, commands []replica.Command, results [][]byte) ([][]byte, error) {
	entries := make([]ledger.Committed, len(commands))
	for i := range commands {
		entries[i] = ledger.Committed{Index: position(&commands[i]), Term: commands[i].Term, Data: commands[i].Data}
	}
	x.mu.Lock()
	a, err := x.m.Apply(entries, writer{w})
	h := heard{size: x.m.Size(), clock: x.m.Clock(), alarms: a.Alarms, completed: a.Checkpoint != nil}
	x.mu.Unlock()
	if err != nil {
		return results, err
	}
	arena := make([]byte, 0, resultSize*len(a.Results))
	for i := range a.Results {
		r := &a.Results[i]
		arena = appendResult(arena, r)
		n := len(arena)
		results = append(results, arena[:n:n])
		arena = arena[n:]
		if r.Err == nil {
			h.note(r.Kind, commands[i].Data)
		}
	}
	x.heard(h)
	return results, nil
}

func (h *heard) note(kind receipt.Kind, entry []byte) {
	switch kind {
	case receipt.KindCheckpoint:
		if v, err := ledger.ParseVote(entry); err == nil {
			h.votes = append(h.votes, v)
		}
	case receipt.KindProposal, receipt.KindEndorsement, receipt.KindEffective:
		h.judged = append(h.judged, append([]byte(nil), entry...))
	case receipt.KindGenesis, receipt.KindRoster:
		h.roster = true
	case receipt.KindTick:
		h.ticked = true
	}
}

// head returns what a node signs of the tree as it is now; false for an empty one.
func (x *machine) head() (receipt.TreeHead, bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m.Size() == 0 {
		return receipt.TreeHead{}, false, nil
	}
	h, err := x.m.Head(x.m.Size())
	return h, true, err
}

// headAt returns what a node signs of the tree at a size.
func (x *machine) headAt(size uint64) (receipt.TreeHead, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.Head(size)
}

// roster returns the roster in force, its sequence, and the domain clock.
func (x *machine) roster() (receipt.Roster, uint64, uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, sequence := x.m.Roster()
	return r, sequence, x.m.Clock()
}

// A result travels from Apply to whoever proposed: what (1), leaf (8), transaction
// id (32); or for a refusal what (1) and its findings in JSON.
const (
	resultNone     = 0 // took effect, and is no leaf
	resultRecorded = 1
	resultRepeated = 2 // the same request is that leaf already; no id
	resultRefused  = 3
	resultSize     = 1 + 8 + 32
)

type result struct {
	what byte
	leaf uint64
	id   keystead.Digest
}

func appendResult(b []byte, r *ledger.Result) []byte {
	what := byte(resultNone)
	switch {
	case r.Err != nil:
		deny := refusal.Deny(r.Err)
		if deny == nil {
			deny = keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Got: r.Err.Error(), Where: "entry"})
		}
		j, _ := json.Marshal(deny.Findings) // strings always encode
		return append(append(b, resultRefused), j...)
	case r.Recorded:
		what = resultRecorded
	case r.Repeated:
		what = resultRepeated
	}
	b = binary.BigEndian.AppendUint64(append(b, what), r.Leaf)
	return append(b, r.ID[:]...)
}

// parseResult returns what became of a proposed entry, or its refusal.
func parseResult(b []byte) (result, error) {
	if len(b) > 0 && b[0] == resultRefused {
		var findings []keystead.Finding
		if err := json.Unmarshal(b[1:], &findings); err != nil || len(findings) == 0 {
			return result{}, errors.New("daemon: a refusal without findings")
		}
		return result{}, keystead.Deny(findings...)
	}
	if len(b) != resultSize {
		return result{}, errors.New("daemon: a result of another size")
	}
	return result{b[0], binary.BigEndian.Uint64(b[1:]), keystead.Digest(b[9:])}, nil
}

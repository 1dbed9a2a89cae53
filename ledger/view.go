package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/receipt"
)

// View reads the state that a store holds. Beside a running [Machine] it sees a
// state between two batches; it is as safe for concurrent use as its Reader is.
type View struct{ r Reader }

// NewView returns a view of the store.
func NewView(r Reader) View { return View{r} }

// Value is what a key holds. Its version is the leaf, plus one, of the transaction or
// effective entry that wrote it; 0 for an absent key.
type Value = admit.Value

// Get returns what a contract's key holds, such as "kv/colour".
func (v View) Get(key string) (Value, error) { return v.value(spaceContract, key) }

// Judged returns what a judged key holds, such as "setting/lease-seconds".
func (v View) Judged(key string) (Value, error) { return v.value(spaceJudged, key) }

// Subject returns the version of a judged subject: the Base of the next proposal on it.
func (v View) Subject(kind, subject string) (uint64, error) {
	x, err := v.value(spaceSubject, string(subjectKey(kind, subject)))
	return x.Version, err
}

func (v View) value(space byte, key string) (Value, error) {
	b, found, err := v.r.Get(nameKey(space, key))
	if err != nil || !found {
		return Value{}, err
	}
	return v.resolve(b)
}

// resolve returns the value of a key's record.
func (v View) resolve(b []byte) (Value, error) {
	s, err := parseStored(b)
	if err != nil || !s.inEntry {
		return Value{Version: s.version, Data: bytes.Clone(s.inline)}, err
	}
	entry, found, err := v.r.Get(numberKey(spaceEntry, s.version-1))
	if err != nil {
		return Value{}, err
	}
	end := uint64(s.at) + uint64(s.size)
	if !found || end > uint64(len(entry)) {
		return Value{}, &keystead.FormatError{Format: "value", Field: "offset", Problem: fmt.Sprintf("is of %d bytes at %d of leaf %d, which has %d", s.size, s.at, s.version-1, len(entry))}
	}
	data := bytes.Clone(entry[s.at:end])
	if err := v.checkLeaf(s.version-1, receipt.LeafHash(entry)); err != nil {
		return Value{}, err
	}
	return Value{Version: s.version, Data: data}, nil
}

// Keys visits the keys of a contract that start with prefix, in order.
func (v View) Keys(prefix string, visit func(key string, value Value) bool) error {
	return v.keys(spaceContract, prefix, "", visit)
}

func (v View) keys(space byte, prefix, after string, visit func(key string, value Value) bool) error {
	within := nameKey(space, prefix)
	from := within
	if after >= prefix {
		from = append(nameKey(space, after), 0)
	}
	var failed error
	err := v.r.Scan(from, []byte{space + 1}, func(k, b []byte) bool {
		if !bytes.HasPrefix(k, within) {
			return false
		}
		value, err := v.resolve(b)
		failed = err
		return err == nil && visit(string(k[1:]), value)
	})
	if err == nil {
		err = failed
	}
	return err
}

// Status is where a domain stands.
type Status struct {
	Domain  keystead.Digest
	Applied uint64 // log index
	Size    uint64 // leaves
	Clock   uint64 // Unix milliseconds
	Alarms  uint64
}

// Status returns where the domain stands; a zero Status before the genesis entry.
func (v View) Status() (Status, error) {
	b, found, err := v.r.Get([]byte{spaceHead})
	if err != nil || !found {
		return Status{}, err
	}
	h, err := decodeHead(b)
	return Status{h.domain, h.applied, h.size, h.clock, h.alarms}, err
}

// Entry returns the entry that is a leaf of the tree. It refuses with store-corrupt if the
// store has another there than the tree.
func (v View) Entry(leaf uint64) ([]byte, error) {
	b, err := v.unchecked(leaf)
	if err == nil {
		err = v.checkLeaf(leaf, receipt.LeafHash(b))
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// unchecked returns an entry as the store has it.
func (v View) unchecked(leaf uint64) ([]byte, error) {
	b, found, err := v.r.Get(numberKey(spaceEntry, leaf))
	if err == nil && !found {
		err = fmt.Errorf("the tree has no leaf %d", leaf)
	}
	return bytes.Clone(b), err
}

// Alarms returns all alarms, oldest first.
func (v View) Alarms() (out []Alarm, err error) {
	err = scan(v.r, []byte{spaceAlarm}, []byte{spaceAlarm + 1}, func(k string, b []byte) error {
		a, err := decodeAlarm(binary.BigEndian.Uint64([]byte(k)), b)
		out = append(out, a)
		return err
	})
	return out, err
}

// Checkpoint returns the last checkpoint that a majority signed, as a signed
// note; nil before the first.
func (v View) Checkpoint() ([]byte, error) {
	b, _, err := v.r.Get([]byte{spaceLatest})
	return bytes.Clone(b), err
}

// Chain returns the genesis entry and the roster entries up to sequence.
func (v View) Chain(sequence uint64) (chain [][]byte, err error) {
	for i := range sequence + 1 {
		e, _, err := v.Roster(i)
		if err != nil {
			return nil, err
		}
		chain = append(chain, e)
	}
	return chain, nil
}

// Rosters returns the genesis entry and all roster entries.
func (v View) Rosters() (chain [][]byte, err error) {
	last := uint64(0)
	err = scan(v.r, []byte{spaceRoster}, []byte{spaceRoster + 1}, func(k string, _ []byte) error {
		last = binary.BigEndian.Uint64([]byte(k))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return v.Chain(last)
}

// Roster returns the entry that put the roster of a sequence into force, and its leaf.
func (v View) Roster(sequence uint64) (entry []byte, leaf uint64, err error) {
	b, found, err := v.r.Get(numberKey(spaceRoster, sequence))
	if err != nil || !found || len(b) != 8 {
		return nil, 0, fmt.Errorf("roster %d: found %v: %w", sequence, found, err)
	}
	leaf = binary.BigEndian.Uint64(b)
	entry, err = v.Entry(leaf)
	return entry, leaf, err
}

package ima

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"errors"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// A State is where the replay of a list stood at the end of its proven prefix, so that
// what follows can be replayed by itself. It is made by List.State alone, of entries
// that a quote covers. It is a value that does not change, and keeps no bytes of the list.
type State struct {
	pcr   int
	banks []bank // without the values wanted
	bytes uint64
	lines uint64 // entries of all registers
	len   int    // of the register
	hash  []byte // SHA-256 over the bytes so far, to be gone on with
}

// State returns where the replay of the list stood, for Resume. There is none where a
// bank's value came of padded SHA-1 digests alone.
func (l *List) State() (State, bool) {
	if len(l.banks) != len(l.at) {
		return State{}, false
	}
	h := sha256.New()
	if l.before != nil {
		if h.(encoding.BinaryUnmarshaler).UnmarshalBinary(l.before.hash) != nil {
			return State{}, false
		}
	}
	h.Write(l.raw[:l.covered])
	hash, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	s := State{pcr: l.pcr, banks: l.at, bytes: uint64(l.covered), lines: uint64(l.lines), len: l.len, hash: hash}
	if l.before != nil {
		s.bytes, s.lines = s.bytes+l.before.bytes, s.lines+l.before.lines
	}
	return s, err == nil
}

// IsZero reports whether nothing was replayed.
func (s *State) IsZero() bool { return s.bytes == 0 }

// Bytes is how much of the list was replayed.
func (s *State) Bytes() uint64 { return s.bytes }

// Entries is the number of entries so far, of all registers.
func (s *State) Entries() uint64 { return s.lines }

// Digest returns the SHA-256 of the bytes so far.
func (s *State) Digest() (d keystead.Digest) {
	h := sha256.New()
	if h.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.hash) != nil {
		return d
	}
	h.Sum(d[:0])
	return d
}

// Resume opens a list of which the beginning was replayed before and only the suffix is
// here: it finds the shortest prefix of the suffix that leads from there to the quoted
// values. It comes to what Open comes to of the whole list, or to an error that says
// that the whole list is needed; whatever is wrong with the suffix, Open has words for it.
// All of the list returned yields the suffix's entries alone, with the whole list's
// numbers, and CheckBootAggregate is not for it.
func Resume(from State, suffix []byte, quoted []evidence.PCRs) (*List, error) {
	if from.IsZero() {
		return nil, errors.New("nothing was replayed before")
	}
	if from.bytes+uint64(len(suffix)) > evidence.MaxIMALog {
		return nil, errors.New("the list is longer than is accepted")
	}
	r := replay{raw: suffix, pcr: from.pcr, banks: make([]bank, len(from.banks))}
	copy(r.banks, from.banks)
	if err := r.expect(quoted); err != nil {
		return nil, err
	}
	l := &List{raw: suffix, pcr: from.pcr, len: from.len, before: &from, rest: int(from.lines) - from.len}
	c := cursor.New(format, binary.LittleEndian, suffix)
	var rec record
	reached := r.reached()
	for c.Len() > 0 {
		if rec.next(c) != nil {
			break
		}
		if !reached {
			l.lines++
		}
		if reached || rec.pcr != l.pcr {
			l.rest++
			continue
		}
		l.len++
		if reached = r.extend(&rec); reached {
			l.covered = c.Offset()
		}
	}
	if c.Err() != nil && !c.Short() {
		return nil, c.Err()
	}
	if !reached {
		return nil, errors.New("the entries do not lead from what was replayed to the quote")
	}
	for i := range r.banks {
		if !r.banks[i].state.Is(r.banks[i].want) {
			return nil, errors.New("the banks disagree")
		}
		l.banks = append(l.banks, r.banks[i].id)
	}
	l.at = r.at()
	return l, nil
}

// expect sets the values to reach: in the same banks as before, and no others.
func (r *replay) expect(quoted []evidence.PCRs) error {
	n := 0
	for _, p := range quoted {
		if p.Value[r.pcr] == nil {
			continue
		}
		found := false
		for i := range r.banks {
			if b := &r.banks[i]; b.id == p.Bank && len(p.Value[r.pcr]) == p.Bank.Size() {
				b.want, found = p.Value[r.pcr], true
				n++
			}
		}
		if !found {
			return errors.New("another bank is quoted than before")
		}
	}
	if n != len(r.banks) {
		return errors.New("fewer banks are quoted than before")
	}
	return nil
}

func (r *replay) reached() bool { return r.banks[0].state.Is(r.banks[0].want) }

// at returns where the chains stand, apart from the quote's bytes.
func (r *replay) at() []bank {
	out := make([]bank, len(r.banks))
	for i, b := range r.banks {
		out[i] = bank{id: b.id, state: b.state}
	}
	return out
}

package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// load reads back what the machine keeps in memory. Everything comes from the
// store, so a machine that was opened anew goes on exactly like one that was not.
func (m *Machine) load() (err error) {
	if m.tree, err = openTree(m.store, m.head.size); err != nil {
		return err
	}
	if err := m.loadRosters(); err != nil {
		return err
	}
	err = m.each(spaceTick, func(k string, v []byte) error {
		mark, err := decodeMark([16]byte([]byte(k)), v)
		m.marks = append(m.marks, mark)
		return err
	})
	if err != nil {
		return err
	}
	err = m.each(spaceLast, func(k string, v []byte) error {
		c := record("last tick", v)
		m.lastTick[k] = c.U64("time")
		c.End()
		return c.Err()
	})
	if err != nil {
		return err
	}
	err = m.each(spaceCalled, func(k string, v []byte) (err error) {
		m.calls[k], err = decodeCalled(v)
		return err
	})
	if err != nil {
		return err
	}
	err = m.each(spaceProposal, func(k string, v []byte) error {
		id := keystead.Digest([]byte(k))
		p, err := decodeProposal(id, v)
		m.proposals[id] = p
		return err
	})
	if err != nil {
		return err
	}
	err = m.each(spaceVotes, func(k string, v []byte) error {
		votes, err := decodeVotes(v)
		m.votes[k] = votes
		return err
	})
	if err != nil {
		return err
	}
	b, found, err := m.store.Get([]byte{spaceLatest})
	if err != nil {
		return err
	}
	if found {
		if err := m.loadCheckpoint(b); err != nil {
			return err
		}
	}
	if err := m.loadLeases(); err != nil {
		return err
	}
	if err := m.loadVersion(); err != nil {
		return err
	}
	if err := m.loadPositions(); err != nil {
		return err
	}
	return m.loadRequests()
}

// sizes of the keys of a space, without its byte; 0 for names of any size.
var keySizes = map[byte]int{spaceTick: 16, spaceRoster: 8, spaceEntry: 8, spaceAlarm: 8, spaceProposal: 32, spacePosition: 8}

// each visits a key space; the keys come without its byte.
func (m *Machine) each(space byte, visit func(key string, value []byte) error) error {
	return scan(m.store, []byte{space}, []byte{space + 1}, visit)
}

func scan(r Reader, from, to []byte, visit func(key string, value []byte) error) error {
	var failed error
	err := r.Scan(from, to, func(k, v []byte) bool {
		if n := keySizes[k[0]]; n != 0 && len(k)-1 != n {
			failed = &keystead.FormatError{Format: "store", Field: "key", Problem: fmt.Sprintf("%x has not %d bytes after its first", k, n)}
		} else {
			failed = visit(string(k[1:]), v)
		}
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	return err
}

// loadRosters reads the rosters and verifies each by the one before, as they were when
// they were applied: the disk may have been changed since.
func (m *Machine) loadRosters() error {
	var leaves []uint64
	err := m.each(spaceRoster, func(k string, v []byte) error {
		c := record("roster record", v)
		leaves = append(leaves, c.U64("leaf"))
		c.End()
		return c.Err()
	})
	if err != nil {
		return err
	}
	for i, leaf := range leaves {
		entry, found, err := m.store.Get(numberKey(spaceEntry, leaf))
		if err != nil || !found {
			return fmt.Errorf("roster %d: entry %d: found %v: %w", i, leaf, found, err)
		}
		at := rosterAt{leaf: leaf, entry: keystead.Sum(entry)}
		if i == 0 {
			m.genesis, err = receipt.VerifyGenesis(entry, m.head.domain)
			at.Roster = m.genesis.Roster
		} else {
			last := &m.rosters[i-1]
			var c receipt.Change
			c, err = m.genesis.VerifyChange(entry, m.head.domain, uint64(i), last.entry, &last.Roster)
			at.Roster = c.Roster
		}
		if err != nil {
			return err
		}
		m.rosters = append(m.rosters, at)
	}
	if len(m.rosters) == 0 && m.head.size > 0 {
		return &keystead.FormatError{Format: "store", Field: "roster", Problem: "no roster record"}
	}
	return nil
}

// loadRequests finds the requests whose deadlines are ahead: they took effect
// after the newest tick that is a Window old.
func (m *Machine) loadRequests() error {
	from := uint64(0)
	for _, k := range m.marks {
		if k.clock+Window <= m.head.clock {
			from = k.size
		}
	}
	return scan(m.store, numberKey(spaceEntry, from), numberKey(spaceEntry, m.head.size), func(k string, entry []byte) error {
		r, is, err := requestOf(entry)
		if is && r.Deadline > m.head.clock {
			m.requests.add(r, binary.BigEndian.Uint64([]byte(k)))
		}
		return err
	})
}

// requestOf returns the request of an entry that happens once, a transaction or a call.
func requestOf(entry []byte) (r RequestID, is bool, err error) {
	kind, _, err := receipt.Split(entry)
	switch kind {
	case receipt.KindTransaction:
		t, err := parseTransaction(entry)
		return t.request, err == nil, err
	case receipt.KindCall:
		c, err := parseCall(entry)
		return c.Request, err == nil, err
	}
	return r, false, err
}

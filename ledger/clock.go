package ledger

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/keystead/keystead"
)

// applyTick sets the clock and makes the next nonce.
func (m *Machine) applyTick(e Committed, w Writer) error {
	ticks, err := ParseTicks(e.Data)
	if err != nil {
		return err
	}
	r := m.current()
	by := map[string]bool{}
	for i := range ticks {
		t := &ticks[i]
		k, err := m.signer(r, t.Node, "tick")
		switch {
		case err != nil:
			return err
		case by[t.Node] || t.Time <= m.lastTick[t.Node]:
			return deny(keystead.ReasonTickReplayed, "tick of "+t.Node, "one tick, after "+strconv.FormatUint(m.lastTick[t.Node], 10), strconv.FormatUint(t.Time, 10))
		case !k.Verify(t.message(m.head.domain), t.Signature):
			return deny(keystead.ReasonSignatureInvalid, "tick", "a signature by "+t.Node, "another")
		}
		by[t.Node] = true
	}
	if len(by) < r.Majority() {
		return deny(keystead.ReasonMajorityMissing, "tick entry", fmt.Sprintf("ticks of %d of %d nodes", r.Majority(), len(r.Nodes)), strconv.Itoa(len(by)))
	}
	for _, t := range ticks {
		m.lastTick[t.Node] = t.Time
		if err := w.Set(nameKey(spaceLast, t.Node), binary.BigEndian.AppendUint64(nil, t.Time)); err != nil {
			return fatal(err)
		}
	}
	var last []uint64
	for _, n := range r.Nodes {
		last = append(last, m.lastTick[n.Name])
	}
	m.head.clock = max(m.head.clock, reached(last, len(r.Nodes)))
	return m.mark(e, w)
}

// mark is what the state keeps of a tick entry.
type mark struct {
	at          [16]byte // log index and offset
	clock, size uint64
	nonce       keystead.Digest
}

func (k *mark) key() []byte { return nameKey(spaceTick, k.at[:]) }

func (k *mark) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, k.clock)
	return append(binary.BigEndian.AppendUint64(b, k.size), k.nonce[:]...)
}

func decodeMark(at [16]byte, b []byte) (mark, error) {
	c := record("tick record", b)
	k := mark{at, c.U64("clock"), c.U64("size"), digest(c, "nonce")}
	c.End()
	return k, c.Err()
}

// mark adds a tick entry's mark, and forgets what the clock has left behind.
func (m *Machine) mark(e Committed, w Writer) error {
	k := mark{clock: m.head.clock, size: m.head.size, nonce: Nonce(m.head.domain, e.Index, e.Data)}
	binary.BigEndian.PutUint64(k.at[:8], e.Index)
	binary.BigEndian.PutUint64(k.at[8:], uint64(e.Offset))
	m.marks = append(m.marks, k)
	if err := w.Set(k.key(), k.encode()); err != nil {
		return fatal(err)
	}
	for len(m.marks) > 1 && m.marks[1].clock+Window <= m.head.clock { // one mark at least a Window old stays
		if err := w.Delete(m.marks[0].key()); err != nil {
			return fatal(err)
		}
		m.marks = m.marks[1:]
	}
	m.requests.forget(m.head.clock)
	for id, p := range m.proposals {
		if p.opened+2*Window <= m.head.clock {
			delete(m.proposals, id)
			if err := w.Delete(nameKey(spaceProposal, id[:])); err != nil {
				return fatal(err)
			}
		}
	}
	return nil
}

// Nonce returns the newest nonce; false before the first tick.
func (m *Machine) Nonce() (keystead.Digest, bool) {
	if len(m.marks) == 0 {
		return keystead.Digest{}, false
	}
	return m.marks[len(m.marks)-1].nonce, true
}

// CheckNonce refuses a nonce that the ledger did not give, or gave longer than
// the Window ago.
func (m *Machine) CheckNonce(n keystead.Digest) error {
	for _, k := range m.marks {
		switch {
		case k.nonce != n:
		case k.clock+Window < m.head.clock:
			return deny(keystead.ReasonNonceExpired, "nonce", "one at most "+millis(Window)+" old", millis(int64(m.head.clock-k.clock)))
		default:
			return nil
		}
	}
	return deny(keystead.ReasonNonceMismatch, "nonce", "one that this ledger gave in the last "+millis(Window), n.String())
}

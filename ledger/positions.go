package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/receipt"
)

// When a position is due: so many bytes of log after the last one, or so long after it
// on the domain clock. Both grow with what there is to read.
const (
	positionBytes   = 1 << 30  // or four times those of the last stable state, if that is more, up to
	mostBytes       = 3 << 30  // these: two positions' worth of log fits on the disk (replica.StoreOptions.MaxLogBytes)
	positionSpacing = 1000     // milliseconds
	unstableSpacing = 5000     // after a position that is not stable, so that nodes can come to its end
	spacingBytes    = 16 << 20 // of the last stable state add a second
	maxSpacing      = 60_000   // milliseconds
	maxUnstable     = 2        // positions that are kept without a majority's digest
)

// Position is a place in the log at which nodes compare their states.
type Position struct {
	Index   uint64 // in the log
	Clock   uint64 // domain clock, Unix milliseconds
	Roster  uint64 // sequence of the roster in force
	Digests []StateDigest
	Alarmed bool // nodes signed different digests
}

// Digest returns what a node signed at the position, or nil.
func (p *Position) Digest(node string) *StateDigest {
	for i := range p.Digests {
		if p.Digests[i].Node == node {
			return &p.Digests[i]
		}
	}
	return nil
}

// Agreed returns the digest that at least so many nodes signed, or nil.
func (p *Position) Agreed(majority int) *StateDigest {
	for i := range p.Digests {
		n := 0
		for j := range p.Digests {
			if p.Digests[i].Same(&p.Digests[j]) {
				n++
			}
		}
		if n >= majority {
			return &p.Digests[i]
		}
	}
	return nil
}

// Positions are those that the ledger keeps: the last stable one, whose digest a majority
// of the nodes of then signed, and those after it.
type Positions struct {
	Stable uint64 // log index; 0 before the first
	Before uint64 // the stable one before that
	Bytes  uint64 // of the state at Stable
	Kept   []Position
}

// At returns the position at a log index, or nil.
func (p *Positions) At(index uint64) *Position {
	for i := range p.Kept {
		if p.Kept[i].Index == index {
			return &p.Kept[i]
		}
	}
	return nil
}

// begun reports whether there was a position. From the first one on, the log's bytes are
// counted: it is in the log, so all nodes begin there, whenever each learned to count.
func (p *Positions) begun() bool { return len(p.Kept) > 0 }

// spacing is how long after a position the next one is due, in milliseconds.
func (p *Positions) spacing() uint64 {
	least := uint64(positionSpacing)
	if p.Kept[len(p.Kept)-1].Index > p.Stable {
		least = unstableSpacing
	}
	return min(maxSpacing, max(least, positionSpacing+1000*(p.Bytes/spacingBytes)))
}

// Much is how many bytes of log after a position make another one due.
func (p *Positions) Much() uint64 { return min(mostBytes, max(positionBytes, 4*p.Bytes)) }

// early says why a position is not due yet, with so many bytes of log since the last.
func (p *Positions) early(logged, clock uint64) error {
	if !p.begun() {
		return nil
	}
	last := p.Kept[len(p.Kept)-1]
	if logged >= p.Much() || clock >= last.Clock+p.spacing() {
		return nil
	}
	return deny(keystead.ReasonPositionEarly, "position", fmt.Sprintf("%d bytes of log, or %s, after the last one", p.Much(), millis(int64(p.spacing()))),
		fmt.Sprintf("%d bytes and %s", logged, millis(int64(clock-last.Clock))))
}

func (p *Positions) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, p.Stable)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, p.Before), p.Bytes)
}

func decodePositions(b []byte) (p Positions, err error) {
	c := record("positions", b)
	p.Stable, p.Before, p.Bytes = c.U64("stable"), c.U64("before"), c.U64("bytes")
	c.End()
	return p, c.Err()
}

func (p *Position) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, p.Clock)
	b = binary.BigEndian.AppendUint64(b, p.Roster)
	flag := byte(0)
	if p.Alarmed {
		flag = 1
	}
	b = binary.BigEndian.AppendUint16(append(b, flag), uint16(len(p.Digests)))
	for _, s := range p.Digests {
		b = append(b, s.Digest[:]...)
		b = append(binary.BigEndian.AppendUint64(b, s.Bytes), s.Chain[:]...)
		b = appendSigned(b, s.Signed)
	}
	return b
}

func decodePosition(index uint64, b []byte) (p Position, err error) {
	c := record("position record", b)
	p = Position{Index: index, Clock: c.U64("clock"), Roster: c.U64("roster")}
	alarmed := c.U8("alarmed")
	if alarmed > 1 {
		c.Fail("alarmed", "is %d, want 0 or 1", alarmed)
	}
	p.Alarmed = alarmed == 1
	for range count(c, "digests", maxSigned) {
		if c.Err() == nil {
			p.Digests = append(p.Digests, readStateDigest(c, index))
		}
	}
	c.End()
	return p, c.Err()
}

// Positions returns the positions that the ledger keeps. The result must not be changed.
func (m *Machine) Positions() Positions {
	p := m.positions
	p.Kept = slices.Clone(p.Kept)
	return p
}

// Logged returns how many bytes of entries were applied since the last position; before the
// first one they are not counted.
func (m *Machine) Logged() uint64 { return m.head.logged }

// RosterOf returns the roster of a sequence.
func (m *Machine) RosterOf(sequence uint64) (receipt.Roster, error) {
	if sequence >= uint64(len(m.rosters)) {
		return receipt.Roster{}, fmt.Errorf("there is no roster %d yet", sequence)
	}
	return m.rosters[sequence].Roster, nil
}

// Due says why a position would be refused now, or nil.
func (m *Machine) Due() error {
	if err := m.since(4); err != nil {
		return err
	}
	return m.positions.early(m.head.logged, m.head.clock)
}

var entryVersionKey = admit.TypeSetting + "/" + admit.EntryVersion

// loadVersion reads the setting entry-version back.
func (m *Machine) loadVersion() (err error) {
	m.entryVersion, err = View{m.store}.EntryVersion()
	return err
}

// EntryVersion returns the version up to which entries count.
func (m *Machine) EntryVersion() uint8 { return m.entryVersion }

// EntryVersion returns the version up to which entries count.
func (v View) EntryVersion() (uint8, error) {
	now, err := v.Judged(entryVersionKey)
	if err != nil {
		return 0, err
	}
	founding, err := v.Founding(admit.EntryVersion)
	return admit.ParseEntryVersion(string(now.Data), founding), err
}

// since refuses what a version brought before the domain wants it.
func (m *Machine) since(version uint8) error {
	if m.entryVersion < version {
		return deny(keystead.ReasonVersionEarly, "entry", fmt.Sprintf("the setting %s at %d or more", admit.EntryVersion, version), strconv.Itoa(int(m.entryVersion)))
	}
	return nil
}

// applyPosition makes a position if one is due, or takes note of a node's digest at one.
func (m *Machine) applyPosition(e Committed, w Writer) error {
	if err := m.since(4); err != nil {
		return err
	}
	position, s, err := parsePosition(e.Data)
	switch {
	case err != nil:
		return err
	case !position:
		return m.applyDigest(&s, w)
	}
	p := &m.positions
	if err := p.early(m.head.logged, m.head.clock); err != nil {
		return err
	}
	if p.At(e.Index) != nil { // the clock moved within this log entry
		return deny(keystead.ReasonPositionEarly, "position", "one in a log entry", "another")
	}
	if !p.begun() {
		if err := w.Set([]byte{spacePositions}, p.encode()); err != nil {
			return fatal(err)
		}
	}
	m.head.logged = 0
	p.Kept = append(p.Kept, Position{Index: e.Index, Clock: m.head.clock, Roster: uint64(len(m.rosters) - 1)})
	unstable := 0
	for _, x := range p.Kept {
		if x.Index > p.Stable {
			unstable++
		}
	}
	if unstable > maxUnstable {
		oldest := slices.IndexFunc(p.Kept, func(x Position) bool { return x.Index > p.Stable })
		if err := m.forget(oldest, oldest+1, w); err != nil {
			return err
		}
	}
	return m.savePosition(&p.Kept[len(p.Kept)-1], w)
}

func (m *Machine) savePosition(x *Position, w Writer) error {
	return fatal(w.Set(numberKey(spacePosition, x.Index), x.encode()))
}

// forget drops positions.
func (m *Machine) forget(from, to int, w Writer) error {
	p := &m.positions
	for _, x := range p.Kept[from:to] {
		if err := w.Delete(numberKey(spacePosition, x.Index)); err != nil {
			return fatal(err)
		}
	}
	p.Kept = slices.Delete(p.Kept, from, to)
	return nil
}

// applyDigest counts a node's digest at a position, by the key that the node had there and
// has still.
func (m *Machine) applyDigest(s *StateDigest, w Writer) error {
	at := m.positions.At(s.Position)
	if at == nil {
		return deny(keystead.ReasonPositionUnknown, s.where(), "a position that the ledger keeps", "none there")
	}
	then := &m.rosters[at.Roster].Roster
	k, err := m.signer(then, s.Node, s.where())
	if err != nil {
		return err
	}
	if now, ok := m.current().Node(s.Node); !ok || now.Key != k {
		return deny(keystead.ReasonSignerUnknown, s.where(), "the key that "+s.Node+" had at the position and has still", "one that is over")
	}
	if err := s.Verify(k, m.head.domain); err != nil {
		return err
	}
	if old := at.Digest(s.Node); old != nil {
		if old.Same(s) {
			return nil // sent twice
		}
		return deny(keystead.ReasonStateDiffers, s.where(), s.Node+"'s first digest "+old.Digest.String(), s.Digest.String())
	}
	if err := m.differs(at, s, w); err != nil {
		return err
	}
	at.Digests = append(at.Digests, *s)
	if err := m.savePosition(at, w); err != nil {
		return err
	}
	if s.Position <= m.positions.Stable {
		return nil
	}
	return m.settle(at, then, w)
}

// differs raises the alarm, once for a position, when nodes that applied the same log
// have other states.
func (m *Machine) differs(at *Position, s *StateDigest, w Writer) error {
	for _, o := range at.Digests {
		if at.Alarmed || o.Chain != s.Chain || o.Same(s) {
			continue
		}
		at.Alarmed = true
		err := m.raise(w, keystead.Finding{Reason: keystead.ReasonStateDiffers, Where: s.where(),
			Want: fmt.Sprintf("the digest %s over %d bytes of %s", o.Digest, o.Bytes, o.Node), Got: fmt.Sprintf("%s over %d bytes of %s", s.Digest, s.Bytes, s.Node)})
		if err != nil {
			return err
		}
	}
	return nil
}

// settle makes a position the stable one if a majority agrees on its digest.
func (m *Machine) settle(at *Position, then *receipt.Roster, w Writer) error {
	agreed := at.Agreed(then.Majority())
	if agreed == nil {
		return nil
	}
	p := &m.positions
	p.Before, p.Stable, p.Bytes = p.Stable, at.Index, agreed.Bytes
	older := slices.IndexFunc(p.Kept, func(x Position) bool { return x.Index == p.Stable })
	if err := m.forget(0, older, w); err != nil {
		return err
	}
	return fatal(w.Set([]byte{spacePositions}, p.encode()))
}

// loadPositions reads the positions back.
func (m *Machine) loadPositions() (err error) {
	m.positions, err = View{m.store}.Positions()
	return err
}

// Positions returns the positions that the ledger keeps.
func (v View) Positions() (p Positions, err error) {
	b, found, err := v.r.Get([]byte{spacePositions})
	if err != nil || !found {
		return p, err
	}
	if p, err = decodePositions(b); err != nil {
		return p, err
	}
	err = scan(v.r, []byte{spacePosition}, []byte{spacePosition + 1}, func(k string, b []byte) error {
		x, err := decodePosition(binary.BigEndian.Uint64([]byte(k)), b)
		p.Kept = append(p.Kept, x)
		return err
	})
	return p, err
}

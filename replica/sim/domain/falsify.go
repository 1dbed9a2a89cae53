package domain

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica/sim"
)

// Lies about states and ids, to hosts that come back.
const (
	Snapshots Lie = "snapshots" // as a leader, sends a state with another value, sound in itself, and vouches for it
	Digests   Lie = "digests"   // digests of states that are not
	Joins     Lie = "joins"     // tells who asks for a fresh id another one
)

// Returning are the lies that hosts meet which come back without their state.
var Returning = []Lie{Snapshots, Snapshots, Digests, Joins, Roots, Far, NoVotes, Starve, Silence}

func (l *liar) madeUp() (d keystead.Digest) {
	binary.BigEndian.PutUint64(d[:], l.rng.Uint64())
	return d
}

// tamperJoin is the id that a host tells another.
func (l *liar) tamperJoin(from, _ *sim.Host, id uint64) uint64 {
	if from != l.n.host || !l.tells(Joins) {
		return id
	}
	l.told(Joins)
	return []uint64{1, id + 1, id + uint64(l.rng.IntN(1000))}[l.rng.IntN(3)]
}

// tamperState is what becomes of a snapshot's stream (docs/spec/state.md). A value is
// another, and all that the stream says of itself agrees with that.
func (l *liar) tamperState(from, to *sim.Host, stream []byte) []byte {
	const magic, header = 8, 8 + 8 + 32 + 8 + 32 + 8 + 8 + 32
	if from != l.n.host || !l.tells(Snapshots) {
		return stream
	}
	out := append([]byte(nil), stream...)
	c := cursor.New("snapshot", binary.BigEndian, out)
	c.Bytes(magic, "magic")
	head := c.Bytes(header, "header")
	hash := c.Bytes(32, "chunk")
	c.Bytes(32*int(c.U64("runs")), "runs")
	c.Sized32(len(out), "proof")
	chunk := c.Sized32(len(out), "chunk")
	if c.Err() != nil || binary.BigEndian.Uint64(head[8+8+32+8+32:]) != 1 {
		l.d.c.Fail("the liar can not read a snapshot: %v", c.Err())
		return stream
	}
	if !l.swapValue(chunk) {
		return stream // nobody has put anything yet
	}
	sum := keystead.Sum(chunk)
	copy(hash, sum[:])
	root := receipt.LeafHash(sum[:])
	copy(head[header-32:], root[:])
	l.told(Snapshots)
	l.d.c.Trace("the liar sends %s a state of its own making", to.Name)
	return out
}

// swapValue changes a value that a client put.
func (l *liar) swapValue(chunk []byte) bool {
	c := cursor.New("chunk", binary.BigEndian, chunk)
	var values [][]byte
	for c.Len() > 0 && c.Err() == nil {
		key, value := c.Sized16(1<<16-1, "key"), c.Sized32(len(chunk), "value")
		if len(key) > 5 && string(key[:5]) == "skkv/" {
			values = append(values, value)
		}
	}
	if len(values) == 0 {
		return false
	}
	v := values[l.rng.IntN(len(values))]
	v[len(v)-1] ^= 1
	return true
}

package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/keystead/keystead/replica"
)

// KV is a state machine for tests: keys and values, every command applied counted
// by its id, and a digest over all of them in their order.
type KV struct {
	// Observe, if set, hears the digest after each log entry that had commands, and
	// Twice of commands that were applied before.
	Observe func(index uint64, digest [sha256.Size]byte)
	Twice   func(id uint64)

	// Differ, if set, hears of a digest of a state that is another than one before at the
	// same position.
	Differ func(index uint64, host string)

	// Stable, if set, hears of a position that has become stable, and of the one before.
	Stable func(index, before uint64)

	digest [sha256.Size]byte
}

// A Command of a [KV]. Compare makes a Put conditional on the present value.
type Command struct {
	ID       uint64
	Op       Op
	Key      string
	Old, New string
}

// Op is what a command does.
type Op byte

// The operations.
const (
	Put     Op = 'p' // result: "ok"
	Get     Op = 'g' // result: the value
	Compare Op = 'c' // put New if the value is Old; result: "yes" or "no"

	Position Op = 'P' // takes effect some log entries after the last one; result: "yes" or "no"
	Digest   Op = 'D' // at the position whose index is Key, host Old has come to New
)

// Encode returns the command as it is proposed.
func (c Command) Encode() []byte {
	b := append(binary.BigEndian.AppendUint64(nil, c.ID), byte(c.Op))
	for _, s := range []string{c.Key, c.Old, c.New} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

func parseCommand(b []byte) (c Command, err error) {
	if len(b) < 9 {
		return c, errors.New("command is cut short")
	}
	c.ID, c.Op, b = binary.BigEndian.Uint64(b), Op(b[8]), b[9:]
	for _, s := range []*string{&c.Key, &c.Old, &c.New} {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return c, errors.New("command is cut short")
		}
		*s, b = string(b[w:w+int(n)]), b[w+int(n):]
	}
	return c, nil
}

var digestKey = []byte("digest")

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64([]byte("id/"), id) }

// Open reads the digest.
func (m *KV) Open(v replica.View, _ uint64) error {
	d, _, err := v.Get(digestKey)
	m.digest = [sha256.Size]byte{}
	copy(m.digest[:], d)
	return err
}

// overlay reads what a batch has written, and else the state.
type overlay struct {
	*replica.Batch
	new map[string][]byte
}

func (o overlay) get(key []byte) ([]byte, error) {
	if v, ok := o.new[string(key)]; ok {
		return v, nil
	}
	v, _, err := o.Get(key)
	return v, err
}

func (o overlay) set(key, value []byte) {
	o.new[string(key)] = value
	o.Set(key, value)
}

// Apply runs commands.
func (m *KV) Apply(w *replica.Batch, commands []replica.Command, results [][]byte) ([][]byte, error) {
	o := overlay{w, map[string][]byte{}}
	for i, cmd := range commands {
		c, err := parseCommand(cmd.Data)
		if err != nil {
			return nil, err
		}
		result, err := m.run(o, c, cmd.Index)
		if err != nil {
			return nil, err
		}
		results = append(results, []byte(result))
		h := sha256.New()
		h.Write(m.digest[:])
		fmt.Fprintf(h, "%d %d %x", cmd.Index, cmd.Offset, cmd.Data)
		h.Sum(m.digest[:0])
		if last := i+1 == len(commands) || commands[i+1].Index != cmd.Index; last && m.Observe != nil {
			m.Observe(cmd.Index, m.digest)
		}
	}
	w.Set(digestKey, m.digest[:])
	return results, nil
}

// Position reports whether the command asks for one.
func (m *KV) Position(command []byte) bool { return len(command) > 8 && Op(command[8]) == Position }

// positions is the record of positions: log indices of the newest, of the last that a
// host signed, and of the one before that.
type positions struct{ newest, stable, before uint64 }

var positionsKey = []byte("positions")

func parsePositions(b []byte) (p positions) {
	if len(b) == 24 {
		p = positions{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
	}
	return p
}

func (p positions) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, p.newest)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, p.stable), p.before)
}

// spacing is how many log entries are between two positions at least.
const spacing = 4

// compare carries out what has to do with positions. One host's digest makes one stable
// here: every other must come to the same.
func (m *KV) compare(o overlay, c Command, index uint64) (string, error) {
	b, err := o.get(positionsKey)
	if err != nil {
		return "", err
	}
	p := parsePositions(b)
	if c.Op == Position {
		if p.newest > 0 && index < p.newest+spacing {
			return "no", nil
		}
		p.newest = index
		o.set(positionsKey, p.bytes())
		return "yes", nil
	}
	at, err := strconv.ParseUint(c.Key, 10, 64)
	if err != nil {
		return "", err
	}
	key := []byte("digest/" + c.Key)
	first, err := o.get(key)
	switch {
	case err != nil:
		return "", err
	case first == nil:
		o.set(key, []byte(c.New))
	case string(first) != c.New && m.Differ != nil:
		m.Differ(at, c.Old)
	}
	if at > p.stable {
		p.before, p.stable = p.stable, at
		o.set(positionsKey, p.bytes())
		if m.Stable != nil {
			m.Stable(p.stable, p.before)
		}
	}
	return "ok", nil
}

// Positions implements [replica.Portable].
func (m *KV) Positions(v replica.View) (replica.Positions, error) {
	b, _, err := v.Get(positionsKey)
	p := parsePositions(b)
	return replica.Positions{InUse: true, Newest: p.newest, Stable: p.stable}, err
}

// Pairs implements [replica.Portable]: all keys are logical ones.
func (m *KV) Pairs(v replica.View, from []byte, yield func(key, value []byte) bool) error {
	return v.Scan(from, nil, yield)
}

// Outline implements [replica.Portable]: there is no tree.
func (m *KV) Outline(replica.View) (replica.Outline, error) { return replica.Outline{}, nil }

// Run implements [replica.Portable].
func (m *KV) Run(replica.View, uint64) ([][]byte, error) { return nil, errors.New("there is no tree") }

// Take implements [replica.Portable].
func (m *KV) Take(o replica.Outline) (replica.Taker, error) {
	if o.Size != 0 || len(o.Runs) != 0 || len(o.Proof) != 0 {
		return nil, errors.New("an outline of a tree, and there is none")
	}
	return noTree{}, nil
}

type noTree struct{}

func (noTree) Add(*replica.Batch, [][]byte) error { return errors.New("there is no tree") }
func (noTree) Done(v replica.View) error          { return new(KV).Open(v, 0) }

func (m *KV) run(o overlay, c Command, index uint64) (string, error) {
	if c.Op == Position || c.Op == Digest {
		return m.compare(o, c, index)
	}
	if n, err := o.get(idKey(c.ID)); err != nil {
		return "", err
	} else if len(n) > 0 && m.Twice != nil {
		m.Twice(c.ID)
	}
	o.set(idKey(c.ID), []byte{1})
	b, err := o.get([]byte("key/" + c.Key))
	value := string(b)
	switch {
	case err != nil:
		return "", err
	case c.Op == Get:
		return value, nil
	case c.Op == Compare && value != c.Old:
		return "no", nil
	}
	o.set([]byte("key/"+c.Key), []byte(c.New))
	if c.Op == Compare {
		return "yes", nil
	}
	return "ok", nil
}

// Value returns the value of a key in a [KV]'s state; "" if it has none.
func Value(v replica.View, key string) (string, error) {
	b, _, err := v.Get([]byte("key/" + key))
	return string(b), err
}

// Ran reports whether the command with that id has been applied.
func Ran(v replica.View, id uint64) (bool, error) {
	_, ok, err := v.Get(idKey(id))
	return ok, err
}

package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keystead/keystead/replica"
)

// KV is a state machine for tests: keys and values, every command applied counted
// by its id, and a digest over all of them in their order.
type KV struct {
	// Observe, if set, hears the digest after each log entry that had commands, and
	// Twice of commands that were applied before.
	Observe func(index uint64, digest [sha256.Size]byte)
	Twice   func(id uint64)

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
		result, err := m.run(o, c)
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

// Position reports none: the state travels as files.
func (m *KV) Position([]byte) bool { return false }

func (m *KV) run(o overlay, c Command) (string, error) {
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

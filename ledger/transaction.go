package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/receipt"
)

// Bounds of a transaction.
const (
	MaxKey    = 1024      // bytes
	MaxValue  = 512 << 10 // bytes
	maxWrites = 1024      // writes, and conditions
	maxName   = 64        // bytes of a contract's, judged type's or node's name
)

// RequestID names a request, so that it takes effect once however often it is
// sent. Its ID is random. It takes effect before Deadline or never: a repetition
// carries the same ID and the same Deadline, and is answered with the first one's
// leaf; after the deadline it is refused, never applied a second time.
type RequestID struct {
	ID       [16]byte
	Deadline uint64 // domain clock in Unix milliseconds, at most Window ahead
}

// Write puts a value at a key, or deletes the key.
type Write struct {
	Key    string // with its contract's prefix, such as "kv/colour"
	Delete bool
	Value  []byte
}

// Condition holds when the key's version is the one given: that of the
// transaction that wrote it last, or 0 for a key that is absent.
type Condition struct {
	Key     string
	Version uint64
}

// Transaction is an executed transaction: what one node computed from the
// versions that it read. Every node that applies it checks the conditions
// and the prefix, and executes nothing.
type Transaction struct {
	Request    RequestID
	Contract   string // owns the keys that start with its name and "/"
	Conditions []Condition
	Writes     []Write
}

const (
	opPut    = 1
	opDelete = 2
)

// Entry returns the transaction as an entry (docs/spec/ledger.md).
func (t *Transaction) Entry() ([]byte, error) {
	size := 64 + len(t.Contract)
	for _, c := range t.Conditions {
		size += 10 + len(c.Key)
	}
	for _, w := range t.Writes {
		size += 7 + len(w.Key) + len(w.Value)
	}
	b := append(append(make([]byte, 0, size), receipt.Header(receipt.KindTransaction)...), t.Request.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, t.Request.Deadline)
	b = cursor.AppendSized16(b, t.Contract)
	b = binary.BigEndian.AppendUint16(b, uint16(len(t.Conditions)))
	for _, c := range t.Conditions {
		b = binary.BigEndian.AppendUint64(cursor.AppendSized16(b, c.Key), c.Version)
	}
	b = appendWrites(b, t.Writes)
	_, err := parseTransaction(b) // holds what is sent to the bounds of what is received
	return b, err
}

func appendWrites(b []byte, writes []Write) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(writes)))
	for _, w := range writes {
		if w.Delete {
			b = cursor.AppendSized16(append(b, opDelete), w.Key)
			continue
		}
		b = cursor.AppendSized32(cursor.AppendSized16(append(b, opPut), w.Key), w.Value)
	}
	return b
}

// ParseTransaction reads a transaction entry.
func ParseTransaction(entry []byte) (Transaction, error) {
	v, err := parseTransaction(entry)
	if err != nil {
		return Transaction{}, err
	}
	t := Transaction{Request: v.request, Contract: string(v.contract)}
	for c := range v.conditions.each {
		t.Conditions = append(t.Conditions, Condition{string(c.key), c.version})
	}
	t.Writes = v.writes.all()
	return t, nil
}

// ContractOf returns the contract that a transaction entry names, at little cost, for
// whoever watches one contract; nil if it is no such entry.
func ContractOf(entry []byte) []byte {
	b, err := body(entry, receipt.KindTransaction)
	if err != nil {
		return nil
	}
	c := record("transaction", b)
	c.Bytes(16+8, "request")
	return c.Sized16(maxName, "contract")
}

// txView is a checked transaction that aliases its entry: no part is copied.
type txView struct {
	request    RequestID
	contract   []byte
	conditions conditionList
	writes     writeList
}

type (
	conditionList struct {
		n   int
		raw []byte
	}
	writeList struct {
		n   int
		raw []byte
		at  int // of raw in the entry
	}
	conditionView struct {
		key     []byte
		version uint64
	}
	writeView struct {
		key    []byte
		delete bool
		value  []byte
		at     int // of value in the entry
	}
)

func parseTransaction(entry []byte) (v txView, err error) {
	body, err := body(entry, receipt.KindTransaction)
	if err != nil {
		return v, err
	}
	c := record("transaction", body)
	copy(v.request.ID[:], c.Bytes(16, "request id"))
	v.request.Deadline = c.U64("deadline")
	v.contract = name(c, "contract")
	v.conditions = readConditions(c)
	v.writes = readWrites(c)
	v.writes.at += receipt.HeaderSize
	c.End()
	return v, c.Err()
}

func readConditions(c *cursor.Cursor) conditionList {
	n := count(c, "conditions", maxWrites)
	rest := c.Rest()
	for range n {
		c.Sized16(MaxKey, "condition key")
		c.U64("condition version")
	}
	if c.Err() != nil {
		return conditionList{}
	}
	return conditionList{n, rest[:len(rest)-c.Len()]}
}

func readWrites(c *cursor.Cursor) writeList {
	n := count(c, "writes", maxWrites)
	rest, at := c.Rest(), c.Offset()
	for range n {
		switch op := c.U8("operation"); op {
		case opPut:
			c.Sized16(MaxKey, "key")
			c.Sized32(MaxValue, "value")
		case opDelete:
			c.Sized16(MaxKey, "key")
		default:
			c.Fail("operation", "%d is not known", op)
		}
	}
	if c.Err() != nil {
		return writeList{}
	}
	return writeList{n, rest[:len(rest)-c.Len()], at}
}

// each yields the conditions; the bytes were checked by readConditions.
func (l conditionList) each(yield func(conditionView) bool) {
	for b := l.raw; len(b) > 0; {
		n := int(binary.BigEndian.Uint16(b))
		if !yield(conditionView{b[2 : 2+n], binary.BigEndian.Uint64(b[2+n:])}) {
			return
		}
		b = b[2+n+8:]
	}
}

// each yields the writes; the bytes were checked by readWrites.
func (l writeList) each(yield func(writeView) bool) {
	for b := l.raw; len(b) > 0; {
		n := int(binary.BigEndian.Uint16(b[1:]))
		w := writeView{key: b[3 : 3+n], delete: b[0] == opDelete}
		b = b[3+n:]
		if !w.delete {
			n := int(binary.BigEndian.Uint32(b))
			w.at = l.at + len(l.raw) - len(b) + 4
			w.value, b = b[4:4+n], b[4+n:]
		}
		if !yield(w) {
			return
		}
	}
}

func (l writeList) all() (out []Write) {
	for w := range l.each {
		out = append(out, Write{string(w.key), w.delete, w.value})
	}
	return out
}

// confined says which write is outside the keys that start with owner and "/".
func (l writeList) confined(owner []byte) error {
	for w := range l.each {
		if len(w.key) <= len(owner) || string(w.key[:len(owner)]) != string(owner) || w.key[len(owner)] != '/' {
			return deny(keystead.ReasonWriteOutside, "write", fmt.Sprintf("keys that start with %q", string(owner)+"/"), fmt.Sprintf("%.80q", w.key))
		}
	}
	return nil
}

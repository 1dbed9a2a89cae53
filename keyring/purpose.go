package keyring

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead/internal/cursor"
)

// MaxName is the length of a key's name, in bytes.
const MaxName = 64

// Purpose is what a round is for: the secret of an epoch, or a version of a key. The
// zero value is for nothing.
type Purpose struct {
	Key    string // name of the key; "" for an epoch
	Number uint64 // of the epoch, or the key's version; from 1
}

// EpochPurpose is the secret of the epoch of that number.
func EpochPurpose(number uint64) Purpose { return Purpose{Number: number} }

// KeyPurpose is a version of a key.
func KeyPurpose(name string, version uint64) Purpose { return Purpose{name, version} }

// IsEpoch reports whether it is for an epoch.
func (p Purpose) IsEpoch() bool { return p.Key == "" }

// String gives the purpose as "epoch 3" or "key storage version 2".
func (p Purpose) String() string {
	if p.IsEpoch() {
		return fmt.Sprintf("epoch %d", p.Number)
	}
	return fmt.Sprintf("key %s version %d", p.Key, p.Number)
}

const (
	forEpoch = 1
	forKey   = 2
)

func (p Purpose) append(b []byte) []byte {
	if p.IsEpoch() {
		return binary.BigEndian.AppendUint64(append(b, forEpoch), p.Number)
	}
	return binary.BigEndian.AppendUint64(cursor.AppendSized16(append(b, forKey), p.Key), p.Number)
}

func readPurpose(c *cursor.Cursor) (p Purpose) {
	switch kind := c.U8("purpose"); kind {
	case forEpoch:
	case forKey:
		p.Key = name(c, "key")
	default:
		c.Fail("purpose", "%d is not known", kind)
	}
	if p.Number = c.U64("number"); p.Number == 0 && c.Err() == nil {
		c.Fail("number", "is 0; epochs and versions begin with 1")
	}
	return p
}

// ValidName reports whether a key or node may have the name: 1 to 64 of a-z, 0-9, dot
// and dash.
func ValidName(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-') {
			return false
		}
	}
	return s != "" && len(s) <= MaxName
}

// name reads a name.
func name(c *cursor.Cursor, field string) string {
	b := c.Sized16(MaxName, field)
	if c.Err() == nil && !ValidName(string(b)) {
		c.Fail(field, "%.64q is not 1 to %d of a-z, 0-9, dot and dash", b, MaxName)
	}
	return string(b)
}

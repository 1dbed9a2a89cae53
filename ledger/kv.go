package ledger

import (
	"fmt"

	"github.com/keystead/keystead"
)

// KV is the first contract: keys and values, with compare. Its keys in the ledger
// start with "kv/".
const KV = "kv"

// Op is one operation of the key-value contract.
type Op struct {
	Key     string // without "kv/"
	Delete  bool
	Value   []byte
	Compare *Compare // nil: whatever is there
}

// Compare makes an operation depend on what the key holds.
type Compare struct {
	Absent bool
	Value  []byte // when not Absent
}

// Execute runs operations of the key-value contract on the state that the view
// sees, and returns the transaction to replicate: all of it takes effect, or
// nothing. What a comparison read becomes a condition on the key's version, so
// a transaction that ran beside another on the same key is refused by Apply with
// condition-failed, and the caller runs it again.
func Execute(v View, request RequestID, ops []Op) (*Transaction, error) {
	t := &Transaction{Request: request, Contract: KV}
	for _, op := range ops {
		key := KV + "/" + op.Key
		if op.Compare != nil {
			now, err := v.Get(key)
			if err != nil {
				return nil, err
			}
			if err := op.Compare.check(op.Key, now); err != nil {
				return nil, err
			}
			t.Conditions = append(t.Conditions, Condition{key, now.Version})
		}
		t.Writes = append(t.Writes, Write{Key: key, Delete: op.Delete, Value: op.Value})
	}
	return t, nil
}

func (c *Compare) check(key string, now Value) error {
	switch {
	case c.Absent && now.Version != 0:
		return deny(keystead.ReasonConditionFailed, fmt.Sprintf("%.80q", key), "no value", fmt.Sprintf("%.40q", now.Data))
	case !c.Absent && now.Version == 0:
		return deny(keystead.ReasonConditionFailed, fmt.Sprintf("%.80q", key), fmt.Sprintf("%.40q", c.Value), "no value")
	case !c.Absent && string(now.Data) != string(c.Value):
		return deny(keystead.ReasonConditionFailed, fmt.Sprintf("%.80q", key), fmt.Sprintf("%.40q", c.Value), fmt.Sprintf("%.40q", now.Data))
	}
	return nil
}

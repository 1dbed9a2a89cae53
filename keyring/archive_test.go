package keyring_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/keyring"
)

// TestRecordKeys wraps keys of archived records: they open over changes of epoch, also
// for who joined later, and for nobody else and nothing else.
func TestRecordKeys(t *testing.T) {
	w := newWorld(t, 51, 3)
	k, about := bytes.Repeat([]byte{7}, keyring.SecretSize), []byte("record of web-1")
	if _, _, err := w.nodes["n1"].ring.WrapRecord(w.board, about, k, w.random); !errors.Is(err, keystead.ReasonSecretMissing) {
		t.Errorf("before the first epoch: %v", err)
	}
	w.agree()
	epoch, wrapped, err := w.nodes["n3"].ring.WrapRecord(w.board, about, k, w.random)
	if err != nil || epoch != 1 || bytes.Contains(wrapped, k) {
		t.Fatalf("epoch %d, %v", epoch, err)
	}
	_, second, err := w.nodes["n3"].ring.WrapRecord(w.board, about, k, w.random)
	if err != nil || bytes.Equal(second[32:], wrapped[32:]) {
		t.Errorf("two wrappings of one key are alike: %v", err)
	}
	w.remove("n3")
	w.add("n4")
	w.agree()
	for _, name := range []string{"n1", "n2", "n4"} {
		got, err := w.nodes[name].ring.UnwrapRecord(w.board, epoch, about, wrapped)
		if err != nil || !bytes.Equal(got, k) {
			t.Errorf("%s: %v", name, err)
		}
	}
	later, after, err := w.nodes["n1"].ring.WrapRecord(w.board, about, k, w.random)
	if err != nil || later != 2 {
		t.Fatalf("epoch %d, %v", later, err)
	}
	if _, err := w.nodes["n3"].ring.UnwrapRecord(w.board, later, about, after); !errors.Is(err, keystead.ReasonSecretMissing) {
		t.Errorf("an evicted node: %v", err)
	}
	ring := w.nodes["n1"].ring
	flipped := bytes.Clone(wrapped)
	flipped[0] ^= 1
	for name, tc := range map[string]struct {
		epoch          uint64
		about, wrapped []byte
		want           keystead.Reason
	}{
		"of another record":     {epoch, []byte("record of web-2"), wrapped, keystead.ReasonSealUnopened},
		"as of another epoch":   {later, about, wrapped, keystead.ReasonSealUnopened},
		"of an epoch to come":   {9, about, wrapped, keystead.ReasonSecretMissing},
		"of no epoch":           {0, about, wrapped, keystead.ReasonSecretMissing},
		"with another salt":     {epoch, about, flipped, keystead.ReasonSealUnopened},
		"cut off":               {epoch, about, wrapped[:79], keystead.ReasonSealUnopened},
		"nothing":               {epoch, about, nil, keystead.ReasonSealUnopened},
		"of a node's agreement": {epoch, nil, append(wrapped[:32:32], wrapped[32:]...), keystead.ReasonSealUnopened},
	} {
		if _, err := ring.UnwrapRecord(w.board, tc.epoch, tc.about, tc.wrapped); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := ring.WrapRecord(w.board, about, k[1:], w.random); err == nil {
		t.Error("a key of 31 bytes is wrapped")
	}
}

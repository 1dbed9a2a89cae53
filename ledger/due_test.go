package ledger

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
)

// TestDueByBytes: with no time gone by, a position is due after 1 GiB of log, or after four
// times the last stable state, up to 3 GiB; and not a byte before.
func TestDueByBytes(t *testing.T) {
	for bytes, want := range map[uint64]uint64{0: 1 << 30, 80 << 20: 1 << 30, 512 << 20: 2 << 30, 100 << 30: 3 << 30} {
		p := Positions{Stable: 5, Bytes: bytes, Kept: []Position{{Index: 5, Clock: 1000}}}
		if err := p.early(want-1, 1000); !errors.Is(err, keystead.ReasonPositionEarly) {
			t.Errorf("state of %d bytes: due a byte before %d: %v", bytes, want, err)
		}
		if err := p.early(want, 1000); err != nil {
			t.Errorf("state of %d bytes: not due at %d: %v", bytes, want, err)
		}
	}
}

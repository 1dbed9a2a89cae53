package ledger

import (
	"encoding/binary"
	"strconv"

	"github.com/keystead/keystead"
)

// Tick is what the ledger keeps of a tick entry, for the Window.
type Tick struct {
	Index uint64          // in the log
	Clock uint64          // domain clock from then on, Unix milliseconds
	Nonce keystead.Digest // that it gave
}

// NewestTick returns the newest tick; false before the first.
func (v View) NewestTick() (t Tick, found bool, err error) {
	err = v.ticks(0, func(k Tick) bool { t, found = k, true; return true })
	return t, found, err
}

// Tick returns the tick at a log index, unless it is older than the Window
// (nonce-expired) or there is none (nonce-mismatch).
func (v View) Tick(index uint64) (t Tick, err error) {
	found := false
	if err := v.ticks(index, func(k Tick) bool { t, found = k, k.Index == index; return false }); err != nil {
		return t, err
	}
	clock, err := v.Clock()
	switch {
	case err != nil:
		return t, err
	case !found:
		return Tick{}, deny(keystead.ReasonNonceMismatch, "nonce", "a tick entry of the last "+millis(Window), "none at log index "+strconv.FormatUint(index, 10))
	case t.Clock+Window < clock:
		return Tick{}, deny(keystead.ReasonNonceExpired, "nonce", "one at most "+millis(Window)+" old", millis(int64(clock-t.Clock)))
	}
	return t, nil
}

// ticks visits the ticks from an index on, the oldest first.
func (v View) ticks(from uint64, visit func(Tick) bool) error {
	var failed error
	err := v.r.Scan(numberKey(spaceTick, from), []byte{spaceTick + 1}, func(key, b []byte) bool {
		if failed = wanted(key); failed != nil {
			return false
		}
		k, err := decodeMark([16]byte(key[1:]), b)
		failed = err
		return err == nil && visit(Tick{binary.BigEndian.Uint64(key[1:9]), k.clock, k.nonce})
	})
	if err == nil {
		err = failed
	}
	return err
}

// wanted refuses a tick's key of another length.
func wanted(key []byte) error {
	if len(key) != 1+16 {
		return &keystead.FormatError{Format: "tick record", Field: "key", Problem: "has another length"}
	}
	return nil
}

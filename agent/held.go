package agent

import (
	"time"

	"github.com/keystead/keystead/evidence/process"
)

// maxHeld bounds how many released keys are held.
const maxHeld = 1024

// wanted names what was released to whom: an application that is known by other facts
// is another one.
type wanted struct {
	key     string
	version uint64 // as asked for
	by      process.Facts
}

// secret is a released key. It is never printed.
type secret struct {
	_       [0]func() // not comparable
	bytes   []byte
	version uint64
	hold    time.Duration // beyond the lease, while no node can be reached
}

// String keeps the key out of logs.
func (*secret) String() string { return "[released key]" }

// GoString keeps it out of logs, too.
func (s *secret) GoString() string { return s.String() }

// held are the keys that were released under a lease. They answer an application that
// asks again while no node can be reached, and are wiped when the lease is over.
type held struct {
	keys  map[wanted]*secret
	until Moment // after a lease that ran out in silence: its end; else 0
}

func newHeld() *held { return &held{keys: map[wanted]*secret{}} }

// put keeps a key, unless there are too many.
func (h *held) put(w wanted, s *secret) {
	h.drop(w)
	if len(h.keys) < maxHeld {
		h.keys[w] = s
	}
}

// get returns a key that may still be used at that time, and for how long. Lease is the
// end of the lease; 0 if there is none.
func (h *held) get(now Moment, w wanted, lease Moment) (*secret, time.Duration) {
	s := h.keys[w]
	if s == nil {
		return nil, 0
	}
	end := lease
	if end == 0 && h.until != 0 {
		end = h.until.Add(s.hold)
	}
	if end <= now {
		return nil, 0
	}
	return s, end.Sub(now)
}

// silence notes that the lease ended at that time without a word from any node: keys
// that may be held on stay, the others go.
func (h *held) silence(end Moment) {
	h.until = end
	h.expire(end)
}

// expire drops what may not be held any longer after a lease that ended in silence.
func (h *held) expire(now Moment) {
	for w, s := range h.keys {
		if h.until != 0 && h.until.Add(s.hold) <= now {
			h.drop(w)
		}
	}
}

// clear drops all.
func (h *held) clear() {
	for w := range h.keys {
		h.drop(w)
	}
	h.until = 0
}

func (h *held) drop(w wanted) {
	if s := h.keys[w]; s != nil {
		clear(s.bytes)
		delete(h.keys, w)
	}
}

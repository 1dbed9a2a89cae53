package daemon

import (
	"sync"
	"time"

	"github.com/keystead/keystead"
)

// Bounds of the evidence that a node keeps for others to judge.
const (
	boxBytes = 256 << 20
	boxAge   = time.Minute // twice as long as a proposal can take effect
)

// box keeps evidence while it is being judged, in memory: it names what runs on a
// host, so it is on no disk but the host's own.
type box struct {
	mu    sync.Mutex
	held  int
	items map[keystead.Digest]boxed
	order []keystead.Digest // the oldest first
}

type boxed struct {
	content []byte
	since   time.Time
}

// put keeps evidence, and lets go of what is old. Without room it is overloaded.
func (b *box) put(content []byte, now time.Time) (keystead.Digest, error) {
	d := keystead.Sum(content)
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.order) > 0 && now.Sub(b.items[b.order[0]].since) > boxAge {
		b.held -= len(b.items[b.order[0]].content)
		delete(b.items, b.order[0])
		b.order = b.order[1:]
	}
	if _, ok := b.items[d]; ok {
		return d, nil
	}
	if b.held+len(content) > boxBytes {
		return d, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "evidence", Want: "less evidence under way", Got: "as much as memory is for"})
	}
	if b.items == nil {
		b.items = map[keystead.Digest]boxed{}
	}
	b.items[d] = boxed{content, now}
	b.order = append(b.order, d)
	b.held += len(content)
	return d, nil
}

func (b *box) get(d keystead.Digest) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x, ok := b.items[d]
	return x.content, ok
}

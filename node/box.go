package node

import (
	"slices"
	"sync"
	"time"

	"github.com/keystead/keystead"
)

// Bounds of the evidence that a node keeps for others to judge.
const (
	boxBytes = 256 << 20
	boxAge   = time.Minute // twice as long as a proposal can take effect
	boxOfOne = 2           // bundles of one host
)

// box keeps evidence while it is being judged, in memory: it names what runs on a
// host, so it is on no disk but the host's own.
type box struct {
	mu    sync.Mutex
	held  int
	items map[keystead.Digest]boxed
	of    map[string][]keystead.Digest // by host, the oldest first
	order []keystead.Digest            // all, the oldest first, and some that are gone
}

type boxed struct {
	host    string
	content []byte
	since   time.Time
}

// drop lets go of evidence.
func (b *box) drop(d keystead.Digest) {
	x := b.items[d]
	b.held -= len(x.content)
	delete(b.items, d)
	b.of[x.host] = slices.DeleteFunc(b.of[x.host], func(o keystead.Digest) bool { return o == d })
	if len(b.of[x.host]) == 0 {
		delete(b.of, x.host)
	}
}

// put keeps evidence of a host, and lets go of what is old, and of what the host handed
// in before its last. Without room it is overloaded.
func (b *box) put(host string, content []byte, now time.Time) (keystead.Digest, error) {
	d := keystead.Sum(content)
	b.mu.Lock()
	defer b.mu.Unlock()
	for ; len(b.order) > 0; b.order = b.order[1:] {
		x, there := b.items[b.order[0]]
		if there && now.Sub(x.since) <= boxAge {
			break
		}
		if there {
			b.drop(b.order[0])
		}
	}
	if _, ok := b.items[d]; ok {
		return d, nil
	}
	if own := b.of[host]; len(own) == boxOfOne {
		b.drop(own[0])
	}
	if b.held+len(content) > boxBytes {
		return d, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "evidence", Want: "less evidence under way", Got: "as much as memory is for"})
	}
	if b.items == nil {
		b.items, b.of = map[keystead.Digest]boxed{}, map[string][]keystead.Digest{}
	}
	b.items[d], b.of[host] = boxed{host, content, now}, append(b.of[host], d)
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

package appraise

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/tpm2"
)

// A Memory remembers what appraisal concluded from bytes that hosts send again and
// again: endorsement certificates and package lists. It changes no verdict, only what
// it costs. It may be used by several goroutines at once. Make it by NewMemory.
type Memory struct {
	mu    sync.Mutex
	eks   shelf[rememberedEK]
	lists shelf[*installed]
	refs  shelf[*references]
}

// A shelf holds so many items, of so many bytes in all. What is on it hosts have chosen,
// so each counts for what it takes.
type shelf[T any] struct {
	items       map[keystead.Digest]shelved[T]
	held        int
	most, bytes int
}

type shelved[T any] struct {
	item T
	size int
}

// put puts an item there. It lets go of any others for it, but not of most of them.
func (s *shelf[T]) put(d keystead.Digest, item T, size int) {
	if size > s.bytes/shelfPart {
		return
	}
	s.drop(d)
	for other := range s.items {
		if len(s.items) < s.most && s.held+size <= s.bytes {
			break
		}
		s.drop(other)
	}
	s.items[d] = shelved[T]{item, size}
	s.held += size
}

func (s *shelf[T]) drop(d keystead.Digest) {
	s.held -= s.items[d].size
	delete(s.items, d)
}

// shelfPart is what part of a shelf one item may take.
const shelfPart = 8

// rememberedEK is a chain that verified, and for which times that says the same: as
// long as no certificate that could have had a part in it begins or ends to be valid.
type rememberedEK struct {
	id         *tpm2.EKIdentity
	from, till time.Time
}

// NewMemory returns a memory of at most so many items of each kind, which take so many
// bytes, about.
func NewMemory(most, bytes int) *Memory {
	return &Memory{eks: shelf[rememberedEK]{items: map[keystead.Digest]shelved[rememberedEK]{}, most: most, bytes: bytes},
		lists: shelf[*installed]{items: map[keystead.Digest]shelved[*installed]{}, most: most, bytes: bytes},
		refs:  shelf[*references]{items: map[keystead.Digest]shelved[*references]{}, most: most, bytes: bytes}}
}

// verifyEK is tpm2.VerifyEK.
func (m *Memory) verifyEK(chain [][]byte, ek *tpm2.Public, public []byte, roots tpm2.Roots, at time.Time) (*tpm2.EKIdentity, error) {
	if m == nil {
		return tpm2.VerifyEK(chain, ek, roots, at)
	}
	name := nameOf(append(append([][]byte{}, chain...), public, rootsBytes(roots)))
	m.mu.Lock()
	known, ok := m.eks.items[name]
	m.mu.Unlock()
	if ok && !at.Before(known.item.from) && !at.After(known.item.till) {
		return known.item.id, nil
	}
	id, err := tpm2.VerifyEK(chain, ek, roots, at)
	if err != nil {
		return id, err // a refusal is judged anew each time
	}
	if from, till, ok := tpm2.SteadyTimes(chain, roots, at); ok {
		m.mu.Lock()
		m.eks.put(name, rememberedEK{id, from, till}, 512+len(id.Issuer))
		m.mu.Unlock()
	}
	return id, nil
}

// share returns references like these of another host, so that states need not have
// their own: those of one context whose hosts list the same packages.
func (m *Memory) share(r *references, context keystead.Digest) *references {
	if m == nil {
		return r
	}
	parts := [][]byte{context[:]}
	for _, set := range r.listed {
		marks := make([]byte, len(set))
		for i, on := range set {
			if on {
				marks[i] = 1
			}
		}
		parts = append(parts, marks)
	}
	parts = append(parts, r.proof[:]) // what a list proves of itself is that host's own
	name := nameOf(parts)
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.refs.items[name]; ok {
		return known.item
	}
	m.refs.put(name, r, r.size)
	return r
}

// nameOf names byte strings, in order, so that no other ones have the same name.
func nameOf(parts [][]byte) (d keystead.Digest) {
	h := sha256.New()
	var size [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(size[:], uint64(len(p)))
		h.Write(size[:])
		h.Write(p)
	}
	h.Sum(d[:0])
	return d
}

func rootsBytes(r tpm2.Roots) []byte {
	d := rootsDigest(r)
	return d[:]
}

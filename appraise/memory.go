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
	most  int
	eks   map[keystead.Digest]rememberedEK
	lists map[keystead.Digest]*installed
	refs  map[keystead.Digest]*references
}

// rememberedEK is a chain that verified, and for which times that says the same: as
// long as no certificate that could have had a part in it begins or ends to be valid.
type rememberedEK struct {
	id         *tpm2.EKIdentity
	from, till time.Time
}

// NewMemory returns a memory of at most so many items of each kind.
func NewMemory(most int) *Memory {
	return &Memory{most: most, eks: map[keystead.Digest]rememberedEK{}, lists: map[keystead.Digest]*installed{}, refs: map[keystead.Digest]*references{}}
}

// verifyEK is tpm2.VerifyEK.
func (m *Memory) verifyEK(chain [][]byte, ek *tpm2.Public, public []byte, roots tpm2.Roots, at time.Time) (*tpm2.EKIdentity, error) {
	if m == nil {
		return tpm2.VerifyEK(chain, ek, roots, at)
	}
	name := nameOf(append(append([][]byte{}, chain...), public, rootsBytes(roots)))
	m.mu.Lock()
	known, ok := m.eks[name]
	m.mu.Unlock()
	if ok && !at.Before(known.from) && !at.After(known.till) {
		return known.id, nil
	}
	id, err := tpm2.VerifyEK(chain, ek, roots, at)
	if err != nil {
		return id, err // a refusal is judged anew each time
	}
	if from, till, ok := tpm2.SteadyTimes(chain, roots, at); ok {
		m.mu.Lock()
		makeRoom(m.eks, m.most)
		m.eks[name] = rememberedEK{id, from, till}
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
	if known := m.refs[name]; known != nil {
		return known
	}
	makeRoom(m.refs, m.most)
	m.refs[name] = r
	return r
}

// makeRoom lets go of any item if there are as many as may be.
func makeRoom[T any](items map[keystead.Digest]T, most int) {
	if len(items) < most {
		return
	}
	for d := range items {
		delete(items, d)
		return
	}
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

package parttest

import (
	"crypto/rand"
	"maps"
	"slices"
)

// memory is an ordered store in memory.
type memory struct{ m map[string][]byte }

func newMemory() *memory { return &memory{map[string][]byte{}} }

func (s *memory) clone() *memory { return &memory{maps.Clone(s.m)} }

// Get implements ledger.Reader.
func (s *memory) Get(k []byte) ([]byte, bool, error) { v, ok := s.m[string(k)]; return v, ok, nil }

// Scan implements ledger.Reader.
func (s *memory) Scan(from, to []byte, visit func(k, v []byte) bool) error {
	for _, k := range slices.Sorted(maps.Keys(s.m)) {
		if k >= string(from) && k < string(to) && !visit([]byte(k), s.m[k]) {
			break
		}
	}
	return nil
}

// batch collects what one Apply writes; nil deletes.
type batch struct{ set map[string][]byte }

func newBatch() *batch { return &batch{map[string][]byte{}} }

// Set implements ledger.Writer.
func (b *batch) Set(k, v []byte) error { b.set[string(k)] = append([]byte{}, v...); return nil }

// Delete implements ledger.Writer.
func (b *batch) Delete(k []byte) error { b.set[string(k)] = nil; return nil }

func (s *memory) commit(b *batch) {
	for k, v := range b.set {
		if v == nil {
			delete(s.m, k)
		} else {
			s.m[k] = v
		}
	}
}

func newID() (id [16]byte) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

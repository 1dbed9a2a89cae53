package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A logModel is a store beside all entries that it should have, in memory.
type logModel struct {
	s         *Store
	opts      StoreOptions
	rng       *rand.Rand
	size      int         // of an entry, at most
	entries   []*pb.Entry // entries[i] has index i+2
	pending   []*pb.Entry // what they are once the append under way is done
	committed uint64
	term      uint64
	floor     uint64 // where it is, at most
	cuts      [][2]uint64
	fromDisk  int // reads of what was not in memory
}

func newLogModel(opts StoreOptions, seed uint64, size int) (*logModel, error) {
	opts.Dir, opts.Machine, opts.MemTableBytes = "data", &tally{}, 1<<20
	m := &logModel{rng: rand.New(rand.NewPCG(seed, 5)), size: size, committed: 1, term: 1, floor: 1}
	opts.LogCut = func(from, to uint64) { m.floor, m.cuts = max(m.floor, to), append(m.cuts, [2]uint64{from, to}) }
	m.opts = opts
	if err := m.open(); err != nil {
		return nil, err
	}
	return m, m.s.Bootstrap(1, []Member{{Key: keystead.Sum([]byte("a"))}})
}

func (m *logModel) open() (err error) {
	m.s, err = OpenStore(m.opts)
	return err
}

func (m *logModel) last() uint64 { return uint64(len(m.entries)) + 1 }

// made makes entries that begin at an index.
func (m *logModel) made(from uint64, n int) (ents []*pb.Entry) {
	for i := range uint64(n) {
		command := make([]byte, 1+m.rng.IntN(m.size))
		for j := range command {
			command[j] = byte(m.rng.Uint32())
		}
		data := append(binary.AppendUvarint(appendHead(nil, 1, from+i), uint64(len(command))), command...)
		ents = append(ents, &pb.Entry{Index: new(from + i), Term: new(m.term), Type: pb.EntryNormal.Enum(), Data: data})
	}
	return ents
}

// append writes entries behind the last, or in place of some that are not committed, of
// one message or two at once.
func (m *logModel) append() error {
	var ms []*pb.Message
	next := m.entries
	for range 1 + m.rng.IntN(2) {
		from := uint64(len(next)) + 2
		if m.rng.IntN(4) == 0 {
			from = m.committed + 1 + m.rng.Uint64N(from-m.committed)
			m.term += m.rng.Uint64N(2)
		}
		ents := m.made(from, 1+m.rng.IntN(6))
		next = append(slices.Clone(next[:from-2]), ents...)
		ms = append(ms, &pb.Message{Entries: ents, Responses: []*pb.Message{{}}})
	}
	m.pending = next
	if err := m.s.Append(ms...); err != nil {
		return err
	}
	m.entries = next
	return nil
}

// apply commits some entries and applies them.
func (m *logModel) apply() error {
	m.committed += m.rng.Uint64N(m.last() - m.committed + 1)
	if from := m.s.Applied(); from < m.committed {
		_, err := m.s.Apply(&pb.Message{Entries: m.entries[from-1 : m.committed-1]})
		return err
	}
	return nil
}

// step does one thing.
func (m *logModel) step() error {
	switch n := m.rng.IntN(100); {
	case n < 70:
		return m.append()
	case n < 95:
		return m.apply()
	default:
		to := m.floor + m.rng.Uint64N(m.committed-m.floor+1)/3
		m.s.KeepFrom(to)
		m.floor = max(m.floor, to)
		return nil
	}
}

// check reads some of the log, or with all every entry, and compares.
func (m *logModel) check(all bool) error {
	first, _ := m.s.FirstIndex()
	last, _ := m.s.LastIndex()
	if first > m.floor+1 || last != m.last() {
		return fmt.Errorf("the log is %d to %d, with a floor of %d and %d appended", first, last, m.floor, m.last())
	}
	if _, err := m.s.Entries(first-1, last+1, 1); !errors.Is(err, raft.ErrCompacted) {
		return fmt.Errorf("below the floor: %w", err)
	}
	if _, err := m.s.Entries(first, last+2, 1); !errors.Is(err, raft.ErrUnavailable) {
		return fmt.Errorf("above the end: %w", err)
	}
	if all {
		for i := first; i <= last; i++ {
			if err := m.same(i, i+1, 0); err != nil {
				return err
			}
		}
	}
	for range 3 {
		lo := first + m.rng.Uint64N(last+1-first+1)
		if lo > last {
			continue
		}
		if err := m.same(lo, lo+1+m.rng.Uint64N(last+1-lo), uint64(m.rng.IntN(20*m.size))); err != nil {
			return err
		}
	}
	return m.sameTerm(first - 1)
}

// same compares entries from lo on, and the term of the first.
func (m *logModel) same(lo, hi, size uint64) error {
	if lo <= m.s.log.tail.before {
		m.fromDisk++
	}
	got, err := m.s.Entries(lo, hi, size)
	if err != nil || len(got) == 0 || uint64(len(got)) > hi-lo {
		return fmt.Errorf("entries %d to %d: %d of them, %w", lo, hi, len(got), err)
	}
	for i, e := range got {
		want := m.entries[lo+uint64(i)-2]
		if e.GetIndex() != want.GetIndex() || e.GetTerm() != want.GetTerm() || e.GetType() != want.GetType() || !bytes.Equal(e.GetData(), want.GetData()) {
			return fmt.Errorf("entry %d of term %d is read as %d of term %d", want.GetIndex(), want.GetTerm(), e.GetIndex(), e.GetTerm())
		}
	}
	if limited := limit(got, size); len(limited) != len(got) {
		return fmt.Errorf("entries from %d exceed %d bytes", lo, size)
	}
	return m.sameTerm(lo)
}

func (m *logModel) sameTerm(i uint64) error {
	want := uint64(1)
	if i >= 2 {
		want = m.entries[i-2].GetTerm()
	}
	if got, err := m.s.Term(i); err != nil || got != want {
		return fmt.Errorf("entry %d has term %d, and is said to have %d, %w", i, want, got, err)
	}
	return nil
}

// TestLogFromDisk: whatever is appended, overwritten, let go and started anew, what is
// read is what memory would have.
func TestLogFromDisk(t *testing.T) {
	for name, tc := range map[string]struct {
		retain uint64
		size   int
		steps  int
	}{
		"spans of several segments": {1 << 10, 100, 1500},
		"several spans a segment":   {4 << 20, 20_000, 900},
		"bodies in parts":           {8 << 20, 600_000, 40},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				m, err := newLogModel(StoreOptions{FS: vfs.NewMem(), RetainBytes: tc.retain}, seed, tc.size)
				if err != nil {
					t.Fatal(err)
				}
				for step := range tc.steps {
					reopen := m.rng.IntN(100) == 0
					if reopen {
						err = errors.Join(m.s.Close(), m.open())
					} else {
						err = m.step()
					}
					if err == nil {
						err = m.check(reopen)
					}
					if err != nil {
						t.Fatalf("seed %d, step %d: %v", seed, step, err)
					}
				}
				for _, s := range m.s.log.index.spans {
					if n := s.at.To - s.at.From; n > spanBytes+maxBody+uint64(tc.size)+100 {
						t.Errorf("seed %d: %d bytes are read at once", seed, n)
					}
				}
				first, _ := m.s.FirstIndex()
				if err := errors.Join(m.check(true), m.s.Close()); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if m.fromDisk < tc.steps/4 || first < 3 {
					t.Errorf("seed %d: %d reads from disk, a log from %d", seed, m.fromDisk, first)
				}
			}
		})
	}
}

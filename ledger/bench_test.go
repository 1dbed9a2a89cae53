package ledger_test

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// pebbleStore lets a machine read and write the store that nodes use.
type pebbleStore struct {
	*pebble.DB
	buf []byte
}

func (s *pebbleStore) Get(k []byte) ([]byte, bool, error) {
	v, closer, err := s.DB.Get(k)
	if err == pebble.ErrNotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	s.buf = append(s.buf[:0], v...)
	return s.buf, true, closer.Close()
}

func (s *pebbleStore) Scan(from, to []byte, visit func(k, v []byte) bool) error {
	it, err := s.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && visit(it.Key(), it.Value()); ok = it.Next() {
	}
	return it.Close()
}

type pebbleBatch struct{ *pebble.Batch }

func (b pebbleBatch) Set(k, v []byte) error { return b.Batch.Set(k, v, nil) }
func (b pebbleBatch) Delete(k []byte) error { return b.Batch.Delete(k, nil) }

// nothing takes writes and keeps none: what is left is Apply itself.
type nothing struct{}

func (nothing) Set(_, _ []byte) error { return nil }
func (nothing) Delete([]byte) error   { return nil }

func openPebble(t testing.TB) *pebbleStore {
	db, err := pebble.Open("state", &pebble.Options{FS: vfs.NewMem(), MemTableSize: 64 << 20, DisableWAL: true, Logger: quiet{}})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return &pebbleStore{DB: db}
}

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// busy returns the processor time that this process has used, all cores.
func busy() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perCore runs the rest of a benchmark and reports processor time, which other
// programs on the machine hardly change.
func perCore(b *testing.B, what string, run func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before := busy()
	run()
	spent := busy() - before
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/spent.Seconds(), what+"/s/core")
}

// puts makes n put entries of random keys with values of size bytes.
func puts(t testing.TB, n, size int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		r := ledger.RequestID{Deadline: epoch + 1000 + uint64(i)%29_000}
		binary.BigEndian.PutUint64(r.ID[:], uint64(i)*0x9E3779B97F4A7C15)
		key := fmt.Sprintf("kv/%016x", uint64(i)*0x9E3779B97F4A7C15)
		e, err := (&ledger.Transaction{Request: r, Contract: ledger.KV, Writes: []ledger.Write{{Key: key, Value: make([]byte, size)}}}).Entry()
		must(t, err)
		out[i] = e
	}
	return out
}

// BenchmarkApply applies puts in batches of 256: leaf hash, tree, exactly-once,
// and the batch's content, without (nothing) and with (pebble) the store.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{100, 1024} {
		for _, kind := range []string{"nothing", "pebble"} {
			b.Run(fmt.Sprintf("%s/%dB", kind, size), func(b *testing.B) { benchmarkApply(b, kind, size) })
		}
	}
}

func benchmarkApply(b *testing.B, kind string, size int) {
	d := newDomain(b, 3)
	db := openPebble(b)
	m, err := ledger.Open(db, d.id)
	must(b, err)
	commit := func(entries []ledger.Committed) {
		if kind == "nothing" {
			_, err := m.Apply(entries, nothing{})
			must(b, err)
			return
		}
		batch := db.NewBatch()
		out, err := m.Apply(entries, pebbleBatch{batch})
		must(b, err)
		for _, r := range out.Results {
			must(b, r.Err)
		}
		must(b, batch.Commit(pebble.NoSync))
	}
	commit([]ledger.Committed{{Index: 1, Data: d.genesis}})
	data := puts(b, b.N, size)
	batch := make([]ledger.Committed, 0, 256)
	perCore(b, "puts", func() {
		for i, e := range data {
			batch = append(batch, ledger.Committed{Index: uint64(i + 2), Data: e})
			if len(batch) == cap(batch) || i == len(data)-1 {
				commit(batch)
				batch = batch[:0]
			}
		}
	})
}

// BenchmarkReceipt makes receipts of leaves all over the tree, and verifies them.
func BenchmarkReceipt(b *testing.B) {
	const leaves = 1 << 17
	d := newDomain(b, 3)
	db := openPebble(b)
	m, err := ledger.Open(db, d.id)
	must(b, err)
	index := uint64(0)
	commit := func(entries ...[]byte) {
		batch := db.NewBatch()
		var all []ledger.Committed
		for _, e := range entries {
			index++
			all = append(all, ledger.Committed{Index: index, Data: e})
		}
		out, err := m.Apply(all, pebbleBatch{batch})
		must(b, err)
		for _, r := range out.Results {
			must(b, r.Err)
		}
		must(b, batch.Commit(pebble.NoSync))
	}
	commit(d.genesis)
	data := puts(b, leaves, 100)
	for i := 0; i < leaves; i += 256 {
		commit(data[i:min(i+256, leaves)]...)
	}
	d.machine = m
	commit(d.vote("node-1", m.Size()))
	commit(d.vote("node-2", m.Size()))
	must(b, db.Flush())
	prover, err := ledger.NewProver(db)
	must(b, err)
	v := receipt.NewVerifier(d.id)
	var texts [][]byte
	leaf := func(i int) uint64 { return uint64(i) * 0x9E3779B1 % leaves }
	for i := range 1024 {
		r, err := prover.Receipt(leaf(i))
		must(b, err)
		texts = append(texts, r.Bytes())
	}
	b.Run("make", func(b *testing.B) {
		perCore(b, "receipts", func() {
			for i := range b.N {
				r, err := prover.Receipt(leaf(i))
				must(b, err)
				r.Bytes()
			}
		})
	})
	b.Run("verify", func(b *testing.B) {
		perCore(b, "receipts", func() {
			for i := range b.N {
				_, err := v.Verify(texts[i%len(texts)])
				must(b, err)
			}
		})
	})
	b.Run("both", func(b *testing.B) {
		perCore(b, "receipts", func() {
			for i := range b.N {
				r, err := prover.Receipt(leaf(i))
				must(b, err)
				_, err = v.Verify(r.Bytes())
				must(b, err)
			}
		})
	})
	b.Logf("a receipt has %d bytes", len(texts[0]))
}

package replica

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// manyKeys fills a store's state with n small records and as many large values, in
// several tables, and returns their keys.
func manyKeys(tb testing.TB, n int) (*Store, [][]byte) {
	tb.Helper()
	cache := pebble.NewCache(512 << 20)
	defer cache.Unref()
	s, err := OpenStore(StoreOptions{FS: vfs.NewMem(), Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20, Cache: cache})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	var keys [][]byte
	for i := range n {
		small := stateKey(fmt.Appendf(nil, "ckv/%d/%d", i%4, i))
		large := binary.BigEndian.AppendUint64(stateKey([]byte("e")), uint64(i))
		keys = append(keys, small, large)
		if err := s.db.Set(small, small, pebble.NoSync); err != nil {
			tb.Fatal(err)
		}
		if err := s.db.Set(large, append(make([]byte, 1000), large...), pebble.NoSync); err != nil {
			tb.Fatal(err)
		}
	}
	return s, keys
}

func TestMomentReadsWhatIsThere(t *testing.T) {
	s, keys := manyKeys(t, 5000)
	err := s.moment(func(v View) error {
		for i := range 500 {
			key := keys[rand.IntN(len(keys))]
			got, found, err := v.Get(key[1:])
			if err != nil || !found || string(got[max(0, len(got)-len(key)):]) != string(key) {
				t.Fatalf("%q: %q, found %v, %v", key, got, found, err)
			}
			// Neither a key that another begins with, nor one that is gone, is there; and
			// what is written now is of another moment.
			if _, found, err := v.Get(key[1 : len(key)-1]); i > 0 && found && !isKey(keys, key[:len(key)-1]) || err != nil {
				t.Fatalf("%q is there: %v", key[:len(key)-1], err)
			}
			if err := s.db.Set(key, []byte("later"), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			if again, _, err := v.Get(key[1:]); err != nil || string(again) != string(got) {
				t.Fatalf("%q was %q and became %q in a moment: %v", key, got, again, err)
			}
			if err := s.db.Set(key, got, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		for kind := range byte(2 * maxIters) { // more kinds than iterators
			if _, found, err := v.Get([]byte{kind, 0}); found || err != nil {
				t.Fatalf("kind %d: found %v, %v", kind, found, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func isKey(keys [][]byte, key []byte) bool {
	for _, k := range keys {
		if string(k) == string(key) {
			return true
		}
	}
	return false
}

// BenchmarkMoment reads 64 small records and the large value of each, from a snapshot
// alone and with what a moment keeps open.
func BenchmarkMoment(b *testing.B) {
	s, keys := manyKeys(b, 100_000)
	run := func(name string, with func(func(View) error) error) {
		b.Run(name, func(b *testing.B) {
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			for range b.N {
				if err := with(func(v View) error {
					for range 64 {
						i := 2 * rand.IntN(len(keys)/2)
						for _, key := range keys[i : i+2] {
							if _, found, err := v.Get(key[1:]); !found || err != nil {
								return fmt.Errorf("%q: %v", key, err)
							}
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano()+after.Stime.Nano()-before.Stime.Nano())/float64(b.N)/1e3, "cpu-us/op")
		})
	}
	run("snapshot", func(read func(View) error) error {
		snapshot := s.db.NewSnapshot()
		defer snapshot.Close()
		return read(View{snapshot})
	})
	run("moment", s.moment)
}

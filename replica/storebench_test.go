package replica

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

// keeper is a state machine that keeps each command under its number, and a small
// record under a key of its own, as a ledger does.
type keeper struct{ n uint64 }

func (m *keeper) Open(View, uint64) error { return nil }
func (m *keeper) Position([]byte) bool    { return false }

func (m *keeper) Apply(w *Batch, commands []Command, results [][]byte) ([][]byte, error) {
	for _, c := range commands {
		m.n++
		w.Set(binary.BigEndian.AppendUint64([]byte("e"), m.n), c.Data)
		w.Set(binary.BigEndian.AppendUint64([]byte("kv/"), m.n*0x9E3779B97F4A7C15), c.Data[:17])
	}
	return results[:len(commands)], nil
}

// BenchmarkStore appends and applies entries of 200 commands on one disk, and reports
// the processor time of a command, flushes and compactions included. Put
// KEYSTEAD_BENCH_DIR on the disk that is to be measured.
func BenchmarkStore(b *testing.B) {
	for _, size := range []int{160, 1084} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) { benchStore(b, size) })
	}
}

func benchStore(b *testing.B, size int) {
	dir, err := os.MkdirTemp(os.Getenv("KEYSTEAD_BENCH_DIR"), "store")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s, err := OpenStore(StoreOptions{FS: vfs.Default, Dir: dir, Machine: &keeper{}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Bootstrap(1, []Member{{}}); err != nil {
		b.Fatal(err)
	}
	const commands = 200
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random) // never fails
	before, began := processorTime(), time.Now()
	b.ResetTimer()
	for i := 0; i*commands < b.N; i++ {
		data := appendHead(make([]byte, 0, commands*(size+2)+17), 1, uint64(i+1))
		for j := range min(commands, b.N-i*commands) {
			n := (i*commands + j) * 7919 % (len(random) - size)
			data = append(binary.AppendUvarint(data, uint64(size)), random[n:n+size]...)
		}
		e := &pb.Entry{Index: new(uint64(i + 2)), Term: new(uint64(1)), Type: pb.EntryNormal.Enum(), Data: data}
		if err := s.Append(&pb.Message{Entries: []*pb.Entry{e}, Responses: []*pb.Message{{}}}); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Apply(&pb.Message{Entries: []*pb.Entry{e}}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "commands/s")
}

// processorTime is what this process has used of all cores.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it has no way to fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLogRead reads a log of 256 MiB by index, from disk and in order, as a member
// that lags is sent it: MB/s are of the entries' own bytes.
func BenchmarkLogRead(b *testing.B) {
	for _, size := range []int{1 << 10, 200 << 10} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			s, last := benchLog(b, 256<<20, size)
			defer s.Close()
			b.ResetTimer()
			sum, at := 0, uint64(2)
			for range b.N {
				if at > s.log.tail.before {
					at = 2
				}
				ents, err := s.Entries(at, last+1, 1<<20)
				if err != nil {
					b.Fatal(err)
				}
				for _, e := range ents {
					sum += len(e.GetData())
				}
				at += uint64(len(ents))
			}
			b.ReportMetric(float64(sum)/1e6/b.Elapsed().Seconds(), "MB/s")
		})
	}
}

// BenchmarkLogOpen opens a store with 1 GiB of log, which was read before.
func BenchmarkLogOpen(b *testing.B) {
	for _, size := range []int{1 << 10, 200 << 10} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			s, _ := benchLog(b, 1<<30, size)
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				err := s.Close()
				b.StartTimer()
				if err == nil {
					s, err = OpenStore(s.opts)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(1<<30)/1e6*float64(b.N)/b.Elapsed().Seconds(), "MB/s")
			b.StopTimer()
			s.Close()
		})
	}
}

// benchLog is a store with so many bytes of log, in entries of a size.
func benchLog(b *testing.B, bytes, size int) (s *Store, last uint64) {
	dir, err := os.MkdirTemp(os.Getenv("KEYSTEAD_BENCH_DIR"), "log")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if s, err = OpenStore(StoreOptions{FS: vfs.Default, Dir: dir, Machine: &keeper{}}); err != nil {
		b.Fatal(err)
	}
	if err := s.Bootstrap(1, []Member{{}}); err != nil {
		b.Fatal(err)
	}
	data := appendHead(make([]byte, 0, size), 2, 1) // of no member, so that the state stays small
	_, _ = rand.Read(data[len(data):size])          // never fails
	last = 1
	for written := 0; written < bytes; {
		var ents []*pb.Entry
		for n := 0; n < 256<<10; n += size {
			last++
			ents = append(ents, &pb.Entry{Index: new(last), Term: new(uint64(1)), Type: pb.EntryNormal.Enum(), Data: data[:size]})
			written += size
		}
		if err := s.Append(&pb.Message{Entries: ents, Responses: []*pb.Message{{}}}); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Apply(&pb.Message{Entries: ents}); err != nil {
			b.Fatal(err)
		}
	}
	return s, last
}

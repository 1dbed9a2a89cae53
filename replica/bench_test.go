package replica_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead/replica"
)

// noop is the state machine that does nothing: what it costs is the loop's.
type noop struct{}

func (noop) Open(replica.View, uint64) error { return nil }
func (noop) Position([]byte) bool            { return false }
func (noop) Apply(_ *replica.Batch, commands []replica.Command, results [][]byte) ([][]byte, error) {
	return results[:len(commands)], nil
}

// BenchmarkLoop is the bare loop: three nodes over loopback TLS, each of which
// syncs its log, and clients that each wait for their command before the next.
// Put KEYSTEAD_BENCH_DIR on the disk that is to be measured.
func BenchmarkLoop(b *testing.B) {
	for _, size := range []int{100, 1024} {
		for _, clients := range []int{1, 64, 1024, 4096} {
			b.Run(fmt.Sprintf("size=%d/clients=%d", size, clients), func(b *testing.B) { benchLoop(b, size, clients) })
		}
	}
}

func benchLoop(b *testing.B, size, clients int) {
	ms := benchGroup(b, func() replica.StateMachine { return noop{} })
	ctx := context.Background()
	leader := leaderOf(b, ms)
	eventually(b, func() error { _, err := leader.node.Propose(ctx, make([]byte, size)); return err })
	took := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	b.ResetTimer()
	for c := range clients {
		n := b.N / clients
		if c < b.N%clients {
			n++
		}
		wg.Go(func() {
			command := make([]byte, size)
			took[c] = make([]time.Duration, 0, n)
			for range n {
				start := time.Now()
				if _, err := leader.node.Propose(ctx, command); err != nil {
					b.Error(err)
					return
				}
				took[c] = append(took[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRead is linearizable reads at a follower.
func BenchmarkRead(b *testing.B) {
	ms := benchGroup(b, func() replica.StateMachine { return noop{} })
	ctx := context.Background()
	follower := without(ms, leaderOf(b, ms))[0]
	eventually(b, func() error { return follower.node.Read(ctx) })
	b.SetParallelism(256)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := follower.node.Read(ctx); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
	b.ReportMetric(0, "ns/op")
}

func benchGroup(b *testing.B, sm func() replica.StateMachine) []*machine {
	var ms []*machine
	var founders []replica.Member
	for range 3 {
		m := newMachine(b, true)
		if dir := os.Getenv("KEYSTEAD_BENCH_DIR"); dir != "" {
			var err error
			if m.dir, err = os.MkdirTemp(dir, "bench"); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { os.RemoveAll(m.dir) })
		}
		ms, founders = append(ms, m), append(founders, m.member())
	}
	for _, m := range ms {
		o := m.options(founders, nil)
		o.Store.Machine, o.Tick = sm(), 50*time.Millisecond
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		n, err := replica.Start(ctx, o)
		if err != nil {
			b.Fatal(err)
		}
		m.node = n
	}
	return ms
}

package domain_test

import (
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/keystead/keystead/replica/sim/domain"
)

var (
	seeds = flag.Int("seeds", 24, "how many seeds to run")
	first = flag.Uint64("seed", 1, "the first seed; with -seeds=1 its transcript is printed")
)

// options are a seed's.
func options(seed uint64, trace io.Writer) domain.Options {
	r := rand.New(rand.NewPCG(seed, 0x6f707473))
	o := domain.Options{Seed: seed, Nodes: []int{3, 5, 3, 4}[r.IntN(4)], Crashes: r.IntN(3) == 0, Trace: trace, End: 8 * time.Second}
	switch r.IntN(4) {
	case 0:
		o.Lies = append(o.Lies, domain.Fork, domain.Tongues[r.IntN(len(domain.Tongues))])
		o.Crashes = false
	case 1:
		if r.IntN(3) == 0 {
			o.Lies, o.Crashes = append(o.Lies, domain.Commit), false
			break
		}
		fallthrough
	default:
		for range 1 + r.IntN(3) {
			o.Lies = append(o.Lies, domain.Peaceful[r.IntN(len(domain.Peaceful))])
		}
	}
	if o.Nodes < 5 {
		o.Crashes = false // with one that lies, one that is down is one too many
	}
	return o
}

// TestLiar runs domains with a host that lies, and checks every invariant.
func TestLiar(t *testing.T) {
	var sum domain.Result
	for seed := *first; seed < *first+uint64(*seeds); seed++ {
		var trace io.Writer
		if *seeds == 1 {
			trace = os.Stdout
		}
		o := options(seed, trace)
		r := domain.Run(o)
		if r.Err != nil {
			t.Errorf("seed %d, %d nodes, lies %v: %v\nreplay: go test ./replica/sim/domain -run TestLiar -seeds=1 -seed=%d", seed, o.Nodes, o.Lies, r.Err, seed)
		}
		if *seeds == 1 {
			t.Logf("%+v", r)
		}
		sum.Acked, sum.Receipts, sum.Grants, sum.Forks = sum.Acked+r.Acked, sum.Receipts+r.Receipts, sum.Grants+r.Grants, sum.Forks+r.Forks
		sum.Convicted, sum.Forged = sum.Convicted+r.Convicted, sum.Forged+r.Forged
		sum.Detected, sum.Proved, sum.Stopped = append(sum.Detected, r.Detected...), append(sum.Proved, r.Proved...), append(sum.Stopped, r.Stopped...)
	}
	t.Logf("%d seeds: %d puts acknowledged, %d proven by receipts, %d grants; %d forks, %d pairs of forged trees, %d convictions, %d honest hosts stopped",
		*seeds, sum.Acked, sum.Receipts, sum.Grants, sum.Forks, sum.Forged, sum.Convicted, len(sum.Stopped))
	t.Logf("from a fork to a closed gate: %s; to a proof: %s", spread(sum.Detected), spread(sum.Proved))
}

// spread describes durations.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	slices.Sort(d)
	at := func(p int) string { return d[(len(d)-1)*p/100].Round(time.Millisecond).String() }
	return "median " + at(50) + ", 90% " + at(90) + ", 99% " + at(99) + ", most " + at(100)
}

package domain_test

import (
	"bytes"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead/replica/internal/defect"
	"github.com/keystead/keystead/replica/sim/domain"
)

var (
	seeds = flag.Int("seeds", 12, "how many seeds to run")
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
	if seed%20 == 4 { // members put an end to a fork
		o.Nodes, o.Crashes, o.Evict, o.Lies = 5, false, true, []domain.Lie{domain.Fork, domain.Tongues[r.IntN(len(domain.Tongues))]}
	}
	if seed%5 == 3 { // hosts come back without their state, and ask others for it
		o.Nodes, o.Crashes, o.Forget, o.Lies = 5, true, true, []domain.Lie{domain.Returning[r.IntN(len(domain.Returning))]}
		for range r.IntN(3) {
			o.Lies = append(o.Lies, domain.Returning[r.IntN(len(domain.Returning))])
		}
	}
	if o.Nodes < 5 {
		o.Crashes = false // with one that lies, one that is down is one too many
	}
	return o
}

// TestLiar runs domains with a host that lies, and checks every invariant.
func TestLiar(t *testing.T) {
	sum := domain.Result{Lies: map[domain.Lie]int{}}
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
		sum.Returned += r.Returned
		sum.Rejoined, sum.Taken, sum.Refused = sum.Rejoined+r.Rejoined, sum.Taken+r.Taken, sum.Refused+r.Refused
		sum.Convicted, sum.Forged = sum.Convicted+r.Convicted, sum.Forged+r.Forged
		for l, n := range r.Lies {
			sum.Lies[l] += n
		}
		sum.Detected, sum.Proved, sum.Stopped = append(sum.Detected, r.Detected...), append(sum.Proved, r.Proved...), append(sum.Stopped, r.Stopped...)
	}
	t.Logf("%d seeds: %d puts acknowledged, %d proven by receipts, %d grants; %d forks, %d pairs of forged trees, %d convictions, %d honest hosts stopped",
		*seeds, sum.Acked, sum.Receipts, sum.Grants, sum.Forks, sum.Forged, sum.Convicted, len(sum.Stopped))
	t.Logf("%d honest hosts were led astray and began anew; %d came back without their state; %d snapshots taken in, %d refused", sum.Returned, sum.Rejoined, sum.Taken, sum.Refused)
	t.Logf("lies told: %v", sum.Lies)
	if *seeds >= 12 && *first == 1 && (sum.Receipts == 0 || sum.Grants == 0 || sum.Forks == 0 || sum.Convicted == 0 || sum.Rejoined == 0) {
		t.Error("nothing of that was put to the test")
	}
	if *seeds >= 100 && (sum.Returned == 0 || sum.Taken == 0 || sum.Refused == 0) {
		t.Error("no state was put to the test")
	}
	t.Logf("from a fork to a closed gate: %s; to a proof: %s", spread(sum.Detected), spread(sum.Proved))
}

// TestForkCloses: among three nodes a leader that tells two stories has each follower for a
// majority. Both close and prove it bad; with four nodes it gets no two receipts that exclude
// each other, and with five those that it did not lead astray go on if they are a majority.
func TestForkCloses(t *testing.T) {
	for seed := uint64(1); seed <= 3; seed++ {
		r := domain.Run(domain.Options{Seed: seed, Nodes: 3, Lies: []domain.Lie{domain.Fork}, End: 5 * time.Second})
		if r.Err != nil || r.Forks != 1 || r.Convicted != 2 || len(r.Detected) != 2 || slices.Max(r.Detected) > time.Second {
			t.Errorf("seed %d, 3 nodes: %v; %d forks, %d convictions, gates closed after %v", seed, r.Err, r.Forks, r.Convicted, r.Detected)
		}
		r = domain.Run(domain.Options{Seed: seed, Nodes: 4, Lies: []domain.Lie{domain.Fork}, End: 5 * time.Second})
		if r.Err != nil || r.Forks == 0 || r.Forged != 0 {
			t.Errorf("seed %d, 4 nodes: %v; %d forks, %d pairs of forged trees", seed, r.Err, r.Forks, r.Forged)
		}
	}
}

// TestEvicted: after a fork, members evict the liar and have the one host that it led astray
// begin anew under another key. It comes back by a state that a majority signed, or by the
// log, and is not proven bad.
func TestEvicted(t *testing.T) {
	returned := 0
	for seed := uint64(1); seed <= 3; seed++ {
		r := domain.Run(domain.Options{Seed: seed, Nodes: 5, Lies: []domain.Lie{domain.Fork}, Evict: true, End: 8 * time.Second})
		if r.Err != nil {
			t.Errorf("seed %d: %v", seed, r.Err)
		}
		returned += r.Returned
	}
	if returned < 2 {
		t.Errorf("%d hosts were led astray and came back", returned)
	}
}

// TestSameSeedSameRun holds the simulation to what replaying rests on.
func TestSameSeedSameRun(t *testing.T) {
	for _, lies := range [][]domain.Lie{{domain.Fork}, {domain.Beats, domain.Roots}} {
		var runs [2]bytes.Buffer
		for i := range runs {
			domain.Run(domain.Options{Seed: 1000, Nodes: 3, Lies: lies, Trace: &runs[i], End: 3 * time.Second})
		}
		a, b := strings.Split(runs[0].String(), "\n"), strings.Split(runs[1].String(), "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("%v: line %d differs:\n%s\n%s", lies, i+1, a[i], b[i])
			}
		}
		if len(a) != len(b) || len(a) < 12 {
			t.Fatalf("%v: transcripts of %d and %d lines", lies, len(a), len(b))
		}
	}
}

// TestDefectsAreFound proves that the invariants can fail: with one defence switched off,
// some seed breaks one.
func TestDefectsAreFound(t *testing.T) {
	for _, tc := range []struct {
		name   string
		nodes  int
		lies   []domain.Lie
		defect domain.Defect
		below  defect.Defect // of package replica
		want   string
	}{
		{"no gate", 3, []domain.Lie{domain.Fork}, domain.NoGate, defect.None, "after it came to stand with a minority"},
		{"what is handed on is agreement", 3, []domain.Lie{domain.Fork, domain.Echo}, domain.Gossip, defect.None, "after it came to stand with a minority"},
		{"nobody is shunned", 5, []domain.Lie{domain.Fork}, domain.NoShun, defect.None, "that it has proven bad"},
		{"heartbeats are believed", 3, []domain.Lie{domain.Inflate}, domain.None, defect.Beats, "disk-rolled-back"},
		{"members are taken at their word", 3, []domain.Lie{domain.Usurps}, domain.None, defect.Trust, "closed"},
		{"a snapshot at one node's word", 5, []domain.Lie{domain.Snapshots}, domain.OneVoucher, defect.None, "that is not that of"},
		{"a state is acted on at once", 5, []domain.Lie{domain.Snapshots}, domain.Unconfirmed, defect.None, "by a state that no majority has come to"},
		{"one digest for a majority's", 5, []domain.Lie{domain.Digests}, domain.OneWord, defect.None, "closed"},
		{"the first id that is given", 5, []domain.Lie{domain.Joins}, domain.OneAnswer, defect.None, "which no honest host gave it"},
		{"whom was lied to keeps its key", 5, []domain.Lie{domain.Fork}, domain.OldKey, defect.None, "an honest node to be proven bad"},
		{"nobody vouches", 5, []domain.Lie{domain.Fork}, domain.NoVouch, defect.None, "is not back"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defect.On = tc.below
			defer func() { defect.On = defect.None }()
			returns := tc.defect >= domain.OneVoucher && tc.defect <= domain.OneAnswer
			from := uint64(1)
			if tc.defect == domain.OneVoucher {
				from = 10 // few schedules need a state at all
			}
			for seed := from; seed < from+20; seed++ {
				r := domain.Run(domain.Options{Seed: seed, Nodes: tc.nodes, Lies: tc.lies, Defect: tc.defect, End: 8 * time.Second,
					Forget: returns, Crashes: returns, Evict: tc.defect > domain.OneAnswer})
				if r.Err != nil {
					if !strings.Contains(r.Err.Error(), tc.want) {
						t.Fatalf("seed %d: want a failure with %q, got %v", seed, tc.want, r.Err)
					}
					t.Logf("found by seed %d: %.200v", seed, r.Err)
					return
				}
			}
			t.Fatal("20 seeds did not find it")
		})
	}
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

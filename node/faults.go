package node

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/keystead/keystead"
)

// How long a node is left out of rounds for what it did to them.
const (
	spareFor    = time.Minute      // the first time; each further one twice as long
	spareProven = time.Hour        // at most, for what its own signatures prove
	spareMost   = 10 * time.Minute // at most, for what another could have brought about: silence, lost or late records
	faultFor    = 3 * time.Hour    // a fault is remembered

	lossesFree = 2                // starts within a round, in lackWithin, that are taken for bad luck
	lacksFree  = 5                // epochs that a node may ask for in lackWithin, by saying that it lacks the secret
	lackWithin = 10 * time.Minute // the window of both
)

// proven reports whether signatures of the node that is blamed prove a fault: whatever
// any node writes, they are the node's own words, and contradict each other.
func proven(why error) bool {
	return errors.Is(why, keystead.ReasonCommitBroken) || errors.Is(why, keystead.ReasonCommitChanged) || errors.Is(why, keystead.ReasonSealUnopened)
}

// faults are what this node saw others do to rounds. Each node keeps its own, so that
// a new leader knows.
type faults struct {
	by map[string]*fault
}

// fault is what one node did.
type fault struct {
	count  int
	last   time.Time
	until  time.Time // left out until then
	losses []time.Time
	lacks  []time.Time
	lacked uint64 // the newest epoch of lacks
}

func (f *faults) of(node string) *fault {
	if f.by == nil {
		f.by = map[string]*fault{}
	}
	if f.by[node] == nil {
		f.by[node] = &fault{}
	}
	return f.by[node]
}

// blame takes note that a node let a round fail, and returns for how long it is left
// out; 0 for what may happen to anybody.
func (f *faults) blame(node string, why error, now time.Time) time.Duration {
	x := f.of(node)
	if errors.Is(why, keystead.ReasonContributionLost) {
		if x.losses = append(recent(x.losses, now), now); len(x.losses) <= lossesFree {
			return 0
		}
	}
	if now.Sub(x.last) > faultFor {
		x.count = 0
	}
	most := spareMost
	if proven(why) {
		most = spareProven
	}
	spare := min(spareFor<<min(x.count, 16), most)
	x.count, x.last = x.count+1, now
	x.until = later(x.until, now.Add(spare))
	return spare
}

// lacks takes note that a node says that it lacks an epoch's secret, and reports whether
// it says so too often: each time the others would make another epoch.
func (f *faults) lacks(node string, epoch uint64, now time.Time) bool {
	x := f.of(node)
	if epoch <= x.lacked {
		return false
	}
	x.lacked = epoch
	if x.lacks = append(recent(x.lacks, now), now); len(x.lacks) <= lacksFree {
		return false
	}
	x.until = later(x.until, x.lacks[0].Add(lackWithin))
	return true
}

// skipped returns the nodes to be left out now, of those that can be counted on: the worst
// first, and no more than leave as many as are needed. Else who can make others look
// silent could keep the domain from agreeing on anything.
func (f *faults) skipped(live []string, need int, now time.Time) map[string]bool {
	out := map[string]bool{}
	var bad []string
	for _, name := range live {
		if x := f.by[name]; x != nil && now.Before(x.until) {
			bad = append(bad, name)
		}
	}
	slices.SortFunc(bad, func(a, b string) int {
		return cmp.Or(cmp.Compare(f.by[b].until.UnixNano(), f.by[a].until.UnixNano()), cmp.Compare(a, b))
	})
	for _, name := range bad[:min(len(bad), max(0, len(live)-need))] {
		out[name] = true
	}
	return out
}

func recent(times []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(times, func(t time.Time) bool { return now.Sub(t) > lackWithin })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

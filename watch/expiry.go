package watch

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// maxExpired is how many leases that ran out are remembered for watchers.
const maxExpired = 4096

// Expiries finds the leases that run out, which no leaf says, from its first Step on: of each lease it looks at the state when it would end, and again then if it
// was renewed.
type Expiries struct {
	mu      sync.Mutex
	expired []*apiv1.HostEvent // ascending by time
	clock   uint64             // up to which all that ran out are known

	// of Step alone
	ends  ends
	known map[string]uint64 // host: version of the lease in ends; nil before the first look
	next  uint64            // leaf
}

// end is when a lease ends, as far as it is known.
type end struct {
	host    string
	version uint64
	until   uint64
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].until < e[j].until }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any          { x := (*e)[len(*e)-1]; *e = (*e)[:len(*e)-1]; return x }

// Step goes on to the state of one moment. It is not called beside itself.
func (x *Expiries) Step(v ledger.View) error {
	st, err := v.Status()
	if err != nil {
		return err
	}
	if x.known == nil {
		x.known, x.ends, x.next = map[string]uint64{}, nil, st.Size
		if err := x.all(v); err != nil {
			x.known = nil
			return err
		}
	}
	for ; x.next < st.Size; x.next++ {
		if err := x.leaf(v, x.next); err != nil {
			return err
		}
	}
	var found []*apiv1.HostEvent
	for len(x.ends) > 0 && x.ends[0].until <= st.Clock {
		e := heap.Pop(&x.ends).(end)
		if x.known[e.host] != e.version {
			continue // admitted again since
		}
		over, err := x.over(v, e)
		if err != nil {
			heap.Push(&x.ends, e)
			return err
		}
		if over != nil {
			found = append(found, over)
		}
	}
	slices.SortStableFunc(found, func(a, b *apiv1.HostEvent) int { return cmp.Compare(a.GetTimeMs(), b.GetTimeMs()) })
	x.mu.Lock()
	defer x.mu.Unlock()
	x.expired = append(x.expired, found...)
	if more := len(x.expired) - maxExpired; more > 0 {
		x.expired = slices.Clone(x.expired[more:])
	}
	x.clock = max(x.clock, st.Clock)
	return nil
}

// all takes up every lease of the state.
func (x *Expiries) all(v ledger.View) error {
	var hosts []string
	err := v.JudgedKeys(admit.LeasePrefix, "", func(key string, _ ledger.Value) bool {
		hosts = append(hosts, key[len(admit.LeasePrefix):])
		return true
	})
	for _, host := range hosts {
		if err != nil {
			return err
		}
		var st admit.Standing
		if st, err = admit.Look(v, host); err == nil && st.Record != nil {
			x.push(end{host, st.Version, st.Until})
		}
	}
	return err
}

func (x *Expiries) push(e end) {
	x.known[e.host] = e.version
	heap.Push(&x.ends, e)
}

// leaf takes up an admission.
func (x *Expiries) leaf(v ledger.View, leaf uint64) error {
	entry, err := v.Entry(leaf)
	if err != nil {
		return err
	}
	if kind, _, err := receipt.Split(entry); err != nil || kind != receipt.KindEffective {
		return err
	}
	events, err := judged(v, entry)
	for _, e := range events {
		if e.GetEvent() == "admitted" {
			x.push(end{e.GetHost(), leaf + 1, e.GetUntilMs()})
		}
	}
	return err
}

// over returns the event, if the lease ran out; it looks again later if it was renewed.
func (x *Expiries) over(v ledger.View, e end) (*apiv1.HostEvent, error) {
	st, err := admit.Look(v, e.host)
	switch {
	case err != nil:
		return nil, err
	case st.Record == nil || st.Version != e.version:
		return nil, nil
	case st.Until > e.until:
		heap.Push(&x.ends, end{e.host, e.version, st.Until})
		return nil, nil
	}
	delete(x.known, e.host)
	if st.Suspension != nil || st.Enrolment == nil || st.Enrolment.Revoked {
		return nil, nil // it had ended before, which was told
	}
	entry, err := v.Entry(e.version - 1)
	if err != nil {
		return nil, err
	}
	id := receipt.LeafHash(entry)
	return &apiv1.HostEvent{Id: fmt.Sprintf("%d.expired", e.version-1), Host: e.host, Event: "expired", Leaf: e.version - 1, TransactionId: id[:], LeaseVersion: e.version, TimeMs: e.until,
		Because: refused(keystead.ReasonLeaseExpired, e.host, "a lease that is renewed in time", fmt.Sprintf("one until %d ms", e.until))}, nil
}

// Since returns up to most of the leases that ran out after a time, and up to when that
// is all of them.
func (x *Expiries) Since(after uint64, most int) ([]*apiv1.HostEvent, uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := sort.Search(len(x.expired), func(i int) bool { return x.expired[i].GetTimeMs() > after })
	out := x.expired[i:]
	if len(out) <= most {
		return slices.Clone(out), x.clock
	}
	for most < len(out) && out[most].GetTimeMs() == out[most-1].GetTimeMs() {
		most++ // all of one moment together, or a watcher that goes on from it misses some
	}
	return slices.Clone(out[:most]), out[most-1].GetTimeMs()
}

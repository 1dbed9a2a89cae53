package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// verdicts are those on the newest evidence of hosts, of which the ledger has the digests
// alone: release policies are about them. The two nodes that judged a renewal have its
// verdict; another fetches it by the digest when it is asked for a key. They are in
// memory, about 4 KB a host.
type verdicts struct {
	mu    sync.Mutex
	by    map[keystead.Digest][]byte
	hosts map[string]*latest
}

// latest names a host's two newest: a renewal that was judged may not take effect.
type latest struct {
	digests [2]keystead.Digest
	since   time.Time
}

// put keeps a verdict on a host, and lets go of the one before the last.
func (x *verdicts) put(host string, verdict []byte, now time.Time) {
	d := keystead.Sum(verdict)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.by == nil {
		x.by, x.hosts = map[keystead.Digest][]byte{}, map[string]*latest{}
	}
	h := x.hosts[host]
	if h == nil {
		h = &latest{}
		x.hosts[host] = h
	}
	h.since = now
	if h.digests[0] == d || h.digests[1] == d {
		return
	}
	delete(x.by, h.digests[1])
	h.digests = [2]keystead.Digest{d, h.digests[0]}
	x.by[d] = verdict
}

func (x *verdicts) get(d keystead.Digest) ([]byte, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b, ok := x.by[d]
	return b, ok
}

// sweep lets go of hosts of which nothing was judged since a time.
func (x *verdicts) sweep(since time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for host, h := range x.hosts {
		if h.since.Before(since) {
			delete(x.by, h.digests[0])
			delete(x.by, h.digests[1])
			delete(x.hosts, host)
		}
	}
}

// forgetVerdicts lets go of those that no lease rests on any more.
func (n *library) forgetVerdicts() error {
	return n.snapshot(func(v ledger.View) error {
		last, err := admit.LeaseDuration(v)
		n.verdicts.sweep(n.now().Add(-last - ledger.Window*time.Millisecond))
		return err
	})
}

// recall has the verdict on a host's newest evidence at hand, for that host, from another
// node if this one did not judge it. It is the one of admission, which is on the ledger, until the
// first renewal.
func (n *admission) recall(ctx context.Context, from part.Caller, host string) error {
	var newest keystead.Digest
	err := n.snapshot(func(v ledger.View) error {
		if err := speaksFor(v, from, host); err != nil {
			return err
		}
		st, err := admit.Look(v, host)
		if err == nil && st.Record != nil && st.Verdict != st.Record.Verdict {
			newest = st.Verdict
		}
		return err
	})
	if err != nil || newest.IsZero() {
		return err
	}
	if _, here := n.verdicts.get(newest); here {
		return nil
	}
	b, err := n.fetch(ctx, newest, mostVerdict, (*peer).object)
	if errors.Is(err, keystead.ReasonObjectMissing) {
		return verdictMissing(host, newest)
	}
	if err == nil {
		n.verdicts.put(host, b, n.now())
	}
	return err
}

func verdictMissing(host string, d keystead.Digest) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMissing, Where: "verdict on host " + host, Want: d.String() + ", of its last renewal", Got: "none: the nodes that judged it do not answer; the next renewal has another"})
}

package agent

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
)

// TestLeaseWatchers tells applications on the machine that the lease began, and when and
// why it ended: when the host goes bad, when it falls silent, and when the agent ends.
func TestLeaseWatchers(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, func(c *Config) { c.Evidence.IntervalMS = 100 })
	d.phase(a, Unenrolled)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var mu sync.Mutex
	var told []*apiv1.WatchLeaseResponse
	ended := make(chan error, 1)
	go func() {
		ended <- client.Local(a.cfg.Socket.Path).Watch(ctx, func(r *apiv1.WatchLeaseResponse) bool {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, r)
			return true
		})
	}()
	heard := func(what string, is func(*apiv1.WatchLeaseResponse) bool) {
		t.Helper()
		until(t, what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(told, is)
		})
	}
	heard("that the host is not enrolled", func(r *apiv1.WatchLeaseResponse) bool {
		return r.GetPhase() == "unenrolled" && r.GetLeaseVersion() == 0 && len(r.GetBecause().GetFindings()) == 1
	})
	d.enrol(a)
	heard("that it is admitted", func(r *apiv1.WatchLeaseResponse) bool {
		return r.GetPhase() == "admitted" && r.GetLeaseVersion() != 0 && r.GetLeftMs() > 0 && r.GetBecause() == nil
	})
	d.await("renewals", func() bool { return len(d.proofs) > 4 })
	mu.Lock()
	admitted := 0
	for _, r := range told {
		if r.GetPhase() == "admitted" {
			admitted++
		}
	}
	mu.Unlock()
	if admitted != 1 {
		t.Errorf("renewals are told, %d times", admitted)
	}
	if _, err := m.Advance(ctx); err != nil { // an altered file runs
		t.Fatal(err)
	}
	heard("that it has no lease", func(r *apiv1.WatchLeaseResponse) bool {
		return r.GetPhase() == "refused" && r.GetLeaseVersion() == 0 && len(r.GetBecause().GetFindings()) > 0
	})
	must(t, a.Close())
	is(t, <-ended, keystead.ReasonShutdown)
}

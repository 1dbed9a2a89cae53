package agent

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// watchLease ends when the agent does: whoever watches takes the end, whatever its cause, as
// the end of the lease.
func (a *Agent) watchLease(ctx context.Context, _ *apiv1.WatchLeaseRequest, send func(*apiv1.WatchLeaseResponse) error) error {
	var last *apiv1.WatchLeaseResponse
	for {
		now, changed := a.standing()
		if last == nil || !sameStanding(last, now) {
			if err := send(now); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-a.ctx.Done():
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "agent", Want: "an agent that runs", Got: "one that ends"})
		}
	}
}

// sameStanding reports whether nothing changed but the time that is left.
func sameStanding(a, b *apiv1.WatchLeaseResponse) bool {
	if a.GetPhase() == b.GetPhase() && a.GetPhase() == string(Admitted) {
		return a.GetLeaseVersion() == b.GetLeaseVersion()
	}
	return a.GetPhase() == b.GetPhase() && proto.Equal(a.GetBecause(), b.GetBecause())
}

// standing returns where the host stands, and a channel that is closed once that changes.
func (a *Agent) standing() (*apiv1.WatchLeaseResponse, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	phase, problem := a.core.Phase()
	out := &apiv1.WatchLeaseResponse{Phase: string(phase)}
	if l, err := a.core.Lease(now); err == nil {
		out.LeaseVersion, out.LeftMs = l.Version, uint64(l.End().Sub(now).Milliseconds())
	} else {
		if phase == Admitted { // it ran out a moment ago, and the core does not know yet
			out.Phase = string(Unavailable)
		}
		if problem == nil {
			problem = err
		}
		out.Because = wire(problem)
	}
	if a.news == nil {
		a.news = make(chan struct{})
	}
	return out, a.news
}

// announce tells watchers to look. The lock is held.
func (a *Agent) announce() {
	if a.news != nil {
		close(a.news)
		a.news = nil
	}
}

package agent

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
)

// WatchLease implements the API's AgentService. It ends when the agent does: whoever
// watches takes the end, whatever its cause, as the end of the lease.
func (s service) WatchLease(ctx context.Context, _ *connect.Request[apiv1.WatchLeaseRequest], stream *connect.ServerStream[apiv1.WatchLeaseResponse]) error {
	var last *apiv1.WatchLeaseResponse
	for {
		now, changed := s.standing()
		if last == nil || !sameStanding(last, now) {
			if err := inTime(ctx, func() error { return stream.Send(now) }); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return refusal.Encode(keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "agent", Want: "an agent that runs", Got: "one that ends"}))
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

type controllerKey struct{}

// unhurried takes the deadlines of a request off a watcher's: it sets one for each
// message.
func unhurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == apiv1connect.AgentServiceWatchLeaseProcedure {
			c := http.NewResponseController(w)
			_ = c.SetReadDeadline(time.Time{}) // both versions of HTTP have it
			r = r.WithContext(context.WithValue(r.Context(), controllerKey{}, c))
		}
		next.ServeHTTP(w, r)
	})
}

// inTime sends a message, which may take as long as an answer; between messages there is
// no deadline.
func inTime(ctx context.Context, send func() error) error {
	c, ok := ctx.Value(controllerKey{}).(*http.ResponseController)
	if !ok {
		return send()
	}
	_ = c.SetWriteDeadline(time.Now().Add(requestTimeout))
	err := send()
	_ = c.SetWriteDeadline(time.Time{})
	return err
}

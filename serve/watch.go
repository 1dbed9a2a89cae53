package serve

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// watchPatience is how long a watcher may take for one message.
const watchPatience = 5 * time.Second

// Watch tells what becomes of hosts.
type Watch interface {
	// WatchHosts calls send with what happens, until ctx ends or send fails.
	WatchHosts(ctx context.Context, r *apiv1.WatchHostsRequest, send func(*apiv1.WatchHostsResponse) error) error
}

// WatchHosts implements the API's HostService. What a watcher does not take waits in no
// queue here: it is cut, and may go on where it was.
func (s *server) WatchHosts(ctx context.Context, r *connect.Request[apiv1.WatchHostsRequest], stream *connect.ServerStream[apiv1.WatchHostsResponse]) error {
	if s.watch == nil {
		return unimplemented()
	}
	return s.watch.WatchHosts(ctx, r.Msg, func(m *apiv1.WatchHostsResponse) error {
		return inTime(func() error { return stream.Send(m) }, m.GetNext())
	})
}

// inTime sends, and refuses to go on when that took too long.
func inTime(send func() error, next uint64) error {
	began := time.Now()
	if err := send(); err != nil {
		return err
	}
	if took := time.Since(began); took > watchPatience {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonWatcherSlow, Where: "watcher", Want: "a message taken within " + watchPatience.String(), Got: fmt.Sprintf("%v; the next leaf is %d", took.Round(time.Millisecond), next)})
	}
	return nil
}

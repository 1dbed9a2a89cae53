package serve

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// Bounds of watchers: how many there may be, and of them from one address, and how long each
// may take for one message.
const (
	maxWatchers   = 256
	maxWatchersOf = 32
	watchPatience = 5 * time.Second
)

// Watch tells what becomes of hosts.
type Watch interface {
	// WatchHosts calls send with what happens, until ctx ends or send fails.
	WatchHosts(ctx context.Context, r *apiv1.WatchHostsRequest, send func(*apiv1.WatchHostsResponse) error) error
}

// watchers counts those that are open. This machine's own loopback may have them all.
type watchers struct {
	mu   sync.Mutex
	open int
	from map[netip.Addr]int
}

// enter counts one from an address and port until leave is called. Refusal: overloaded.
func (w *watchers) enter(remote string) (leave func(), err error) {
	addr := Source(remote)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.open == maxWatchers:
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "watchers", Want: fmt.Sprintf("at most %d at a time", maxWatchers), Got: "more"})
	case w.from[addr] == maxWatchersOf && !addr.IsLoopback():
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "watchers", Want: fmt.Sprintf("at most %d at a time from one address", maxWatchersOf), Got: "more"})
	}
	if w.from == nil {
		w.from = map[netip.Addr]int{}
	}
	w.open++
	w.from[addr]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open--
		if w.from[addr]--; w.from[addr] == 0 {
			delete(w.from, addr)
		}
	}, nil
}

// WatchHosts implements the API's HostService. What a watcher does not take waits in no
// queue here: it is cut, and may go on where it was.
func (s *server) WatchHosts(ctx context.Context, r *connect.Request[apiv1.WatchHostsRequest], stream *connect.ServerStream[apiv1.WatchHostsResponse]) error {
	if s.watch == nil {
		return unimplemented()
	}
	leave, err := s.watchers.enter(r.Peer().Addr)
	if err != nil {
		return err
	}
	defer leave()
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

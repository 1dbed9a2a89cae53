package client

import (
	"context"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
)

// WatchHosts yields what becomes of hosts, as the node that answers tells it, and goes on
// at another node when one fails, until ctx ends or yield returns false. Messages
// without events say where things stand. An event may come twice, with one id.
func (c *Client) WatchHosts(ctx context.Context, from *apiv1.WatchHostsRequest, yield func(*apiv1.WatchHostsResponse) bool) error {
	r := &apiv1.WatchHostsRequest{From: from.GetFrom(), AfterMs: from.GetAfterMs(), Live: from.GetLive(), Prefix: from.GetPrefix(), Renewals: from.GetRenewals()}
	for {
		n, at := c.current()
		s, err := n.host.WatchHosts(ctx, connect.NewRequest(r))
		if err == nil {
			for s.Receive() {
				m := s.Msg()
				r.From, r.AfterMs, r.Live = m.GetNext(), m.GetClockMs(), false
				if !yield(m) {
					return s.Close()
				}
			}
			err = s.Err()
			_ = s.Close() // the answer is read
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err = refusal.Decode(err); err != nil && !Unavailable(err) {
			return err
		}
		c.next(at)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauseMax):
		}
	}
}

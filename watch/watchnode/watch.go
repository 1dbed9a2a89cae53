// Package watchnode is watching on a node: a procedure by which clients are told what becomes
// of hosts, and a webhook by which one server is.
//
// It trusts its node's state. Of a client it keeps where that is, and nothing else; the server
// behind a webhook is told events by a secret that it shares, and of its answers the status
// counts alone.
package watchnode

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/watch"
)

// Bounds of what a watcher is told at once.
const (
	maxEvents     = 256
	maxLookedAt   = 4096             // leaves between two looks at the watcher
	signOfLife    = 10 * time.Second // without an event a watcher is told where things stand
	expiriesEvery = time.Second      // how often leases that ran out are looked for
	watchPatience = 5 * time.Second  // how long a watcher may take for one message
)

// Part is watching.
type Part struct {
	cfg      WebhookConfig
	host     part.Host
	past     pastTurn // of watchers
	begun    sync.Once
	expiries watch.Expiries
}

var _ part.Part = (*Part)(nil)

// New returns the part, with a webhook if one is configured.
func New(cfg WebhookConfig) *Part { return &Part{cfg: cfg, past: make(pastTurn, 1)} }

// Name implements part.Part.
func (p *Part) Name() string { return "watch" }

// Declare implements part.Part.
func (p *Part) Declare(d *part.Declaration) {
	d.Procedures = append(d.Procedures,
		part.Stream(api.HostServiceWatchHostsProcedure, part.Limits{In: 4 << 10, Values: 8, Out: 1 << 20, Waits: true}, p.watchers))
}

// Start implements part.Part.
func (p *Part) Start(_ context.Context, h part.Host) error {
	p.host = h
	hook, err := openWebhook(p)
	if err == nil && hook != nil {
		h.Go("webhook", hook.loop)
	}
	return err
}

// Applied implements part.Part.
func (p *Part) Applied(part.Batch) {}

// Close implements part.Part.
func (p *Part) Close() error { return nil }

// watchers serves one client. What a watcher does not take waits in no queue here: it is cut,
// and may go on where it was.
func (p *Part) watchers(ctx context.Context, r *apiv1.WatchHostsRequest, send func(*apiv1.WatchHostsResponse) error) error {
	return p.watch(ctx, r, p.past, func(m *apiv1.WatchHostsResponse) error {
		return inTime(func() error { return send(m) }, m.GetNext())
	})
}

// findExpiries looks for leases that run out, from when somebody first watches.
func (p *Part) findExpiries(ctx context.Context) error {
	every := time.NewTicker(expiriesEvery)
	defer every.Stop()
	for {
		if err := p.host.State().Snapshot(p.expiries.Step); err != nil && ctx.Err() == nil {
			p.host.Self().Log.Error("leases that run out are not found", "because", err)
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watch tells what leaves say of hosts, at the pace of send, and which leases ran out. Nothing
// is kept for a watcher but where it is.
func (p *Part) watch(ctx context.Context, r *apiv1.WatchHostsRequest, past pastTurn, send func(*apiv1.WatchHostsResponse) error) error {
	state := p.host.State()
	w := &watcher{part: p, prefix: r.GetPrefix(), renewals: r.GetRenewals(), next: r.GetFrom(), after: r.GetAfterMs()}
	err := state.Snapshot(func(v ledger.View) error {
		st, err := v.Status()
		switch {
		case err != nil:
			return err
		case r.GetLive():
			w.next, w.after = st.Size, st.Clock
		case w.next > st.Size:
			return ledger.LeafFuture(w.next, st.Size)
		case w.after == 0:
			w.after = st.Clock
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.begun.Do(func() { p.host.Go("expiries", p.findExpiries) })
	told := time.Time{} // at once: where the watcher begins
	more := !r.GetLive()
	for {
		rung := state.Grown()
		end, err := past.take(ctx, more)
		if err != nil {
			return err
		}
		var out *apiv1.WatchHostsResponse
		out, more, err = w.look()
		end()
		if err != nil {
			return err
		}
		if len(out.Events) > 0 || time.Since(told) >= signOfLife {
			if err := send(out); err != nil {
				return err
			}
			told = time.Now()
		}
		if more {
			continue
		}
		select {
		case <-rung:
		case <-time.After(expiriesEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pastTurn lets those who read what is long past do so one at a time, for half of the time: a
// watcher of hosts that do not exist is told nothing, and could have all leaves read over
// and over by a small request each. It has one place; nil lets anybody, at once.
type pastTurn chan struct{}

// take waits for a turn, if the past is to be read, until end is called. The next one begins
// as much later as it took.
func (p pastTurn) take(ctx context.Context, reads bool) (end func(), err error) {
	if p == nil || !reads {
		return func() {}, nil
	}
	select {
	case p <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	began := time.Now()
	return func() { time.AfterFunc(time.Since(began), func() { <-p }) }, nil
}

// watcher is where one watcher is.
type watcher struct {
	part        *Part
	prefix      string
	renewals    bool
	next, after uint64
	ordinal     int // of events of the leaf next that were told already
}

// look gathers the next events, and reports whether there is more to look at.
func (w *watcher) look() (out *apiv1.WatchHostsResponse, more bool, err error) {
	out = &apiv1.WatchHostsResponse{}
	err = w.part.host.State().Snapshot(func(v ledger.View) error {
		st, err := v.Status()
		if err != nil {
			return err
		}
		for looked := 0; w.next < st.Size && looked < maxLookedAt && len(out.Events) < maxEvents; looked++ {
			events, err := watch.Events(v, w.next, w.renewals)
			if err != nil {
				return err
			}
			events = slices.DeleteFunc(events, func(e *apiv1.HostEvent) bool { return !strings.HasPrefix(e.GetHost(), w.prefix) })
			rest := events[min(w.ordinal, len(events)):]
			if room := maxEvents - len(out.Events); len(rest) > room { // a large batch of renewals: the watcher goes on within the leaf
				out.Events = append(out.Events, rest[:room]...)
				w.ordinal += room
				break
			}
			out.Events = append(out.Events, rest...)
			w.next, w.ordinal = w.next+1, 0
		}
		more = w.next < st.Size
		return nil
	})
	if err == nil && !more { // what leaves say comes first: a lease that was renewed did not run out
		expired, until := w.part.expiries.Since(w.after, maxEvents)
		for _, e := range expired {
			if strings.HasPrefix(e.GetHost(), w.prefix) {
				out.Events = append(out.Events, e)
			}
		}
		w.after = max(w.after, until)
	}
	out.Next, out.ClockMs = w.next, w.after
	return out, more, err
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

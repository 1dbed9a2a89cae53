package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// Bounds of what a watcher is told at once.
const (
	maxEvents     = 256
	maxLookedAt   = 4096             // leaves between two looks at the watcher
	signOfLife    = 10 * time.Second // without an event a watcher is told where things stand
	expiriesEvery = time.Second      // how often leases that ran out are looked for
)

// WatchHosts implements serve.Hosts: it tells what leaves say of hosts, at the pace of
// send, and which leases ran out. Nothing is kept for a watcher but where it is.
func (n *Node) WatchHosts(ctx context.Context, r *apiv1.WatchHostsRequest, send func(*apiv1.WatchHostsResponse) error) error {
	return n.watchHosts(ctx, r, n.past, send)
}

func (n *Node) watchHosts(ctx context.Context, r *apiv1.WatchHostsRequest, past pastTurn, send func(*apiv1.WatchHostsResponse) error) error {
	w := &watcher{node: n, prefix: r.GetPrefix(), renewals: r.GetRenewals(), next: r.GetFrom(), after: r.GetAfterMs()}
	err := n.snapshot(func(v ledger.View) error {
		st, err := v.Status()
		switch {
		case err != nil:
			return err
		case r.GetLive():
			w.next, w.after = st.Size, st.Clock
		case w.next > st.Size:
			return leafFuture(w.next, st.Size)
		case w.after == 0:
			w.after = st.Clock
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.expiries.watch(n)
	told := time.Time{} // at once: where the watcher begins
	more := !r.GetLive()
	for {
		rung := n.grown.wait()
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
		case <-n.replica.Done():
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "node"})
		case <-n.running.Done():
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "node"})
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
	node        *Node
	prefix      string
	renewals    bool
	next, after uint64
	ordinal     int // of events of the leaf next that were told already
}

// look gathers the next events, and reports whether there is more to look at.
func (w *watcher) look() (out *apiv1.WatchHostsResponse, more bool, err error) {
	out = &apiv1.WatchHostsResponse{}
	err = w.node.snapshot(func(v ledger.View) error {
		st, err := v.Status()
		if err != nil {
			return err
		}
		for looked := 0; w.next < st.Size && looked < maxLookedAt && len(out.Events) < maxEvents; looked++ {
			events, err := hostEvents(v, w.next, w.renewals)
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
		expired, until := w.node.expiries.since(w.after, maxEvents)
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

// hostEvents reads what a leaf says of hosts.
func hostEvents(v ledger.View, leaf uint64, renewals bool) (out []*apiv1.HostEvent, err error) {
	entry, err := v.Entry(leaf)
	if err != nil {
		return nil, err
	}
	kind, _, err := receipt.Split(entry)
	if err != nil {
		return nil, err
	}
	switch kind {
	case receipt.KindEffective:
		out, err = judgedEvents(v, entry)
	case receipt.KindRenewals, receipt.KindEarlyRenewals:
		out, err = renewedEvents(entry)
	case receipt.KindSuspension:
		out, err = suspendedEvents(v, entry)
	case receipt.KindRoster:
		out, err = evictedEvents(v, entry)
	}
	if len(out) > 0 {
		id := receipt.LeafHash(entry)
		for i, e := range out {
			e.Id, e.Leaf, e.TransactionId = fmt.Sprintf("%d.%d", leaf, i), leaf, id[:]
			if e.LeaseVersion == 0 && kind == receipt.KindEffective && e.Event != "revoked" {
				e.LeaseVersion = leaf + 1
			}
		}
	}
	if !renewals { // which does not change what the others are called
		out = slices.DeleteFunc(out, func(e *apiv1.HostEvent) bool { return e.Event == "renewed" })
	}
	return out, err
}

// judgedEvents reads an admission, or an enrolment that was revoked.
func judgedEvents(v ledger.View, entry []byte) ([]*apiv1.HostEvent, error) {
	e, err := ledger.ParseEffective(entry)
	if err != nil {
		return nil, err
	}
	host := e.Verdict.Subject
	for _, w := range e.Verdict.Writes {
		switch {
		case e.Verdict.Type == admit.TypeLease && w.Key == admit.LeaseKey(host):
			r, err := admit.ParseRecord(w.Value)
			if err != nil {
				return nil, err
			}
			since, err := sinceAdmission(v, &e.Verdict, &r)
			return append([]*apiv1.HostEvent{{Host: host, Event: "admitted", TimeMs: r.Issued, UntilMs: r.Until}}, since...), err
		case e.Verdict.Type == admit.TypeEnrolment && w.Key == admit.EnrolmentPrefix+host:
			x, err := admit.ParseEnrolment(w.Value)
			if err != nil || !x.Revoked {
				return nil, err
			}
			return []*apiv1.HostEvent{{Host: host, Event: "revoked", Because: refusedFor(keystead.ReasonHostRevoked, host, "an enrolled host", "an enrolment that members revoked")}}, nil
		}
	}
	return nil, nil
}

// sinceAdmission tells what became of a machine between the admission before and this
// one, by what its TPM said at both, or by which guest its TEE named: nothing if there was
// none of that hardware.
func sinceAdmission(v ledger.View, judged *ledger.Verdict, r *admit.Record) (out []*apiv1.HostEvent, err error) {
	if judged.Base == 0 {
		return nil, nil
	}
	before, err := v.Entry(judged.Base - 1)
	if err != nil {
		return nil, err
	}
	e, err := ledger.ParseEffective(before)
	if err != nil {
		return nil, err
	}
	for _, w := range e.Verdict.Writes {
		if w.Key != admit.LeaseKey(judged.Subject) {
			continue
		}
		was, err := admit.ParseRecord(w.Value)
		if err != nil || was.EK != r.EK {
			return nil, err
		}
		if !r.Guest.IsZero() && r.Guest != was.Guest {
			out = append(out, &apiv1.HostEvent{Host: judged.Subject, Event: "rebooted", TimeMs: r.Issued})
		}
		for _, event := range r.Boot.Since(was.Boot) {
			out = append(out, &apiv1.HostEvent{Host: judged.Subject, Event: event, TimeMs: r.Issued})
		}
	}
	return out, nil
}

// renewedEvents reads what two nodes renewed. An item that the ledger passed over, since
// the lease was over by then, is told as well.
func renewedEvents(entry []byte) (out []*apiv1.HostEvent, err error) {
	r, err := ledger.ParseRenewals(entry)
	for _, x := range r.Items {
		out = append(out, &apiv1.HostEvent{Host: x.Host, Event: "renewed", LeaseVersion: x.Lease, TimeMs: x.Issued, UntilMs: x.Until})
		if x.Resumed {
			out = append(out, &apiv1.HostEvent{Host: x.Host, Event: "resumed", LeaseVersion: x.Lease, TimeMs: x.Issued})
		}
	}
	return out, err
}

func suspendedEvents(v ledger.View, entry []byte) ([]*apiv1.HostEvent, error) {
	s, err := ledger.ParseSuspension(entry)
	if err != nil {
		return nil, err
	}
	e := &apiv1.HostEvent{Host: s.Host, Event: "suspended", LeaseVersion: s.Lease,
		Because: refusedFor(keystead.ReasonLeaseSuspended, s.Host, "a lease that no node suspended", "suspended by "+s.Node+": "+s.Reason)}
	last, err := v.Suspension(s.Host)
	if last.Lease == s.Lease {
		e.TimeMs = last.Time
	}
	return []*apiv1.HostEvent{e}, err
}

// evictedEvents names the nodes of the roster before that a change leaves out.
func evictedEvents(v ledger.View, entry []byte) (out []*apiv1.HostEvent, err error) {
	now, err := receipt.ParseChange(entry)
	if err != nil || now.Sequence == 0 {
		return nil, err
	}
	raw, _, err := v.Roster(now.Sequence - 1)
	if err != nil {
		return nil, err
	}
	before, err := rosterOf(raw)
	if err != nil {
		return nil, err
	}
	for _, node := range before.Nodes {
		if _, in := now.Roster.Node(node.Name); !in {
			out = append(out, &apiv1.HostEvent{Host: node.Name, Event: "evicted",
				Because: refusedFor(keystead.ReasonNotMember, node.Name, "a node of the roster", fmt.Sprintf("roster %d, which members signed without it", now.Sequence))})
		}
	}
	return out, nil
}

// rosterOf reads the roster of a genesis or roster entry.
func rosterOf(entry []byte) (receipt.Roster, error) {
	if g, err := receipt.ParseGenesis(entry); err == nil {
		return g.Roster, nil
	}
	c, err := receipt.ParseChange(entry)
	return c.Roster, err
}

func refusedFor(r keystead.Reason, host, want, got string) *apiv1.Refusal {
	var deny *keystead.DenyError
	errors.As(keystead.Deny(keystead.Finding{Reason: r, Where: "host " + host, Want: want, Got: got}), &deny)
	return refusal.Message(deny)
}

// Package watch reads what the ledger says of hosts: who was admitted, renewed, suspended,
// revoked, evicted, whose machine started anew, and whose lease ran out, which no leaf says.
//
// It is pure: it reads a [ledger.View], and trusts that as far as the ledger does.
package watch

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// Events reads what a leaf says of hosts: renewals only if asked.
func Events(v ledger.View, leaf uint64, renewals bool) (out []*apiv1.HostEvent, err error) {
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
		out, err = judged(v, entry)
	case receipt.KindRenewals, receipt.KindEarlyRenewals:
		out, err = renewed(entry)
	case receipt.KindSuspension:
		out, err = suspended(v, entry)
	case receipt.KindRoster:
		out, err = evicted(v, entry)
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

// judged reads an admission, or an enrolment that was revoked.
func judged(v ledger.View, entry []byte) ([]*apiv1.HostEvent, error) {
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
			return []*apiv1.HostEvent{{Host: host, Event: "revoked", Because: refused(keystead.ReasonHostRevoked, host, "an enrolled host", "an enrolment that members revoked")}}, nil
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
func renewed(entry []byte) (out []*apiv1.HostEvent, err error) {
	r, err := ledger.ParseRenewals(entry)
	for _, x := range r.Items {
		out = append(out, &apiv1.HostEvent{Host: x.Host, Event: "renewed", LeaseVersion: x.Lease, TimeMs: x.Issued, UntilMs: x.Until})
		if x.Resumed {
			out = append(out, &apiv1.HostEvent{Host: x.Host, Event: "resumed", LeaseVersion: x.Lease, TimeMs: x.Issued})
		}
	}
	return out, err
}

func suspended(v ledger.View, entry []byte) ([]*apiv1.HostEvent, error) {
	s, err := ledger.ParseSuspension(entry)
	if err != nil {
		return nil, err
	}
	e := &apiv1.HostEvent{Host: s.Host, Event: "suspended", LeaseVersion: s.Lease,
		Because: refused(keystead.ReasonLeaseSuspended, s.Host, "a lease that no node suspended", "suspended by "+s.Node+": "+s.Reason)}
	last, err := v.Suspension(s.Host)
	if last.Lease == s.Lease {
		e.TimeMs = last.Time
	}
	return []*apiv1.HostEvent{e}, err
}

// evicted names the nodes of the roster before that a change leaves out.
func evicted(v ledger.View, entry []byte) (out []*apiv1.HostEvent, err error) {
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
				Because: refused(keystead.ReasonNotMember, node.Name, "a node of the roster", fmt.Sprintf("roster %d, which members signed without it", now.Sequence))})
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

func refused(r keystead.Reason, host, want, got string) *apiv1.Refusal {
	var deny *keystead.DenyError
	errors.As(keystead.Deny(keystead.Finding{Reason: r, Where: "host " + host, Want: want, Got: got}), &deny)
	return refusal.Message(deny)
}

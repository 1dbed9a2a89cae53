package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/archive"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// Bounds of a page of a plan: whoever asks goes on after it.
const (
	planHosts    = 256             // looked at
	planWork     = 2 * time.Second // after which no further one is begun
	planFindings = 4               // of each
)

// What a plan says of a host.
const (
	planStays   = "stays"
	planOut     = "falls-out"     // passes by the terms in force, and not by the others
	planAlready = "fails-already" // by this evidence, by the terms in force
	planUnknown = "unknown"
)

// planner judges hosts by terms that are not in force.
type planner struct {
	mu     sync.Mutex
	digest keystead.Digest // of the terms opened last: pages of one plan come one after the other
	rules  *admit.Rules
}

// PlanTerms implements serve.Archive: it judges, a page at a time, what hosts were admitted by under
// other terms, for readers of the archive. Nothing is handed out but what would become of each, and by
// which finding. That it was asked, and by whom, is on the ledger first; without the signatures, so
// that nobody asks by them again.
func (n *archivist) PlanTerms(ctx context.Context, r *apiv1.PlanTermsRequest) (*apiv1.PlanTermsResponse, error) {
	if len(r.GetReading()) > maxReading || len(r.GetTerms()) > admit.MaxStatement {
		return nil, &keystead.FormatError{Format: string(key.KindReading), Field: "whole", Problem: "is longer than a reading or terms may be"}
	}
	if err := n.mayGrant(ctx); err != nil {
		return nil, err
	}
	subject := keystead.Sum(r.GetTerms())
	roster, _, _ := n.machine.roster()
	out := &apiv1.PlanTermsResponse{}
	err := n.snapshot(func(v ledger.View) (err error) {
		if out.ClockMs, err = v.Clock(); err != nil {
			return err
		}
		_, err = admit.OpenReading(v, n.cfg.Domain, subject, &roster, r.GetReading())
		return err
	})
	if err != nil {
		return nil, err
	}
	t, err := admit.ParseTerms(r.GetTerms())
	if err != nil {
		return nil, err
	}
	if err := n.notePlan(ctx, r.GetReading()); err != nil {
		return nil, err
	}
	now, err := n.rules(ctx, t.Role)
	if err != nil {
		return nil, err
	}
	then, err := n.planned(ctx, t.Role, r.GetTerms())
	if err != nil {
		return nil, err
	}
	x := &plan{now: now, then: then, clock: time.UnixMilli(int64(out.ClockMs))}
	if t.Role == admit.RoleNode && r.GetAfter() == "" {
		if out.Hosts, err = n.muster.plan(ctx, x); err != nil {
			return nil, err
		}
	}
	return out, n.planHosts(ctx, t.Role, r.GetAfter(), x, out)
}

// plan is by what hosts are judged, and would be.
type plan struct {
	now, then *admit.Rules
	clock     time.Time
}

// times are as of when a plan judges: now, and when each set that has a time counts no more.
func (x *plan) times() []time.Time { return append([]time.Time{x.clock}, x.then.Ends(x.clock)...) }

// judge says what speaks against somebody by rules as of a time; nil for nothing.
type judge func(*admit.Rules, time.Time) (*keystead.DenyError, error)

// come says what would become of somebody.
func (x *plan) come(to *apiv1.PlannedHost, by judge) error {
	to.Outcome = planStays
	for i, at := range x.times() {
		why, err := by(x.then, at)
		if err != nil {
			return err
		}
		if why == nil {
			continue
		}
		why.Findings = why.Findings[:min(len(why.Findings), planFindings)]
		to.Outcome, to.Because = planOut, refusal.Message(why)
		if i > 0 {
			to.FromMs = uint64(at.UnixMilli())
		}
		before, err := by(x.now, at)
		if before != nil {
			to.Outcome = planAlready
		}
		return err
	}
	return nil
}

// planned opens terms for a plan.
func (n *archivist) planned(ctx context.Context, role string, text []byte) (*admit.Rules, error) {
	n.planner.mu.Lock()
	defer n.planner.mu.Unlock()
	d := keystead.Sum(text)
	if n.planner.digest == d {
		return n.planner.rules, nil
	}
	rules, err := admit.InForce{Role: role, Digest: d, Text: text}.Open(n.termsObjects(ctx, text))
	if err == nil {
		n.planner.digest, n.planner.rules = d, rules
	}
	return rules, err
}

// planHosts judges the hosts of a role after a name, until the page is full.
func (n *archivist) planHosts(ctx context.Context, role, after string, x *plan, out *apiv1.PlanTermsResponse) error {
	began := time.Now()
	var names []string
	if after != "" {
		after = admit.LeasePrefix + after
	}
	err := n.snapshot(func(v ledger.View) error {
		return v.JudgedKeys(admit.LeasePrefix, after, func(key string, _ ledger.Value) bool {
			if out.More = len(names) == planHosts; out.More {
				return false
			}
			names = append(names, key[len(admit.LeasePrefix):])
			return true
		})
	})
	if err != nil {
		return err
	}
	for i, name := range names {
		if i > 0 && time.Since(began) > planWork {
			out.More = true
			return nil
		}
		h, err := n.planHost(ctx, role, name, x)
		if err != nil {
			return err
		}
		if h == nil { // of another role; the page goes on after it all the same
			h = &apiv1.PlannedHost{Name: name}
		}
		if err := part.Spend(ctx, proto.Size(h)); err != nil {
			return err
		}
		out.Hosts = append(out.Hosts, h)
	}
	return nil
}

// planHost judges one host, in turn with what hosts themselves send, and one at a time, for the
// evidence is in memory whole. Nil: it is not of the role, or admitted no more.
func (n *archivist) planHost(ctx context.Context, role, name string, x *plan) (*apiv1.PlannedHost, error) {
	var a archive.Admission
	ours := false
	err := n.snapshot(func(v ledger.View) error {
		st, err := admit.Look(v, name)
		if err != nil || st.Record == nil || st.Enrolment == nil || st.Enrolment.Revoked || st.Enrolment.Role != role {
			return err
		}
		entry, err := v.Entry(st.Version - 1)
		if err != nil {
			return err
		}
		ours = true
		a, err = archive.ReadAdmission(entry)
		return err
	})
	if err != nil || !ours {
		return nil, err
	}
	select {
	case n.readings <- struct{}{}:
		defer func() { <-n.readings }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	end, err := n.turns.take(ctx, keystead.Sum([]byte("plans of terms")))
	if err != nil {
		return nil, err
	}
	defer end()
	out := &apiv1.PlannedHost{Name: name, EvidenceMs: a.Record.Issued}
	r, err := n.unseal(a.Record.Verdict)
	if err == nil {
		err = x.come(out, func(rules *admit.Rules, at time.Time) (*keystead.DenyError, error) {
			verdict, err := a.Appraise(&r, rules, at)
			return refusal.Deny(verdict.Err()), err
		})
	}
	if why := refusal.Deny(err); why != nil { // the archive's, not the host's
		out.Outcome, out.Because = planUnknown, refusal.Message(why)
		return out, nil
	}
	return out, err
}

// plan says what would become of the nodes of the roster, as far as they showed themselves.
func (m *muster) plan(ctx context.Context, x *plan) (out []*apiv1.PlannedHost, err error) {
	if m.own == nil {
		return nil, nil
	}
	roster := m.roster()
	known, err := m.gather(ctx, &roster)
	if err != nil {
		return nil, err
	}
	for _, node := range roster.Nodes {
		h := &apiv1.PlannedHost{Name: node.Name, Node: true, Outcome: planUnknown}
		if e, ok := known[node.Name]; ok {
			h.EvidenceMs = uint64(e.time.UnixMilli())
			err := x.come(h, func(rules *admit.Rules, at time.Time) (*keystead.DenyError, error) {
				f, err := m.against(&e, rules, "", at)
				if err != nil || f == nil {
					return nil, err
				}
				return keystead.Deny(*f), nil
			})
			if err != nil {
				return nil, err
			}
		}
		out = append(out, h)
	}
	return out, nil
}

// notePlan writes to the ledger that a plan is asked for, once: the text, and who signed it.
func (n *archivist) notePlan(ctx context.Context, signed []byte) error {
	roster, _, _ := n.machine.roster()
	text, by, err := key.Open(signed, key.KindReading, roster.Members...)
	if err != nil {
		return err
	}
	d := keystead.Sum(text)
	at := archiveContract + "/plan/" + hex.EncodeToString(d[:])
	known := false
	err = n.snapshot(func(v ledger.View) error {
		value, err := v.Get(at)
		known = value.Version != 0
		return err
	})
	if err != nil || known {
		return err
	}
	for _, m := range by {
		text = fmt.Appendf(text, "signed-by %s\n", m.Name())
	}
	err = n.transact(ctx, archiveContract, []ledger.Write{{Key: at, Value: text}}, ledger.Condition{Key: at})
	if errors.Is(err, keystead.ReasonConditionFailed) {
		err = nil // another node was faster
	}
	return err
}

package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// mayGrant refuses while this node may not grant anything: its clock is stale, or it
// can not tell that what it knows is the newest.
func (n *guard) mayGrant(ctx context.Context) error {
	if err := cmp.Or(n.closed.err(lost...), n.fresh()); err != nil {
		return err
	}
	if err := n.replica.Read(ctx); err != nil {
		return gone(err)
	}
	return n.fresh()
}

// snapshot calls read with the state of one moment.
func (n *core) snapshot(read func(ledger.View) error) error {
	return n.replica.Snapshot(func(s replicaView) error { return read(ledger.NewView(s)) })
}

// speaksFor refuses who is not the host that it asks for: who showed no hardware, or
// other hardware than is enrolled under the name.
func speaksFor(s admit.State, from part.Caller, host string) error {
	where := "host " + host
	e, version, err := admit.Enrolled(s, host)
	switch {
	case err != nil:
		return err
	case version == 0:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonHostUnenrolled, Where: where, Want: "an enrolled host", Got: "no enrolment"})
	case from.EK.IsZero():
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "connection", Want: "an attested connection of " + host, Got: "one without evidence"})
	case from.EK != e.Identity():
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonHardwareForeign, Where: where, Want: e.Identity().String() + ", as " + host + " is enrolled", Got: "a connection of " + from.EK.String()})
	}
	return nil
}

// Nonce implements serve.Hosts.
func (n *admission) Nonce(context.Context) (*apiv1.NonceResponse, error) {
	if err := n.sound(); err != nil { // its ticks may be those of a log that others do not have
		return nil, err
	}
	out := &apiv1.NonceResponse{}
	err := n.snapshot(func(v ledger.View) error {
		t, found, err := v.NewestTick()
		if err == nil && !found {
			err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "nonce", Want: "a tick of a majority", Got: "none yet"})
		}
		if err != nil {
			return err
		}
		out.Tick, out.Nonce, out.TimeMs = t.Index, t.Nonce[:], t.Clock
		last, err := admit.LeaseDuration(v)
		out.LeaseMs = uint64(last.Milliseconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// evidenceCase is what a host sent, as this node judges it.
type evidenceCase struct {
	host   string
	bundle evidence.Bundle
	tick   uint64
	from   *part.Caller // who must be that host; nil where another node hands it on
}

// rulers judge evidence: for an admission, or for a renewal.
type ruler func(admit.State, admit.Application) (admit.Decision, error)

// decide judges evidence by what this node knows itself: its state, its activation of
// the key of a host's TPM.
func (n *admission) decide(ctx context.Context, by ruler, x evidenceCase) (d admit.Decision, err error) {
	err = n.snapshot(func(v ledger.View) error {
		d, err = n.decideAt(v, n.once(v), by, x, n.rulebook.opened)
		return err
	})
	return n.reconsider(ctx, by, x, d, err)
}

// inTurn judges what a machine sent to this node, when it is the machine's turn.
func (n *admission) inTurn(ctx context.Context, by ruler, bundle []byte, x evidenceCase) (d admit.Decision, err error) {
	end, err := n.turns.take(ctx, x.from.EK)
	if err != nil {
		return d, err
	}
	defer end()
	if x.bundle, err = evidence.Parse(bundle); err != nil {
		return d, err
	}
	return n.decide(ctx, by, x)
}

// once is the state of one moment, read once; the genesis entry this node has at hand.
func (n *admission) once(v ledger.View) admit.State { return admit.Once(founded{v, n.core}) }

// reconsider judges anew what failed because the terms at hand are not those in force.
func (n *admission) reconsider(ctx context.Context, by ruler, x evidenceCase, d admit.Decision, err error) (admit.Decision, error) {
	if errors.Is(err, keystead.ReasonSubjectChanged) {
		var enrolled admit.Enrolment
		if err = n.snapshot(func(v ledger.View) (err error) { enrolled, _, err = admit.Enrolled(v, x.host); return err }); err != nil {
			return d, err
		}
		rules, err := n.rules(ctx, enrolled.Role)
		if err != nil {
			return d, err
		}
		err = n.snapshot(func(v ledger.View) (err error) {
			d, err = n.decideAt(v, n.once(v), by, x, func(string) *admit.Rules { return rules })
			return err
		})
		if err != nil {
			return d, err
		}
	}
	if err == nil {
		n.replayed.keep(x.host, d.State())
	}
	return d, err
}

// decideAt judges on the state of one moment, of which s is read once.
func (n *admission) decideAt(v ledger.View, s admit.State, by ruler, x evidenceCase, rules func(role string) *admit.Rules) (d admit.Decision, err error) {
	if x.from != nil {
		if err := speaksFor(s, *x.from, x.host); err != nil {
			return d, err
		}
	}
	app := admit.Application{Host: x.host, Bundle: x.bundle, Prior: n.replayed.find(x.host, x.bundle), Own: x.from != nil}
	enrolled, version, err := admit.Enrolled(s, x.host)
	if err != nil {
		return d, err
	}
	if version != 0 {
		tick, err := v.Tick(x.tick)
		if err != nil {
			return d, err
		}
		app.Nonce, app.Time = tick.Nonce, tick.Clock
	}
	if identity := enrolled.Identity(); !identity.IsZero() && !enrolled.Revoked {
		app.Key, app.Rules = n.accepted(identity), rules(enrolled.Role)
	}
	return by(s, app)
}

// accepted returns the attestation key that this node activated for a TPM.
func (n *admission) accepted(ek keystead.Digest) appraise.AcceptedKey {
	if n.gate == nil {
		return appraise.AcceptedKey{}
	}
	return n.gate.Accepted(ek)
}

// Admit implements serve.Hosts.
func (n *admission) Admit(ctx context.Context, from part.Caller, r *apiv1.AdmitRequest) (*apiv1.AdmitResponse, error) {
	if err := n.mayGrant(ctx); err != nil {
		return nil, err
	}
	d, err := n.inTurn(ctx, admit.Decide, r.GetBundle(), evidenceCase{host: r.GetHost(), tick: r.GetTick(), from: &from})
	if err != nil {
		n.turnedBad(r.GetHost(), d, err)
		return nil, err
	}
	decided, _ := d.Record()
	entry, err := n.applicationEntry(r, d)
	if err != nil {
		return nil, err
	}
	if _, err := n.court.hearing(ctx, entry); err != nil {
		return nil, err
	}
	if err := n.until(ctx, func(v ledger.View) (bool, error) { // it was applied, and shows a moment later
		value, err := v.Judged(admit.LeaseKey(r.GetHost()))
		if err != nil || value.Version == 0 {
			return false, err
		}
		record, err := admit.ParseRecord(value.Data)
		return record.Issued >= decided.Issued, err
	}); err != nil {
		return nil, err
	}
	out, err := n.admitted(r.GetHost(), d)
	if err == nil {
		out.Replayed = replayedMessage(d.State())
	}
	return out, err
}

// applicationEntry makes the proposal to admit a host, and keeps the evidence at hand.
func (n *admission) applicationEntry(r *apiv1.AdmitRequest, d admit.Decision) ([]byte, error) {
	record, ok := d.Record()
	if !ok {
		return nil, errors.New("a decision that admits has a record")
	}
	digest, err := n.evidence.put(r.GetHost(), r.GetBundle(), n.now())
	if err != nil {
		return nil, err
	}
	p := ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: admit.TypeLease, Subject: r.GetHost(), Inputs: []keystead.Digest{digest},
		Content: (&application{bundle: digest, tick: r.GetTick(), ak: record.AK}).bytes()}
	err = n.view(func(v ledger.View) (err error) {
		p.Base, err = v.Subject(admit.TypeLease, r.GetHost())
		return err
	})
	if err != nil {
		return nil, err
	}
	return p.Entry()
}

// admitted answers with the lease that took effect.
func (n *admission) admitted(host string, d admit.Decision) (*apiv1.AdmitResponse, error) {
	out := &apiv1.AdmitResponse{}
	err := n.snapshot(func(v ledger.View) error {
		st, err := admit.Look(v, host)
		if err != nil {
			return err
		}
		if st.Record == nil || st.Record.Verdict != d.Verdict().Digest() {
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectChanged, Where: "lease of " + host, Want: "the lease of this evidence", Got: "another one, which came first"})
		}
		entry, err := v.Entry(st.Version - 1)
		if err != nil {
			return err
		}
		id := receipt.LeafHash(entry)
		out.Lease, out.Leaf, out.TransactionId = leaseMessage(&st), st.Version-1, id[:]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// judgeLease judges an application to be admitted, on every node: with evidence that
// the proposing node hands over, and of a TPM with the key that this node activated itself.
func (n *admission) judgeLease(ctx context.Context, h *part.Hearing, out *ledger.Verdict) error {
	a, err := parseApplication(h.Proposal.Content)
	if err != nil {
		return err
	}
	if len(h.Proposal.Inputs) != 1 || h.Proposal.Inputs[0] != a.bundle {
		return &keystead.FormatError{Format: "application", Field: "inputs", Problem: "are not the bundle that the content names"}
	}
	raw, ok := n.evidence.get(a.bundle)
	if !ok {
		if raw, err = n.fetch(ctx, a.bundle, mostEvidence, (*peer).object); err != nil {
			return err
		}
	}
	bundle, err := evidence.Parse(raw)
	if err != nil {
		return err
	}
	d, err := n.decide(ctx, admit.Decide, evidenceCase{host: h.Proposal.Subject, bundle: bundle, tick: a.tick})
	if err != nil {
		n.turnedBad(h.Proposal.Subject, d, err)
		return err
	}
	if record, _ := d.Record(); record.AK != a.ak {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "application of " + h.Proposal.Subject, Want: "the attestation key that it names, " + a.ak.String(), Got: record.AK.String()})
	}
	if err := n.archive(ctx, evidenceCase{host: h.Proposal.Subject, bundle: bundle, tick: a.tick}, d); err != nil {
		return err
	}
	return adopt(out)(d.Ruling(), nil)
}

// replayedMessage tells a host what its next evidence may go on from; nil for nothing.
func replayedMessage(s *appraise.State) *apiv1.Replayed {
	r := s.Reference()
	if r.IsZero() {
		return nil
	}
	out := &apiv1.Replayed{EventLog: r.EventLog[:], ImaLog: r.IMALog[:], Bytes: r.Bytes, Entries: r.Entries}
	if !r.Packages.IsZero() {
		out.Packages = r.Packages[:]
	}
	return out
}

// leaseMessage is a lease as the API shows it.
func leaseMessage(st *admit.Standing) *apiv1.Lease {
	if st.Record == nil {
		return nil
	}
	r := st.Record
	out := &apiv1.Lease{Host: st.Host, Role: r.Role, Version: st.Version, IssuedMs: r.Issued, UntilMs: st.Until, Assurance: r.Assurance.String(),
		Verdict: st.Verdict.String(), RenewedMs: max(r.Issued, st.Renewed), SubjectKey: bytes.Clone(r.SubjectKey)}
	out.HoldsMs = out.UntilMs - min(out.UntilMs, out.RenewedMs)
	if deny := refusal.Deny(st.Err); deny != nil {
		out.Suspended = refusal.Message(deny)
	}
	return out
}

// Hosts implements serve.Hosts.
func (n *admission) Hosts(ctx context.Context, prefix, after string, limit int) (hosts []*apiv1.Host, more bool, err error) {
	if err := n.replica.Read(ctx); err != nil {
		return nil, false, gone(err)
	}
	err = n.snapshot(func(v ledger.View) error {
		var names []string
		if after != "" {
			after = admit.EnrolmentPrefix + after
		}
		err := v.JudgedKeys(admit.EnrolmentPrefix+prefix, after, func(key string, _ ledger.Value) bool {
			if more = len(names) == limit; more {
				return false
			}
			names = append(names, key[len(admit.EnrolmentPrefix):])
			return true
		})
		for _, name := range names {
			if err != nil {
				break
			}
			var st admit.Standing
			if st, err = admit.Look(v, name); err == nil && st.Enrolment != nil {
				h := &apiv1.Host{Name: name, Role: st.Enrolment.Role, Ek: st.Enrolment.Identity().String(), Version: st.EnrolmentVersion, Revoked: st.Enrolment.Revoked, Lease: leaseMessage(&st)}
				hosts, err = append(hosts, h), part.Spend(ctx, proto.Size(h))
			}
		}
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("hosts: %w", err)
	}
	return hosts, more, nil
}

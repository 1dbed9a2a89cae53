package agent

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
)

// Times that an attempt has.
const (
	proveTimeout = time.Minute
	learnTimeout = 5 * time.Second // of what is known already, mostly
)

// prove shows evidence for a lease, and tells the core what came of it.
func (a *Agent) prove(purpose string) {
	ctx, cancel := context.WithTimeout(a.ctx, proveTimeout)
	defer cancel()
	lease, err := a.obtain(ctx, purpose)
	a.ops.tried(purpose, err)
	if err != nil {
		a.forget(err)
		a.log.Debug("no lease obtained", "purpose", purpose, "because", err)
		a.do(func(c *Core, now Moment) Ready { return c.Failed(now, err) })
		return
	}
	a.mu.Lock()
	a.held.until = 0
	a.mu.Unlock()
	a.do(func(c *Core, now Moment) Ready { return c.Proved(now, lease) })
}

// obtain hands in evidence for the ledger, once every node activated a credential.
func (a *Agent) obtain(ctx context.Context, purpose string) (Lease, error) {
	if err := a.connect(ctx); err != nil {
		return Lease{}, err
	}
	asked := a.now()
	nonce, err := a.host.Nonce(ctx)
	if err != nil {
		return Lease{}, err
	}
	bundle, _, err := a.prover.Prove(ctx, evidence.Binding{Purpose: purpose, Nonce: nonce.GetNonce(), SubjectKey: a.self.public}, nil)
	if err != nil {
		return Lease{}, err
	}
	var lease *apiv1.Lease
	var replayed *apiv1.Replayed
	if purpose == evidence.PurposeAdmission {
		r, e := a.host.Admit(ctx, &apiv1.AdmitRequest{Host: a.cfg.Host, Bundle: bundle.Bytes(), Tick: nonce.GetTick()})
		lease, replayed, err = r.GetLease(), r.GetReplayed(), e
	} else {
		r, e := a.renew(ctx, bundle, nonce.GetTick())
		lease, replayed, err = r.GetLease(), r.GetReplayed(), e
	}
	a.remember(replayed)
	if err != nil {
		return Lease{}, err
	}
	return a.lease(lease, asked)
}

// renew hands in what the logs have gained since the nodes saw them, and all of it where
// they ask for that, or do not agree: one that was asked first may know less.
func (a *Agent) renew(ctx context.Context, whole evidence.Bundle, tick uint64) (*apiv1.RenewResponse, error) {
	a.mu.Lock()
	from := a.replayed
	a.mu.Unlock()
	request := &apiv1.RenewRequest{Host: a.cfg.Host, Bundle: whole.Bytes(), Tick: tick}
	if b, err := evidence.Continue(whole.Parts(), from); err == nil {
		request.Bundle = b.Bytes()
		r, err := a.host.Renew(ctx, request)
		if !wantsWhole(err) {
			return r, err
		}
		a.log.Debug("the whole logs are wanted", "because", err)
		request.Bundle = whole.Bytes()
	}
	return a.host.Renew(ctx, request)
}

// wantsWhole reports whether a refusal of a continuation may be of what nodes have of
// the logs, and not of this machine.
func wantsWhole(err error) bool {
	return errors.Is(err, keystead.ReasonLogUnknown) || errors.Is(err, keystead.ReasonPairMissing) || errors.Is(err, keystead.ReasonVerdictDisagreement)
}

// remember keeps what nodes have of the logs, for the next evidence.
func (a *Agent) remember(r *apiv1.Replayed) {
	var from evidence.Reference
	digest := func(b []byte) (d keystead.Digest) { copy(d[:], b); return d }
	if r != nil {
		from = evidence.Reference{EventLog: digest(r.GetEventLog()), IMALog: digest(r.GetImaLog()), Bytes: r.GetBytes(), Entries: r.GetEntries(), Packages: digest(r.GetPackages())}
	}
	a.mu.Lock()
	a.replayed = from
	a.mu.Unlock()
}

// lease takes a node's answer, if it is of this host.
func (a *Agent) lease(l *apiv1.Lease, asked Moment) (Lease, error) {
	if s := refusal.Parse(l.GetSuspended()); s != nil {
		return Lease{}, deny(keystead.ReasonLeaseSuspended, "a lease that no node suspended", s.Error())
	}
	switch {
	case l.GetHost() != a.cfg.Host || !bytes.Equal(l.GetSubjectKey(), a.self.public):
		return Lease{}, &keystead.FormatError{Format: "lease", Field: "host", Problem: "is of another host or key than what was shown"}
	case l.GetHoldsMs() == 0 || l.GetHoldsMs() > uint64(maxHold.Milliseconds()):
		return Lease{}, &keystead.FormatError{Format: "lease", Field: "holds", Problem: "is no time, or more than a day"}
	}
	return Lease{Host: l.GetHost(), Version: l.GetVersion(), Assurance: l.GetAssurance(), Verdict: l.GetVerdict(), Asked: asked,
		Holds: time.Duration(l.GetHoldsMs()) * time.Millisecond}, nil
}

// learn asks for the domain's roster and terms if what is known of them is of that age, or
// something failed since. Where no node answers, what is known has to do.
func (a *Agent) learn(ctx context.Context, age time.Duration) error {
	began := a.now()
	a.mu.Lock()
	young := a.learned != 0 && began.Sub(a.learned) < age
	a.mu.Unlock()
	if young {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	err := a.nodes.learn(ctx)
	if err == nil {
		a.mu.Lock()
		a.learned = began
		a.mu.Unlock()
	} else if view, _ := a.nodes.current(); view != nil {
		a.log.Debug("roster and terms are those of before", "because", err)
		return nil
	}
	return err
}

// connect learns where the nodes are, and shows evidence to all of them if it is not
// known that all have seen some: a node judges no host whose key it has not activated.
// One that can be reached is enough to go on; if there is none, the error is what they
// say most of.
func (a *Agent) connect(ctx context.Context) error {
	if err := a.learn(ctx, learnAge); err != nil {
		return err
	}
	view, _ := a.nodes.current()
	a.host.Nodes(view.Contacts)
	began := a.now()
	if a.known(view.Contacts, began) {
		return nil
	}
	found := a.host.Connect(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen, a.met = found, began
	var worst error
	for name, e := range found {
		if e == nil {
			continue
		}
		a.met = 0
		a.log.Debug("node not connected", "node", name, "because", e)
		if worst == nil || !passing(e) {
			worst = e
		}
	}
	for _, e := range found {
		if e == nil {
			return nil
		}
	}
	return worst
}

// forget has the next attempt show evidence to every node, if something failed: one may
// not know this host's key any more. Connections to nodes that judged are made anew.
func (a *Agent) forget(because error) {
	a.mu.Lock()
	a.met, a.learned = 0, 0
	a.mu.Unlock()
	if !client.Unavailable(because) || wantsWhole(because) {
		a.host.Drop()
	}
}

// known reports whether exactly these nodes have all seen evidence of late.
func (a *Agent) known(nodes map[string]client.Contact, now Moment) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.met == 0 || now.Sub(a.met) >= nodeAge || len(nodes) != len(a.seen) {
		return false
	}
	for name := range nodes {
		if _, ok := a.seen[name]; !ok {
			return false
		}
	}
	return true
}

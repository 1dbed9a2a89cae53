package agent

import (
	"context"
	"crypto/hpke"
	"errors"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/refusal"
)

// own are the procedures by which the agent itself answers the applications of the machine.
func (a *Agent) own() []part.Procedure {
	limits := part.Limits{Request: maxRequest, Time: requestTimeout}
	return []part.Procedure{
		part.Unary(apiv1connect.AgentServiceAgentStatusProcedure, limits, a.agentStatus, connect.WithIdempotency(connect.IdempotencyNoSideEffects)),
		part.Unary(apiv1connect.AgentServiceChallengeProcedure, limits, a.challenge),
		part.Unary(apiv1connect.AgentServiceReleaseKeyProcedure, limits, a.releaseKey),
		part.Stream(apiv1connect.AgentServiceWatchLeaseProcedure, limits, a.watchLease),
	}
}

func (a *Agent) agentStatus(context.Context, *apiv1.AgentStatusRequest) (*apiv1.AgentStatusResponse, error) {
	return a.Status(), nil
}

func (a *Agent) challenge(ctx context.Context, _ *apiv1.ChallengeRequest) (*apiv1.ChallengeResponse, error) {
	v, now := ctx.Value(visitorKey{}).(*visitor), a.now()
	signed, err := v.signed(ctx)
	if err != nil {
		return nil, err
	}
	var c [process.ChallengeSize]byte
	if signed && a.releaser != nil && v.measurable() {
		c, err = a.challengeSigned(ctx, v, now)
	} else {
		c, err = v.challenge(ctx, now)
	}
	if err != nil {
		return nil, err
	}
	return &apiv1.ChallengeResponse{Challenge: c[:], BootId: a.boot[:]}, nil
}

// challengeSigned has a node give the challenge, once the program is measured: each is a release
// that its user may ask for.
func (a *Agent) challengeSigned(ctx context.Context, v *visitor, now Moment) (none [process.ChallengeSize]byte, err error) {
	if err := v.user.release(a.front.users, now); err != nil {
		return none, err
	}
	a.mu.Lock()
	_, err = a.core.Lease(now)
	a.mu.Unlock()
	if err != nil {
		return none, err
	}
	c, err := a.releaser.Challenge(ctx, v)
	if err != nil {
		return none, err
	}
	return v.give(&challenge{bytes: c.Bytes, given: now, answer: c.Answer}), nil
}

func (a *Agent) releaseKey(ctx context.Context, q *apiv1.ReleaseKeyRequest) (*apiv1.ReleaseKeyResponse, error) {
	v := ctx.Value(visitorKey{}).(*visitor)
	asked := a.now()
	c, err := v.take(asked) // whatever comes of it
	if err != nil {
		return nil, err
	}
	report, err := process.Verify(q.GetReport(), c.bytes, a.boot)
	if err != nil {
		return nil, err
	}
	if c.answer != nil {
		return c.answer(ctx, q.GetReport())
	}
	if err := v.user.release(a.front.users, asked); err != nil {
		return nil, err
	}
	if err := a.open(asked); err != nil {
		return nil, err
	}
	facts, err := v.facts(ctx, c)
	if err != nil {
		return nil, err
	}
	out, err := a.release(ctx, wanted{report.Key, report.Version, facts}, asked)
	if err != nil {
		a.log.Info("key not released", "key", report.Key, "to", facts, "because", err)
		return nil, err
	}
	defer clear(out.key)
	if err := v.unchanged(ctx, c); err != nil { // while the node was asked
		return nil, err
	}
	kdf, aead := process.Suite()
	sealed, err := hpke.Seal(report.Wrapping, kdf, aead, process.Info(q.GetReport()), out.key)
	if err != nil {
		return nil, &keystead.FormatError{Format: "application-report", Field: "wrapping key", Problem: err.Error()}
	}
	a.log.Info("key released", "key", report.Key, "version", out.version, "to", facts)
	return &apiv1.ReleaseKeyResponse{Sealed: sealed, Version: out.version, HoldsMs: uint64(out.holds.Milliseconds())}, nil
}

// open refuses while there is neither a lease nor a key that may be held without one.
func (a *Agent) open(now Moment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.core.Lease(now)
	if a.held.until != 0 {
		return nil // release decides
	}
	return err
}

// released is a key for an application, and for how long.
type released struct {
	key     []byte // a copy
	version uint64
	holds   time.Duration
}

// release asks a node for the key, and falls back to a key that is held only when none
// can be reached.
func (a *Agent) release(ctx context.Context, w wanted, asked Moment) (released, error) {
	a.mu.Lock()
	_, err := a.core.Lease(asked)
	a.mu.Unlock()
	if err != nil {
		return a.heldKey(w, err)
	}
	r, err := a.host.Release(ctx, &apiv1.ReleaseRequest{Host: a.cfg.Host, Key: w.key, Version: w.version, Application: &apiv1.Application{
		Level: w.by.Level.String(), Path: w.by.Path, Digest: w.by.Digest.String(), Uid: w.by.UID}})
	switch {
	case err == nil:
		return a.keep(w, r)
	case client.Unavailable(err) && !errors.Is(err, keystead.ReasonLeaseExpired):
		return a.heldKey(w, err)
	}
	return released{}, a.told(err)
}

// keep holds what a node released, if there is a lease still.
func (a *Agent) keep(w wanted, r *apiv1.ReleaseResponse) (released, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	lease, err := a.core.Lease(now)
	if err != nil {
		clear(r.Secret)
		return released{}, err
	}
	hold := time.Duration(min(r.GetHoldMs(), uint64(maxHold.Milliseconds()))) * time.Millisecond
	s := &secret{bytes: r.GetSecret(), version: r.GetVersion(), hold: hold}
	a.held.put(w, s)
	return released{slices.Clone(s.bytes), s.version, lease.End().Sub(now)}, nil
}

// maxHold bounds what a node may let a host hold a key beyond its lease.
const maxHold = 24 * time.Hour

// heldKey answers with a key that is held, or with why there is no other answer.
func (a *Agent) heldKey(w wanted, why error) (released, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	var end Moment
	if lease, err := a.core.Lease(now); err == nil {
		end = lease.End()
	}
	s, left := a.held.get(now, w, end)
	if s == nil {
		return released{}, why
	}
	return released{slices.Clone(s.bytes), s.version, left}, nil
}

// Status returns where the host stands.
func (a *Agent) Status() *apiv1.AgentStatusResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	phase, problem := a.core.Phase()
	out := &apiv1.AgentStatusResponse{Domain: a.cfg.Domain.String(), Host: a.cfg.Host, Ek: a.ek.String(), Phase: string(phase), Problem: wire(problem),
		IntervalMs: uint64(a.core.Interval().Milliseconds()), ExposureMs: uint64(a.core.Exposure(now).Milliseconds()),
		NextMs: uint64(max(0, a.core.next.Sub(now).Milliseconds())), Keys: uint32(len(a.held.keys)), Enrolment: a.Enrolment()}
	if l, err := a.core.Lease(now); err == nil {
		out.LeaseVersion, out.Assurance, out.Verdict = l.Version, l.Assurance, l.Verdict
		out.LeftMs, out.HeldMs = uint64(l.End().Sub(now).Milliseconds()), uint64(now.Sub(l.Asked).Milliseconds())
	}
	a.say(out)
	for name, err := range a.seen {
		out.Nodes = append(out.Nodes, &apiv1.AgentNode{Name: name, Connected: err == nil, Problem: wire(err)})
	}
	slices.SortFunc(out.Nodes, func(x, y *apiv1.AgentNode) int { return strings.Compare(x.GetName(), y.GetName()) })
	return out
}

// wire returns err as the API sends it; what is no refusal is this machine's trouble.
func wire(err error) *apiv1.Refusal {
	if err == nil {
		return nil
	}
	if d := refusal.Deny(err); d != nil {
		return refusal.Message(d)
	}
	return &apiv1.Refusal{Findings: []*apiv1.Finding{{Reason: string(keystead.ReasonEvidenceMissing), Got: err.Error(), Where: "this machine"}}}
}

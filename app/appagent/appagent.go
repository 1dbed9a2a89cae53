// Package appagent is applications' presence on an agent. It answers for signed programs: when
// one asks for a key, it has the memory of the process measured, holds what was found to the roots
// of the domain, has a node give a challenge, and states to the node, once the program answered it,
// what runs there. The key comes sealed to the program's own wrapping key: the agent hands over
// what it can not open.
//
// Of the subject key of the lease it has one use, a function that signs a statement.
package appagent

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/app"
)

// Options are what a part is made with.
type Options struct {
	Host string // this host's name
	// Vouch signs a statement with the subject key of the lease, after it filled in domain, host,
	// lease and boot. It fails without a lease.
	Vouch func(app.Statement) ([]byte, error)
	Log   *slog.Logger
}

// A Part answers for signed programs.
type Part struct {
	host  part.Host
	opts  Options
	terms *terms
}

// New returns the part.
func New(host part.Host, o Options) *Part {
	return &Part{host: host, opts: o, terms: &terms{ledger: host.Ledger}}
}

// Name implements part.Part.
func (*Part) Name() string { return "app" }

// Declare implements part.Part.
func (p *Part) Declare(d *part.Declaration) {
	limits := part.Limits{Request: 1 << 10, Time: part.MaxTime}
	d.Procedures = []part.Procedure{
		part.Unary(appv1connect.LaunchServicePrepareProcedure, limits, p.prepare),
		part.Stream(appv1connect.LaunchServiceHoldProcedure, limits, p.hold),
		part.Stream(fetchSVID, limits, p.svids),
		part.Stream(fetchBundles, limits, p.bundles),
	}
	d.Calls = []string{appv1connect.ApplicationServiceChallengeProcedure, appv1connect.ApplicationServiceReleaseProcedure, appv1connect.ApplicationServiceIdentifyProcedure}
}

// Leased implements part.Part.
func (*Part) Leased(part.Lease) {}

// Lost implements part.Part.
func (*Part) Lost(part.Loss) {}

// Close implements part.Part.
func (*Part) Close() error { return nil }

// maxHold bounds what a node may say of how long a key may be used.
const maxHold = 24 * time.Hour

// Challenge implements part.Releaser. The challenge goes out after the measurement, and never
// before: who measured well before it was asked has not answered it.
func (p *Part) Challenge(ctx context.Context, v part.Visitor) (part.Challenge, error) {
	look, id, err := p.look(ctx, v)
	if err != nil {
		p.opts.Log.Info("application refused", "user", v.User(), "because", err)
		return part.Challenge{}, err
	}
	c, err := p.ask(ctx)
	if err != nil {
		return part.Challenge{}, err
	}
	return part.Challenge{Bytes: c, Answer: func(ctx context.Context, report []byte) (*apiv1.ReleaseKeyResponse, error) {
		out, err := p.release(ctx, look, c, report)
		if err != nil {
			p.opts.Log.Info("key not released", "application", id.Name(), "level", look.Level, "user", look.UID, "because", err)
			return nil, err
		}
		p.opts.Log.Info("key released", "application", id.Name(), "level", look.Level, "user", look.UID, "version", out.GetVersion())
		return out, nil
	}}, nil
}

// look measures a visitor's program and finds out who it is.
func (p *Part) look(ctx context.Context, v part.Visitor) (*part.Look, app.Identity, error) {
	look, err := v.Look(ctx)
	if err != nil {
		return nil, app.Identity{}, err
	}
	id, err := p.identify(ctx, look)
	return look, id, err
}

// identify holds a look to what the domain says of applications. A node does so again: this one
// is so that a program that is none is refused where it runs, and is given no challenge.
func (p *Part) identify(ctx context.Context, look *part.Look) (app.Identity, error) {
	id, err := p.terms.verify(ctx, look.Note, look.Program)
	if err != nil {
		return id, err
	}
	for _, m := range look.Mappings {
		if err := look.Note.Maps(m.Name); err != nil {
			return id, err
		}
	}
	return id, id.Admits(look.Level, p.opts.Host, look.UID)
}

// ask has a node give a challenge.
func (p *Part) ask(ctx context.Context) (c [app.ChallengeSize]byte, err error) {
	var r appv1.ChallengeResponse
	if err := p.host.Call(ctx, appv1connect.ApplicationServiceChallengeProcedure, &appv1.ChallengeRequest{Host: p.opts.Host}, &r); err != nil {
		return c, err
	}
	if len(r.GetChallenge()) != len(c) {
		return c, &keystead.FormatError{Format: "challenge", Field: "size", Problem: "is not 32 bytes"}
	}
	copy(c[:], r.GetChallenge())
	return c, nil
}

// statement says what a look found, as the answer to a node's challenge.
func statement(use app.Use, look *part.Look, challenge [app.ChallengeSize]byte) app.Statement {
	return app.Statement{Challenge: challenge, Use: use, Level: look.Level, Coverage: look.Coverage, UID: look.UID, Inode: look.Inode,
		Program: look.Program, Note: look.Note, Mappings: look.Mappings}
}

// release states to a node what runs, with the program's report, and returns what the node sealed.
func (p *Part) release(ctx context.Context, look *part.Look, challenge [app.ChallengeSize]byte, report []byte) (*apiv1.ReleaseKeyResponse, error) {
	if err := look.Again(ctx); err != nil {
		return nil, err
	}
	s := statement(app.UseRelease, look, challenge)
	digest := keystead.Sum(report)
	s.Attribute = []app.Attribute{{Name: "report", Value: hex.EncodeToString(digest[:])}}
	signed, err := p.opts.Vouch(s)
	if err != nil {
		return nil, err
	}
	var r appv1.ReleaseResponse
	if err := p.host.Call(ctx, appv1connect.ApplicationServiceReleaseProcedure, &appv1.ReleaseRequest{Host: p.opts.Host, Statement: signed, Report: report}, &r); err != nil {
		return nil, err
	}
	if err := look.Again(ctx); err != nil { // while the node was asked
		return nil, err
	}
	if _, _, err := p.host.Lease(); err != nil {
		return nil, err
	}
	holds := min(r.GetHoldsMs(), uint64(maxHold.Milliseconds()))
	return &apiv1.ReleaseKeyResponse{Sealed: r.GetSealed(), Version: r.GetVersion(), HoldsMs: holds}, nil
}

package appnode

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// Part answers agents for applications of their hosts.
type Part struct {
	grants     part.Grants
	host       part.Host
	challenges challenges
	roots      rootbook
	now        func() time.Time
	answered   *prometheus.CounterVec
}

// New returns the part. What it gives away is by grants.
func New(grants part.Grants) *Part {
	return &Part{grants: grants, now: time.Now, answered: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keystead_applications_total", Help: "Applications that were given a key (release) or an SVID (identity), by the level at which they are known.",
	}, []string{"use", "level"})}
}

// Name implements part.Part.
func (*Part) Name() string { return "app" }

// Limits of procedures, in bytes of a message.
const (
	small  = 4 << 10
	answer = 256 << 10 // with the authorities of all nodes
)

// Declare implements part.Part.
func (p *Part) Declare(d *part.Declaration) {
	d.Procedures = []part.Procedure{
		part.Unary(appv1connect.ApplicationServiceChallengeProcedure, part.Limits{From: part.ClassHost, In: small, Values: 8, Out: small}, p.challenge),
		part.Unary(appv1connect.ApplicationServiceReleaseProcedure, part.Limits{From: part.ClassHost, In: app.MaxStatement + process.MaxReport + small, Values: 8, Out: small}, p.release),
		part.Unary(appv1connect.ApplicationServiceIdentifyProcedure, part.Limits{From: part.ClassHost, In: app.MaxStatement + small, Values: 8, Out: answer}, p.identify),
	}
	d.Objects = map[string]admit.Reader{admit.ObjectAppRoots: func(content []byte) error { _, err := app.ParseRoots(content); return err }}
	d.Metrics = []prometheus.Collector{p.answered}
}

// Start implements part.Part.
func (p *Part) Start(_ context.Context, h part.Host) error { p.host = h; return nil }

// Applied implements part.Part.
func (*Part) Applied(part.Batch) {}

// Close implements part.Part.
func (*Part) Close() error { return nil }

func (p *Part) challenge(ctx context.Context, r *appv1.ChallengeRequest) (*appv1.ChallengeResponse, error) {
	out := &appv1.ChallengeResponse{}
	err := p.grants.Lease(ctx, part.CallerOf(ctx), r.GetHost(), func(ledger.View, *part.Granted) error {
		c, err := p.challenges.give(r.GetHost(), p.now())
		out.Challenge = c[:]
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// asked is a statement that came, with what this node knows of the challenge in it.
type asked struct {
	host      string
	statement []byte
	use       app.Use
	challenge [app.ChallengeSize]byte
	boot      process.BootID // zero: the statement's
	given     time.Time
	rooted    rooted
	knows     func(keystead.Digest, uint64) bool
}

// ask takes the challenge of a statement, which serves once, whatever becomes of it, and
// fetches what the statement is judged by.
func (p *Part) ask(ctx context.Context, host string, statement []byte, use app.Use) (a *asked, err error) {
	a = &asked{host: host, statement: statement, use: use}
	if a.challenge, err = app.PeekChallenge(statement); err != nil {
		return nil, err
	}
	if a.given, err = p.challenges.take(a.challenge, host); err != nil {
		return nil, err
	}
	if a.rooted, err = p.roots.inForce(ctx, p.host); err != nil {
		return nil, err
	}
	a.knows, err = p.grants.Knows(ctx)
	return a, err
}

// open holds the statement to all that this node knows, in the state of the grant.
func (p *Part) open(v ledger.View, g *part.Granted, a *asked) (none app.Application, err error) {
	f, err := termsOf(v)
	if err != nil {
		return none, err
	}
	if f.Digest != a.rooted.terms {
		return none, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectChanged, Where: "terms for hosts", Want: a.rooted.terms.String(), Got: f.Digest.String() + ", since a moment ago; ask again"})
	}
	subject, err := x509.ParsePKIXPublicKey(g.Lease.SubjectKey())
	if err != nil {
		return none, err
	}
	var failed error
	denied := func(d keystead.Digest) bool {
		found, err := admit.Denied(v, a.host, []string{admit.DenyApp(d)})
		if err != nil {
			failed = err
		}
		return len(found) > 0 || err != nil
	}
	out, err := app.Open(a.statement, app.Expected{
		Domain: p.host.Self().Domain, Host: a.host, Lease: g.Lease.Version(), Boot: a.boot, Subject: subject,
		Challenge: a.challenge, Asked: a.given, Now: p.now(), Use: a.use, Least: process.Peer,
		Roots: a.rooted.roots, At: time.UnixMilli(int64(g.Clock)), Denied: denied,
		Known: func(file keystead.Digest) bool { return a.knows(file, g.Clock) },
	})
	if failed != nil {
		return none, failed
	}
	if err == nil && out.Identity().Name() == "" {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonAppUnsigned, Where: "application statement", Want: "a signed program", Got: "one without a note"})
	}
	return out, err
}

// attributeReport is the attribute by which a statement names the application's report.
const attributeReport = "report"

func (p *Part) release(ctx context.Context, r *appv1.ReleaseRequest) (*appv1.ReleaseResponse, error) {
	a, err := p.ask(ctx, r.GetHost(), r.GetStatement(), app.UseRelease)
	if err != nil {
		return nil, err
	}
	report, err := process.Parse(r.GetReport())
	if err != nil {
		return nil, err
	}
	a.boot = report.Boot
	var grant keyring.Grant
	var opened app.Application
	err = p.grants.Evidence(ctx, part.CallerOf(ctx), a.host, func(v ledger.View, g *part.Granted) error {
		if opened, err = p.open(v, g, a); err != nil {
			return err
		}
		if err := reported(opened, r.GetReport(), report); err != nil {
			return err
		}
		s, id := opened.Statement(), opened.Identity()
		grant, err = p.grants.Release(v, &keyring.Ask{Lease: g.Lease, Claims: g.Claims, Key: report.Key, Version: report.Version,
			Application: keyring.Application{Level: s.Level.String(), Digest: id.Program().String(), Name: id.Name(), UID: int64(s.UID)}}, g.Clock)
		return err
	})
	if err != nil {
		return nil, err
	}
	kdf, aead := process.Suite()
	sealed, err := hpke.Seal(report.Wrapping, kdf, aead, process.Info(r.GetReport()), grant.Secret().Encode())
	if err != nil {
		return nil, err
	}
	p.gave(app.UseRelease, opened)
	return &appv1.ReleaseResponse{Sealed: sealed, Version: grant.Version(), HoldsMs: uint64(grant.Hold().Milliseconds())}, nil
}

// reported refuses a report that the statement does not name, or that answers another challenge.
func reported(a app.Application, raw []byte, r process.Report) error {
	s, d := a.Statement(), sha256.Sum256(raw)
	got := "none"
	for _, x := range s.Attribute {
		if x.Name == attributeReport {
			got = x.Value
		}
	}
	foreign := func(reason keystead.Reason, want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: reason, Where: "application's report", Want: want, Got: got})
	}
	switch want := hex.EncodeToString(d[:]); {
	case got != want:
		return foreign(keystead.ReasonReportForeign, "the report that the statement names, "+got, want)
	case r.Challenge != s.Challenge:
		return foreign(keystead.ReasonReportReplayed, "an answer to the challenge of the statement", "an answer to another")
	}
	return nil
}

func (p *Part) identify(ctx context.Context, r *appv1.IdentifyRequest) (*appv1.IdentifyResponse, error) {
	a, err := p.ask(ctx, r.GetHost(), r.GetStatement(), app.UseIdentity)
	if err != nil {
		return nil, err
	}
	var out part.SVID
	var opened app.Application
	err = p.grants.Lease(ctx, part.CallerOf(ctx), a.host, func(v ledger.View, g *part.Granted) error {
		if opened, err = p.open(v, g, a); err != nil {
			return err
		}
		public, err := identityKey(opened)
		if err != nil {
			return err
		}
		out, err = p.grants.Issue(v, g.Lease, "/app/"+opened.Identity().Name(), public)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.gave(app.UseIdentity, opened)
	return &appv1.IdentifyResponse{Chain: out.Chain, Bundle: out.Bundle, Id: out.ID}, nil
}

// identityKey returns the one key of a statement, whose possession was shown.
func identityKey(a app.Application) (*ecdsa.PublicKey, error) {
	s := a.Statement()
	if len(s.Keys) != 1 || s.Keys[0].Algorithm != app.AlgorithmP256 {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "application statement", Want: "one key, of " + string(app.AlgorithmP256), Got: fmt.Sprintf("%d keys, or one of another algorithm", len(s.Keys))})
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), s.Keys[0].Public)
}

// gave counts and logs what an application was given.
func (p *Part) gave(use app.Use, a app.Application) {
	s := a.Statement()
	p.answered.WithLabelValues(string(use), s.Level.String()).Inc()
	p.host.Self().Log.Info("an application was given what it asked for", "use", use, "application", a.Identity().Name(), "level", s.Level, "host", s.Host, "program", a.Identity().Program())
}

// Package svidagent keeps a host's X.509-SVID in files: it has one issued with each lease and
// renewal, checks it, puts it in place, and removes it with the lease. A node is not believed for
// what it issues (package svid). Whoever reads the files' directory as the agent's user is this host.
package svidagent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/svid"
)

// Config is the table [svid] of an agent's configuration.
type Config struct {
	Dir string `toml:"dir"`
}

// DefaultDir is where the files are unless the configuration says otherwise.
const DefaultDir = "/run/keystead/svid"

// Options are what a part is made with.
type Options struct {
	Dir  string // where the files are written
	Host string // this host's name
	Log  *slog.Logger
}

// Times of attempts.
const (
	attemptTime = 20 * time.Second
	retry       = time.Second
)

// A Part keeps the SVID.
type Part struct {
	host part.Host
	opts Options
	wake chan struct{} // there is another lease
	key  *ecdsa.PrivateKey
	pem  []byte // of the key, PKCS #8: written beside the certificate

	mu        sync.Mutex // guards what follows, and the files
	leased    bool
	busy      bool     // keep runs
	stale     bool     // a lease came since the last attempt began
	id        string   // of the SVID that is in place
	published [][]byte // authorities by which nodes issue, as the ledger has them
}

// New returns the part, with a key of its own that lasts as long as it does: the subject key of a
// lease vouches for more than TLS, and is written nowhere. An SVID of an agent that was killed goes.
func New(host part.Host, o Options) (*Part, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return &Part{host: host, opts: o, wake: make(chan struct{}, 1), key: k, pem: text}, remove(o.Dir)
}

// Name implements part.Part.
func (*Part) Name() string { return "svid" }

// Declare implements part.Part.
func (p *Part) Declare(d *part.Declaration) {
	d.Calls = []string{apiv1connect.HostServiceIssueSVIDProcedure}
	d.Status = func(s *apiv1.AgentStatusResponse) {
		p.mu.Lock()
		defer p.mu.Unlock()
		s.SpiffeId = p.id
	}
}

// Leased implements part.Part: an SVID ends with its lease, so there has to be another.
func (p *Part) Leased(part.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leased, p.stale = true, true
	if !p.busy {
		p.busy = true
		p.host.Go(p.keep)
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Lost implements part.Part.
func (p *Part) Lost(part.Loss) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leased, p.stale, p.id = false, false, ""
	if err := remove(p.opts.Dir); err != nil {
		p.opts.Log.Error("the SVID is still there", "because", err)
	}
}

// Close implements part.Part.
func (p *Part) Close() error { return remove(p.opts.Dir) }

// keep has an SVID issued for every lease, and again after a while where that failed.
func (p *Part) keep(ctx context.Context) {
	for p.wanted(ctx) {
		err := p.issue(ctx)
		if err == nil {
			continue
		}
		if !errors.Is(err, context.Canceled) {
			p.opts.Log.Warn("no SVID", "because", err)
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-time.After(retry):
		}
		p.mu.Lock()
		p.stale = p.leased
		p.mu.Unlock()
	}
}

// wanted reports whether an attempt is due; keep ends where none is.
func (p *Part) wanted(ctx context.Context) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stale || ctx.Err() != nil {
		p.busy = false
		return false
	}
	p.stale = false
	return true
}

// issue has an SVID signed and puts it in place.
func (p *Part) issue(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	domain, err := p.host.Ledger().Domain(ctx, false)
	if err != nil {
		return err
	}
	lease, _, err := p.host.Lease()
	if err != nil {
		return err
	}
	q := &apiv1.IssueSVIDRequest{Host: p.opts.Host}
	if q.PublicKey, q.Proof, err = svid.Prove(rand.Reader, p.key, domain.Digest, p.opts.Host, lease.Version); err != nil {
		return err
	}
	var r apiv1.IssueSVIDResponse
	if err := p.host.Call(ctx, apiv1connect.HostServiceIssueSVIDProcedure, q, &r); err != nil {
		return err
	}
	s, err := p.Accept(ctx, &r)
	if err != nil {
		return err
	}
	return p.place(s)
}

// Accept holds what a node issued to this host, its lease, and the domain's authorities.
func (p *Part) Accept(ctx context.Context, r *apiv1.IssueSVIDResponse) (*svid.SVID, error) {
	domain, err := p.host.Ledger().Domain(ctx, false)
	if err != nil {
		return nil, err
	}
	_, left, err := p.host.Lease()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(p.key.Public())
	if err != nil {
		return nil, err
	}
	at := time.Now()
	s, err := svid.Open(r, svid.Expected{ID: svid.HostID(domain.Name, p.opts.Host), Key: public, Until: at.Add(left)}, at)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	published := p.published
	p.mu.Unlock()
	err = svid.Vouched(r.GetBundle(), published, domain.Digest, domain.Nodes)
	if errors.Is(err, keystead.ReasonSignerUnknown) { // a node may have another since
		if domain, published, err = p.learn(ctx); err == nil {
			err = svid.Vouched(r.GetBundle(), published, domain.Digest, domain.Nodes)
		}
	}
	return s, err
}

// learn reads by which authorities the roster's nodes issue SVIDs. They are worth what
// the nodes' signatures in them are.
func (p *Part) learn(ctx context.Context) (part.Domain, [][]byte, error) {
	domain, err := p.host.Ledger().Domain(ctx, true)
	if err != nil {
		return domain, nil, err
	}
	var keys []string
	for _, node := range domain.Nodes {
		keys = append(keys, svid.AuthorityKey(node.Name))
	}
	published, err := p.host.Ledger().Read(ctx, keys...)
	if err != nil {
		return domain, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = published
	return domain, published, nil
}

// place writes an SVID, unless the lease has ended meanwhile.
func (p *Part) place(s *svid.SVID) error {
	if _, _, err := p.host.Lease(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leased {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseExpired, Where: "SVID", Want: "a lease still", Got: "one that ended while it was issued"})
	}
	if err := write(p.opts.Dir, s, p.pem); err != nil {
		return err
	}
	p.id = s.ID
	return nil
}

package appagent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	spiffev1 "github.com/keystead/keystead/api/spiffe/v1"
	"github.com/keystead/keystead/app"
)

// Procedures of the SPIFFE Workload API, and the header that shows that a request was made on
// purpose (SPIFFE Workload API, 5 and 6.1).
const (
	fetchSVID      = "/SpiffeWorkloadAPI/FetchX509SVID"
	fetchBundles   = "/SpiffeWorkloadAPI/FetchX509Bundles"
	securityHeader = "Workload.Spiffe.Io"
)

// leastRotation is the least time between two SVIDs on a stream.
const leastRotation = time.Second

// identity is an SVID with its key.
type identity struct {
	svid  *appv1.IdentifyResponse
	key   *ecdsa.PrivateKey
	until time.Time
}

// svids answers with an SVID for /app/NAME, and with another before each ends.
func (p *Part) svids(ctx context.Context, _ *spiffev1.X509SVIDRequest, send func(*spiffev1.X509SVIDResponse) error) error {
	return p.rotate(ctx, func(i *identity) error {
		key, err := x509.MarshalPKCS8PrivateKey(i.key)
		if err != nil {
			return err
		}
		return send(&spiffev1.X509SVIDResponse{Svids: []*spiffev1.X509SVID{{SpiffeId: i.svid.GetId(),
			X509Svid: bytes.Join(i.svid.GetChain(), nil), X509SvidKey: key, Bundle: bytes.Join(i.svid.GetBundle(), nil)}}})
	})
}

// bundles answers with the authorities of the domain, to whom it would give an SVID.
func (p *Part) bundles(ctx context.Context, _ *spiffev1.X509BundlesRequest, send func(*spiffev1.X509BundlesResponse) error) error {
	return p.rotate(ctx, func(i *identity) error {
		id, err := url.Parse(i.svid.GetId())
		if err != nil {
			return err
		}
		return send(&spiffev1.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://" + id.Host: bytes.Join(i.svid.GetBundle(), nil)}})
	})
}

// rotate has the visitor identified, tells it, and does so again when half of the SVID's time is
// over: the program is measured each time.
func (p *Part) rotate(ctx context.Context, tell func(*identity) error) error {
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok || info.RequestHeader().Get(securityHeader) != "true" {
		return connect.NewError(connect.CodeInvalidArgument, keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "Workload API", Want: "the header workload.spiffe.io: true", Got: "none"}))
	}
	v, err := p.host.Visitor(ctx)
	if err != nil {
		return err
	}
	for {
		i, err := p.identity(ctx, v)
		if err != nil {
			if ctx.Err() == nil {
				p.opts.Log.Info("identity not given", "user", v.User(), "because", err)
			}
			return err
		}
		if err := tell(i); err != nil {
			return err
		}
		select {
		case <-time.After(max(leastRotation, time.Until(i.until)/2)):
		case <-ctx.Done():
			return nil
		}
	}
}

// identity has a visitor measured, and a node give it an SVID for a key that is made for it. The
// connection is asked for a sign of life in between: the program that was measured holds it, and
// no other that was handed it.
func (p *Part) identity(ctx context.Context, v part.Visitor) (*identity, error) {
	look, id, err := p.look(ctx, v)
	if err != nil {
		return nil, err
	}
	if err := v.Present(ctx); err != nil {
		return nil, err
	}
	domain, err := p.host.Ledger().Domain(ctx, false)
	if err != nil {
		return nil, err
	}
	challenge, err := p.ask(ctx)
	if err != nil {
		return nil, err
	}
	out := &identity{svid: &appv1.IdentifyResponse{}}
	if out.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	s := statement(app.UseIdentity, look, challenge)
	s.Domain = domain.Digest
	proven, err := s.ProveP256(rand.Reader, out.key)
	if err != nil {
		return nil, err
	}
	s.Keys = []app.Key{proven}
	if err := look.Again(ctx); err != nil {
		return nil, err
	}
	signed, err := p.opts.Vouch(s)
	if err != nil {
		return nil, err
	}
	if err := p.host.Call(ctx, appv1connect.ApplicationServiceIdentifyProcedure, &appv1.IdentifyRequest{Host: p.opts.Host, Statement: signed}, out.svid); err != nil {
		return nil, err
	}
	if err := look.Again(ctx); err != nil { // while the node was asked
		return nil, err
	}
	if _, _, err := p.host.Lease(); err != nil {
		return nil, err
	}
	if out.until, err = endOf(out); err != nil {
		return nil, err
	}
	p.opts.Log.Info("identity given", "application", id.Name(), "level", look.Level, "user", look.UID, "id", out.svid.GetId())
	return out, nil
}

// endOf holds what a node gave to the key that it was to be for, and returns when it ends.
func endOf(i *identity) (time.Time, error) {
	if len(i.svid.GetChain()) == 0 {
		return time.Time{}, &keystead.FormatError{Format: "svid", Field: "chain", Problem: "is empty"}
	}
	leaf, err := x509.ParseCertificate(i.svid.GetChain()[0])
	if err != nil {
		return time.Time{}, err
	}
	if !i.key.PublicKey.Equal(leaf.PublicKey) {
		return time.Time{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "svid", Want: "one for the key that was made", Got: "another"})
	}
	return leaf.NotAfter, nil
}

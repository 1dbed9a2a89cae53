package node

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// authority signs X.509-SVIDs. Its key is new at each start; its certificate stands on
// the ledger, signed by the node's key.
type authority struct {
	secret *ecdsa.PrivateKey
	cert   *x509.Certificate
}

const (
	svidContract  = "svid"                    // owns the keys under which nodes publish their authorities
	authorityLife = 10 * 365 * 24 * time.Hour // it counts while the ledger has it; this only bounds it
	svidEarly     = 30 * time.Second          // for clocks of others that are behind
)

// trustDomain is the SPIFFE ID of a domain, to which a path is added.
func trustDomain(name string) *url.URL { return &url.URL{Scheme: "spiffe", Host: name} }

// newAuthority makes a node's authority, valid from a time on.
func newAuthority(domain, node string, now time.Time) (*authority, error) {
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: node, Organization: []string{domain}},
		URIs: []*url.URL{trustDomain(domain)}, NotBefore: now.Add(-svidEarly), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{secret, cert}, err
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	b[0] |= 0x40 // positive, and of one length
	return new(big.Int).SetBytes(b)
}

// issue signs an SVID for a path and a key, which ends with the lease: a copy of one whose
// lease was suspended meanwhile works until then.
func (a *authority) issue(domain, path string, subject crypto.PublicKey, l admit.Lease) ([]byte, string, error) {
	id := trustDomain(domain)
	id.Path = path
	template := &x509.Certificate{
		SerialNumber: serial(), URIs: []*url.URL{id}, NotBefore: time.UnixMilli(int64(l.Clock())).Add(-svidEarly), NotAfter: time.UnixMilli(int64(l.Until())),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, subject, a.secret)
	return der, id.String(), err
}

// svids issues X.509-SVIDs to hosts.
type svids struct {
	*guard
	leases    part.Leases
	authority *authority
}

// publishAuthority writes this node's authority to the ledger.
func (n *svids) publishAuthority(ctx context.Context) error {
	k, err := n.signer()
	if err != nil {
		return err
	}
	return n.record(ctx, svidContract, client.AuthorityKey(n.name), client.SignAuthority(k, n.cfg.Domain, n.name, n.authority.cert.Raw))
}

// trustBundle returns the authorities of all nodes in the roster, in the order of
// their names. An authority that its node did not sign is passed over.
func (n *svids) trustBundle(v ledger.View, roster *receipt.Roster) (out [][]byte, err error) {
	for _, node := range roster.Nodes {
		value, err := v.Get(client.AuthorityKey(node.Name))
		if err != nil {
			return nil, err
		}
		if der, err := client.OpenAuthority(value.Data, n.cfg.Domain, node); err == nil {
			out = append(out, der)
		}
	}
	return out, nil
}

// IssueSVID implements serve.Hosts. A host that shows no key of its own gets one for the subject
// key of its lease: agents of before ask so.
func (n *svids) IssueSVID(ctx context.Context, from part.Caller, r *apiv1.IssueSVIDRequest) (*apiv1.IssueSVIDResponse, error) {
	var out part.SVID
	host := r.GetHost()
	err := n.leases.Lease(ctx, from, host, func(v ledger.View, g *part.Granted) error {
		subject, err := x509.ParsePKIXPublicKey(g.Lease.SubjectKey())
		if len(r.GetPublicKey()) > 0 {
			subject, err = client.SVIDKey(r.GetPublicKey(), r.GetProof(), n.cfg.Domain, host, g.Lease.Version())
		}
		if err != nil {
			return err
		}
		out, err = n.issue(v, g.Lease, "/host/"+host, subject) // a name has no slash, and is no step in a path
		return err
	})
	if err != nil {
		return nil, err
	}
	return &apiv1.IssueSVIDResponse{Certificates: out.Chain, Bundle: out.Bundle, SpiffeId: out.ID}, nil
}

// issue signs an SVID by this node's authority, once that is on the ledger.
func (n *svids) issue(v ledger.View, l admit.Lease, path string, subject crypto.PublicKey) (out part.SVID, err error) {
	roster, _, _ := n.machine.roster()
	if out.Bundle, err = n.trustBundle(v, &roster); err != nil {
		return out, err
	}
	if own := n.authority.cert.Raw; !containsDER(out.Bundle, own) {
		return out, keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "authority of node " + n.name, Want: "its certificate on the ledger", Got: "not yet"})
	}
	leaf, id, err := n.authority.issue(n.genesis.Name, path, subject, l)
	out.ID, out.Chain = id, [][]byte{leaf}
	return out, err
}

func containsDER(list [][]byte, der []byte) bool {
	for _, d := range list {
		if bytes.Equal(d, der) {
			return true
		}
	}
	return false
}

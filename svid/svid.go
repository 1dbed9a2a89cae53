// Package svid checks X.509-SVIDs: certificates by which a host with a lease is known to others
// under its SPIFFE id, as long as the lease lasts. Each node has an authority of its own, signs its
// certificate for the ledger ([SignAuthority]), and issues by it; a host believes what it is given for
// what [Open] and [Vouched] check, and not for who gave it.
//
//	s, err := svid.Open(answer, svid.Expected{ID: svid.HostID("demo", "web-1"), Key: public, Until: end}, now)
//	if err == nil {
//		err = svid.Vouched(answer.GetBundle(), published, domain, roster.Nodes)
//	}
package svid

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/receipt"
)

// An SVID is an X.509-SVID that fits this host, its key and its lease, and is signed by an
// authority of the domain.
type SVID struct {
	ID            string // spiffe://DOMAIN/host/HOST
	Chain, Bundle []byte // PEM
}

// Expected is what an SVID is to be: of which host, for which key, no longer than until when.
type Expected struct {
	ID    string // spiffe://DOMAIN/host/HOST
	Key   []byte // PKIX DER
	Until time.Time
}

// HostID returns the SPIFFE id of a host.
func HostID(domain, host string) string {
	id := url.URL{Scheme: "spiffe", Host: domain, Path: "/host/" + host}
	return id.String()
}

// Slack is by how much this machine's time of day may differ from the domain's clock, by
// which nodes date certificates.
const Slack = time.Minute

// Open checks what a node issued (SPIFFE X509-SVID, 4 and 5): one certificate, for this
// host and key, that ends with the lease, by one of the authorities that it came with. That
// these are the domain's is the caller's to check: [Vouched]. The node's own words count for
// nothing.
func Open(r *apiv1.IssueSVIDResponse, want Expected, at time.Time) (*SVID, error) {
	bad := func(want, got string) (*SVID, error) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "SVID", Want: want, Got: got})
	}
	out := &SVID{ID: want.ID}
	roots := x509.NewCertPool()
	for _, der := range r.GetBundle() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return bad("a trust bundle that parses", err.Error())
		}
		roots.AddCert(c)
		out.Bundle = append(out.Bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if n := len(r.GetCertificates()); n != 1 {
		return bad("one certificate, which an authority signed itself", fmt.Sprint(n))
	}
	leaf, err := x509.ParseCertificate(r.GetCertificates()[0])
	if err != nil {
		return bad("a certificate that parses", err.Error())
	}
	out.Chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	switch {
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, want.Key):
		return bad("one for this host's key", "one for another")
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != want.ID || len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses) > 0:
		return bad("the SPIFFE id "+want.ID+" and no other name", fmt.Sprint(leaf.URIs, leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses))
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return bad("one that signs no others", "an authority's")
	case leaf.NotAfter.After(want.Until.Add(Slack)):
		return bad("one that ends with the lease, by "+want.Until.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return bad("one that a node of the bundle signed, and that is in time by this machine's clock", err.Error())
	}
	return out, nil
}

// Vouched refuses a trust bundle that holds another certificate than those that nodes of the
// roster published as their authorities, each by its own signature (signer-unknown). Published are
// the ledger's values below [AuthorityKey], in any order.
func Vouched(bundle, published [][]byte, domain keystead.Digest, roster []receipt.Node) error {
	good := map[keystead.Digest]bool{}
	for _, signed := range published {
		for _, node := range roster {
			if der, err := OpenAuthority(signed, domain, node); err == nil {
				good[keystead.Sum(der)] = true
			}
		}
	}
	for _, der := range bundle {
		if d := keystead.Sum(der); !good[d] {
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignerUnknown, Where: "SVID's trust bundle",
				Want: fmt.Sprintf("authorities that nodes of the roster published, of which %d are known", len(good)), Got: "a certificate of none of them, " + d.String()})
		}
	}
	return nil
}

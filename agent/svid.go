package agent

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// The files of an SVID, below svid.dir.
const (
	svidFile   = "svid.pem"   // the chain, leaf first
	svidKey    = "svid.key"   // PKCS #8
	bundleFile = "bundle.pem" // the domain's trust bundle: one certificate a node
)

// An svid is an X.509-SVID that fits this host, its key and its lease, and is signed by an
// authority of the domain.
type svid struct {
	id            string
	chain, bundle []byte // PEM
}

// expected is what an SVID is to be: of which host, for which key, no longer than until when.
type expected struct {
	id    string // spiffe://DOMAIN/host/HOST
	key   []byte // PKIX DER
	until time.Time
}

// svidSlack is by how much this machine's time of day may differ from the domain's clock, by
// which nodes date certificates.
const svidSlack = time.Minute

// openSVID checks what a node issued (SPIFFE X509-SVID, 4 and 5): one certificate, for this
// host and key, that ends with the lease, by one of the authorities that it came with. That
// these are the domain's is the caller's to check: authorities returns them. The node's own words
// count for nothing.
func openSVID(r *apiv1.IssueSVIDResponse, want expected, at time.Time) (*svid, error) {
	bad := func(want, got string) (*svid, error) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "SVID", Want: want, Got: got})
	}
	out := &svid{id: want.id}
	roots := x509.NewCertPool()
	for _, der := range r.GetBundle() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return bad("a trust bundle that parses", err.Error())
		}
		roots.AddCert(c)
		out.bundle = append(out.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if n := len(r.GetCertificates()); n != 1 {
		return bad("one certificate, which an authority signed itself", fmt.Sprint(n))
	}
	leaf, err := x509.ParseCertificate(r.GetCertificates()[0])
	if err != nil {
		return bad("a certificate that parses", err.Error())
	}
	out.chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	switch {
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, want.key):
		return bad("one for this host's key", "one for another")
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != want.id || len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses) > 0:
		return bad("the SPIFFE id "+want.id+" and no other name", fmt.Sprint(leaf.URIs, leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses))
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return bad("one that signs no others", "an authority's")
	case leaf.NotAfter.After(want.until.Add(svidSlack)):
		return bad("one that ends with the lease, by "+want.until.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return bad("one that a node of the bundle signed, and that is in time by this machine's clock", err.Error())
	}
	return out, nil
}

// write puts the files in place, the certificate last: whoever waits for it finds the
// others.
func (s *svid) write(dir string, key []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		replace(filepath.Join(dir, svidKey), key, 0o600),
		replace(filepath.Join(dir, bundleFile), s.bundle, 0o644),
		replace(filepath.Join(dir, svidFile), s.chain, 0o644),
	)
}

// removeSVID removes the files; it is no error that they are not there.
func removeSVID(dir string) error {
	var errs []error
	for _, name := range []string{svidFile, svidKey, bundleFile} {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// replace writes a file whole or not at all.
func replace(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

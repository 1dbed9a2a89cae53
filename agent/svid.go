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

// An svid is an X.509-SVID that fits this host's key, and is signed by one of the
// bundle.
type svid struct {
	id            string
	chain, bundle []byte // PEM
}

// openSVID checks what a node issued (SPIFFE X509-SVID, 4 and 5): for the key, with
// the one URI that the node states, and by a certificate of the bundle at that time.
func openSVID(r *apiv1.IssueSVIDResponse, key []byte, at time.Time) (*svid, error) {
	bad := func(want, got string) (*svid, error) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "SVID", Want: want, Got: got})
	}
	out := &svid{id: r.GetSpiffeId()}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range r.GetBundle() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return bad("a trust bundle that parses", err.Error())
		}
		roots.AddCert(c)
		out.bundle = append(out.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	var leaf *x509.Certificate
	for i, der := range r.GetCertificates() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return bad("a certificate that parses", err.Error())
		}
		if i == 0 {
			leaf = c
		} else {
			between.AddCert(c)
		}
		out.chain = append(out.chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	switch {
	case leaf == nil:
		return bad("a certificate", "none")
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, key):
		return bad("one for this host's key", "one for another")
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != out.id || leaf.URIs[0].Scheme != "spiffe":
		return bad("the SPIFFE id "+out.id, fmt.Sprint(leaf.URIs))
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
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

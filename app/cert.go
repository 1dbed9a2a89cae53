package app

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/keystead/keystead"
)

// uriPrefix opens the one subject alternative name of a sub-certificate.
const uriPrefix = "urn:keystead:application:"

// refuse returns a refusal of one finding about a program.
func refuse(reason keystead.Reason, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: reason, Where: "application", Want: want, Got: got})
}

func certForeign(want, got string) error {
	return refuse(keystead.ReasonAppCertForeign, want, got)
}

func appMismatch(want, got string) error {
	return refuse(keystead.ReasonApplicationMismatch, want, got)
}

// appAltered takes the arguments of both formats, those of want first.
func appAltered(want, got string, args ...any) error {
	n := strings.Count(want, "%")
	return refuse(keystead.ReasonAppAltered, fmt.Sprintf(want, args[:n]...), fmt.Sprintf(got, args[n:]...))
}

// A Validity is when a certificate counts, both ends included, in whole seconds.
type Validity struct{ From, Until time.Time }

// NewRoot makes a self-signed root certificate (DER) of a key, ECDSA on P-256.
func NewRoot(random io.Reader, key crypto.Signer, name string, v Validity) ([]byte, error) {
	template, err := template(random, name, v)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.MaxPathLenZero, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(random, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	_, err = parseRoot(der)
	return der, err
}

// Issue makes the sub-certificate (DER) of an application's key, ECDSA on P-256.
func Issue(random io.Reader, root []byte, rootKey crypto.Signer, name string, public crypto.PublicKey, v Validity) ([]byte, error) {
	issuer, err := parseRoot(root)
	if err != nil {
		return nil, err
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if !issuer.key.Equal(rootKey.Public()) {
		return nil, certForeign("the key of the root", "another key")
	}
	template, err := template(random, name, v)
	if err != nil {
		return nil, err
	}
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	template.URIs = []*url.URL{{Scheme: "urn", Opaque: strings.TrimPrefix(uriPrefix, "urn:") + name}}
	der, err := x509.CreateCertificate(random, template, issuer.certificate, public, rootKey)
	if err != nil {
		return nil, fmt.Errorf("sub-certificate: %w", err)
	}
	_, err = parseSub(der)
	return der, err
}

func template(random io.Reader, name string, v Validity) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40
	return &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: v.From, NotAfter: v.Until, BasicConstraintsValid: true, SignatureAlgorithm: x509.ECDSAWithSHA256}, nil
}

// A certificate of either kind.
type certificate struct {
	*x509.Certificate
	certificate *x509.Certificate
	key         *ecdsa.PublicKey
	digest      keystead.Digest // of the public key, PKIX DER
	name        string          // of the application, in a sub-certificate
}

// parseCertificate reads what both kinds have in common. What Go's library accepts
// differs from version to version; what is asked for here is narrower than any.
func parseCertificate(der []byte) (*certificate, error) {
	if len(der) > maxCertificate {
		return nil, certForeign("a certificate of at most 4 KiB", fmt.Sprintf("%d bytes", len(der)))
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, certForeign("a certificate (X.509, DER)", err.Error())
	}
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case c.Version != 3 || !ok || key.Curve != elliptic.P256() || c.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return nil, certForeign("a certificate of version 3, ECDSA on P-256 with SHA-256", fmt.Sprintf("version %d, %v, %v", c.Version, c.PublicKeyAlgorithm, c.SignatureAlgorithm))
	case len(c.UnhandledCriticalExtensions) > 0 || !c.BasicConstraintsValid:
		return nil, certForeign("basic constraints, and no critical extension that is not known", "others")
	}
	return &certificate{Certificate: c, certificate: c, key: key, digest: keystead.Sum(c.RawSubjectPublicKeyInfo)}, nil
}

func parseRoot(der []byte) (*certificate, error) {
	c, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	if !c.IsCA || c.KeyUsage != x509.KeyUsageCertSign || c.MaxPathLen != 0 {
		return nil, certForeign("a root: an authority of path length 0 that signs certificates alone", "another certificate")
	}
	if err := c.CheckSignatureFrom(c.Certificate); err != nil {
		return nil, certForeign("a root that signed itself", err.Error())
	}
	return c, nil
}

func parseSub(der []byte) (*certificate, error) {
	c, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning ||
		len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses)+len(c.UnknownExtKeyUsage) > 0 {
		return nil, certForeign("a sub-certificate: for signing code, with one name "+uriPrefix+"NAME", "another certificate")
	}
	name, ok := strings.CutPrefix(c.URIs[0].String(), uriPrefix)
	if !ok || CheckName(name) != nil {
		return nil, certForeign("the name "+uriPrefix+"NAME", fmt.Sprintf("%.80q", c.URIs[0].String()))
	}
	c.name = name
	return c, nil
}

// within refuses a certificate outside of its time.
func (c *certificate) within(what string, at time.Time) error {
	if at.Before(c.NotBefore) || at.After(c.NotAfter) {
		return refuse(keystead.ReasonAppCertExpired, fmt.Sprintf("%s that counts at %s", what, at.UTC().Format(time.RFC3339)),
			fmt.Sprintf("one from %s to %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339)))
	}
	return nil
}

// Info is what a certificate of either kind says.
type Info struct {
	Name        string          // of the application, or of the root
	Key         keystead.Digest // of the public key (PKIX DER): what a denial names
	From, Until time.Time
}

// ReadCertificate reads a root's or a sub-certificate (DER). Who signed a sub-certificate it
// does not say. It refuses with app-cert-foreign what is neither.
func ReadCertificate(der []byte) (Info, error) {
	c, err := parseSub(der)
	name := ""
	if err == nil {
		name = c.name
	} else if root, rerr := parseRoot(der); rerr == nil {
		c, name, err = root, root.Subject.CommonName, nil
	}
	if err != nil {
		return Info{}, err
	}
	return Info{Name: name, Key: c.digest, From: c.NotBefore, Until: c.NotAfter}, nil
}

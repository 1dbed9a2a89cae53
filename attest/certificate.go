package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// NewCertificate makes a fresh P-256 key in a certificate that it signs itself, for a
// side that has no lasting TLS key. The certificate says nothing and never ends: the
// evidence is what vouches for the key.
func NewCertificate() (tls.Certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keystead"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)} // undated: RFC 5280, 4.1.2.5
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}, err
}

// ownLeaf returns what the peer sees of this side.
func ownLeaf(c *tls.Certificate) (*x509.Certificate, error) {
	if len(c.Certificate) == 0 || c.PrivateKey == nil {
		return nil, errors.New("attest: the configuration has no certificate with its key")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("attest: own certificate: %w", err)
	}
	return leaf, nil
}

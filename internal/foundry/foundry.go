// Package foundry makes up vendors of trusted execution environments for tests: their
// certificate authorities, collateral and evidence in the vendors' own forms. What it
// makes is genuine in every byte but for the root, so tests alter one thing at a time.
//
// SGX quotes and Nitro documents have been tested against this writer alone
// (docs/tee.md, unverified-sample).
package foundry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"hash"
	"math/big"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// Now is when all that is made here is good: certificates for a year on both sides,
// collateral for a month.
var Now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// authority is a certificate with its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // tests only
	}
	return v
}

var serials int64

// issue makes a certificate below a, or a root below nil.
func (a *authority) issue(curve elliptic.Curve, name string, ca bool, extensions ...pkix.Extension) *authority {
	serials++
	t := &x509.Certificate{SerialNumber: big.NewInt(serials), Subject: pkix.Name{CommonName: name},
		NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: ca, ExtraExtensions: extensions}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	key := must(ecdsa.GenerateKey(curve, rand.Reader))
	parent, signer := t, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der := must(x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer))
	return &authority{must(x509.ParseCertificate(der)), key}
}

// crl makes a revocation list.
func (a *authority) crl(revoked ...*x509.Certificate) []byte { return a.crlOf(Now, revoked...) }

// crlOf makes one that was fetched at another time, and is good for a month from then.
func (a *authority) crlOf(now time.Time, revoked ...*x509.Certificate) []byte {
	t := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.AddDate(0, 0, -1), NextUpdate: now.AddDate(0, 1, 0)}
	for _, c := range revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: Now})
	}
	return must(x509.CreateRevocationList(rand.Reader, t, a.cert, a.key))
}

// sign returns r and s over the digest of message, big-endian, of size bytes each.
func (a *authority) sign(h hash.Hash, size int, message []byte) []byte {
	h.Write(message)
	r, s, err := ecdsa.Sign(rand.Reader, a.key, h.Sum(nil))
	if err != nil {
		panic(err)
	}
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

func (a *authority) sign256(message []byte) []byte { return a.sign(sha256.New(), 32, message) }
func (a *authority) sign384(message []byte) []byte { return a.sign(sha512.New384(), 48, message) }

func (a *authority) roots() evidence.VendorRoots {
	return evidence.VendorRoots{Hardware: []keystead.Digest{keystead.Sum(a.cert.Raw)}}
}

func chainPEM(chain ...*authority) []byte {
	var b bytes.Buffer
	for _, a := range chain {
		must(0, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	}
	return b.Bytes()
}

// Collateral makes a bundle of pieces.
func Collateral(pieces ...evidence.Piece) *evidence.Collateral {
	return must(evidence.NewCollateral(Now, pieces))
}

package replica

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"

	"github.com/keystead/keystead"
)

// A NodeKey is what a node is known by on its connections. Its digest is pinned by
// the others: a certificate is only its wrapping, and no authority signs it. It is
// the [Guard] of groups that ask for no more than the key.
type NodeKey struct {
	private *ecdsa.PrivateKey
	cert    tls.Certificate
	digest  keystead.Digest
}

// GenerateNodeKey draws a P-256 key.
func GenerateNodeKey(random io.Reader) (*NodeKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, err
	}
	return newNodeKey(k)
}

// ParseNodeKey reads a key that Marshal wrote.
func ParseNodeKey(der []byte) (*NodeKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	p, ok := k.(*ecdsa.PrivateKey)
	if !ok || p.Curve != elliptic.P256() {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyUnsuitable, Want: "an ECDSA P-256 key", Got: fmt.Sprintf("%T", k), Where: "node key"})
	}
	return newNodeKey(p)
}

func newNodeKey(k *ecdsa.PrivateKey) (*NodeKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keystead node"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)} // pinned, so undated: RFC 5280 4.1.2.5
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, err
	}
	return &NodeKey{k, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: crypto.PrivateKey(k)}, keystead.Sum(spki)}, nil
}

// Marshal returns the key in PKCS #8, to be kept secret.
func (k *NodeKey) Marshal() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(k.private) }

// Digest returns the digest of the public key's SubjectPublicKeyInfo.
func (k *NodeKey) Digest() keystead.Digest { return k.digest }

// String names the key by its digest, and never prints it.
func (k *NodeKey) String() string { return "node key " + k.digest.String() }

// Format keeps the private key out of every verb of fmt.
func (k *NodeKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// Client implements Guard.
func (k *NodeKey) Client(ctx context.Context, raw net.Conn, key keystead.Digest) (net.Conn, error) {
	return handshake(ctx, tls.Client(raw, k.config(func(got keystead.Digest) error {
		if got == key {
			return nil
		}
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Want: key.String(), Got: got.String(), Where: raw.RemoteAddr().String()})
	})))
}

// Server implements Guard.
func (k *NodeKey) Server(ctx context.Context, raw net.Conn, accept func(keystead.Digest) error) (net.Conn, keystead.Digest, error) {
	c := tls.Server(raw, k.config(accept))
	conn, err := handshake(ctx, c)
	if err != nil {
		return nil, keystead.Digest{}, err
	}
	return conn, peerKey(c.ConnectionState()), nil
}

func handshake(ctx context.Context, c *tls.Conn) (net.Conn, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, c.NetConn().Close())
	}
	return c, nil
}

// config returns TLS 1.3 without tickets, which demands the peer's certificate and
// asks accept whether its key may speak here.
func (k *NodeKey) config(accept func(keystead.Digest) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{k.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // no chains and names: the key itself is checked below
		NextProtos:             []string{"keystead-replica/1"},
		VerifyConnection:       func(cs tls.ConnectionState) error { return accept(peerKey(cs)) },
	}
}

func peerKey(cs tls.ConnectionState) keystead.Digest {
	if len(cs.PeerCertificates) == 0 {
		return keystead.Digest{}
	}
	return keystead.Sum(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
}

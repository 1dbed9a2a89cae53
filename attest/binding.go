package attest

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// Protocol is the protocol's name in ALPN (RFC 7301).
const Protocol = "keystead-attest/1"

// role is a side's part in TLS. It is in the exporter's label and in the nonce, so
// that no side's evidence can be shown as the other's.
type role string

const (
	roleClient role = "client"
	roleServer role = "server"
)

func (r role) peer() role {
	if r == roleClient {
		return roleServer
	}
	return roleClient
}

// label is that of the exporter (RFC 8446, 7.5; RFC 5705, 4: for private use).
func (r role) label() string { return "EXPERIMENTAL keystead-attest/1 " + string(r) }

// side is what a binding takes of one side.
type side struct {
	leaf [sha256.Size]byte // digest of its certificate
	key  []byte            // the certificate's SubjectPublicKeyInfo, PKIX DER
	ekm  []byte            // exported under its role's label
}

// channel is a finished TLS connection, ready to bind evidence to.
type channel struct {
	role      role // own
	own, peer side
}

// newChannel refuses a connection that evidence can not be bound to: one that is not
// TLS 1.3 with this protocol and certificates of both (channel-unsuitable), that was
// resumed (channel-resumed), or that exports no keying material (exporter-missing).
func newChannel(cs tls.ConnectionState, own *tls.Certificate, r role) (*channel, error) {
	switch {
	case !cs.HandshakeComplete || cs.Version != tls.VersionTLS13:
		return nil, unsuitable("TLS 1.3, its handshake complete", fmt.Sprintf("%s, complete %t", tls.VersionName(cs.Version), cs.HandshakeComplete))
	case cs.NegotiatedProtocol != Protocol:
		return nil, unsuitable("protocol "+Protocol, fmt.Sprintf("protocol %q", cs.NegotiatedProtocol))
	case cs.DidResume:
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonChannelResumed, Where: "TLS", Want: "a full handshake", Got: "a resumed session"})
	case len(cs.PeerCertificates) == 0:
		return nil, unsuitable("the peer's certificate", "none")
	}
	c := &channel{role: r}
	leaf, err := ownLeaf(own)
	if err != nil {
		return nil, err
	}
	peer := cs.PeerCertificates[0]
	c.own.leaf, c.own.key = sha256.Sum256(leaf.Raw), leaf.RawSubjectPublicKeyInfo
	c.peer.leaf, c.peer.key = sha256.Sum256(peer.Raw), peer.RawSubjectPublicKeyInfo
	if c.own.ekm, err = export(cs, r); err != nil {
		return nil, err
	}
	c.peer.ekm, err = export(cs, r.peer())
	return c, err
}

// export fails closed: crypto/tls panics where the state has no exporter yet, and
// returns an error where the connection can not have one.
func export(cs tls.ConnectionState, r role) (ekm []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			ekm, err = nil, noExporter(fmt.Sprint(p))
		}
	}()
	ekm, err = cs.ExportKeyingMaterial(r.label(), nil, sha256.Size)
	if err != nil || len(ekm) != sha256.Size {
		return nil, noExporter(fmt.Sprintf("%d bytes, error %v", len(ekm), err))
	}
	return ekm, nil
}

func noExporter(got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonExporterMissing, Where: "TLS", Want: "32 bytes of exported keying material", Got: got})
}

func unsuitable(want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonChannelUnsuitable, Where: "TLS", Want: want, Got: got})
}

// ours is the binding of this side's evidence, for the peer's nonce.
func (c *channel) ours(nonce [nonceSize]byte) evidence.Binding {
	return bind(c.role, &c.own, &c.peer, nonce)
}

// theirs is the binding that the peer's evidence must have, for this side's nonce.
func (c *channel) theirs(nonce [nonceSize]byte) evidence.Binding {
	return bind(c.role.peer(), &c.peer, &c.own, nonce)
}

// bind makes the binding of the evidence of subject, who has role r, for a verifier
// who chose the nonce.
func bind(r role, subject, verifier *side, nonce [nonceSize]byte) evidence.Binding {
	h := sha256.New()
	h.Write([]byte("keystead/attest/1\x00" + string(r) + "\x00"))
	for _, part := range [][]byte{subject.ekm, nonce[:], subject.leaf[:], verifier.leaf[:]} { // 32 bytes each
		h.Write(part)
	}
	return evidence.Binding{Purpose: evidence.PurposeConnection, Nonce: h.Sum(nil), SubjectKey: subject.key}
}

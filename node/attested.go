package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/replica"
)

// attestedListener has who connects to the API show evidence: hosts and nodes by the
// protocol of package attest, people by TLS as they are used to.
func (n *Node) attestedListener(inner net.Listener) (net.Listener, error) {
	cfg := n.evidenceConfig(n.gate)
	cfg.Plain = n.apiTLS()
	cfg.Plain.NextProtos = []string{"h2", "http/1.1"}
	cfg.Renewed = n.renewed
	return attest.NewListener(inner, cfg, attest.ListenerOptions{Handshakes: 2 * maxArriving, PerAddress: 2 * maxArriving, // the crowd below has bounds
		Refused: func(from net.Addr, err error) {
			n.log.Log(n.running, slog.LevelInfo, "connection refused", "from", from, "because", err)
		}})
}

// renewed returns when the evidence was asked for on which a connected host's lease
// rests now: evidence of the same hardware for the connection's key, which nodes judged
// and the ledger has. Its age is what the node's own clock or the domain's says, by
// whichever it is older. The time is zero if the host has no lease, or this node is behind.
func (n *Node) renewed(c *attest.Conn) time.Time {
	peer := c.Peer()
	host, ok := strings.CutPrefix(peer.Name(), hostPrefix)
	certificates := c.TLS().PeerCertificates
	if !ok || len(certificates) == 0 || n.fresh() != nil {
		return time.Time{}
	}
	var lease admit.Lease
	err := n.snapshot(func(v ledger.View) (err error) {
		lease, err = admit.Current(v, host)
		return err
	})
	if err != nil || lease.EK() != peer.Identity() || !bytes.Equal(lease.SubjectKey(), certificates[0].RawSubjectPublicKeyInfo) {
		return time.Time{}
	}
	now := time.Now()
	age := max(lease.Clock(), uint64(now.UnixMilli())) - lease.Evidence() // the clock is never behind evidence that is on the ledger
	return now.Add(-time.Duration(age) * time.Millisecond)
}

// dialAttested opens a connection to another node's API, on which both have shown
// evidence.
func (n *Node) dialAttested(ctx context.Context, to client.Contact, address string) (net.Conn, error) {
	raw, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := attest.Client(ctx, raw, n.evidenceConfig(n.gate.nodes))
	if err != nil {
		return nil, err
	}
	if got := conn.Peer().Name(); got != to.Name {
		_ = conn.Close()
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "connection to " + address, Want: "node " + to.Name, Got: got})
	}
	return conn, nil
}

// peerAt says who is at the other end of a connection of the API, as of now: a node
// that has left the roster is none any more, however it came in.
func (n *Node) peerAt(c net.Conn) (p part.Caller) {
	var state tls.ConnectionState
	switch t := c.(type) {
	case *attest.Conn:
		state = t.TLS()
		if peer := t.Peer(); !peer.IsZero() {
			p.EK = peer.Identity()
			if roster := n.roster(); !isHostName(peer.Name()) {
				if node, in := roster.Node(peer.Name()); in && !n.provenBad(node) {
					p.Node = node.Name
				}
			}
		}
	case *tls.Conn:
		state = t.ConnectionState()
	}
	if len(state.PeerCertificates) > 0 {
		p.TLS = keystead.Sum(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
	}
	if !n.genesis.AsksEvidence() {
		if p.Node = n.nameOf(p.TLS); p.Node != "" {
			roster := n.roster()
			if node, in := roster.Node(p.Node); in && n.provenBad(node) {
				p.Node = ""
			}
		}
	}
	if p.Node == "" && p.EK.IsZero() {
		p.Key = n.keyClass(p.TLS)
	}
	return p
}

// memberGuard secures the replica's connections by evidence: beside the TLS key that
// raft's members are known by, the machine's own attestation key and state count.
type memberGuard struct{ node *Node }

var _ replica.Guard = memberGuard{}

// config is without an end by age: the transport has its own, for streams alone.
func (g memberGuard) config() attest.Config {
	cfg := g.node.evidenceConfig(g.node.gate.nodes)
	cfg.MaxAge = 0
	return cfg
}

// Digest implements replica.Guard.
func (g memberGuard) Digest() keystead.Digest { return g.node.self.Pin }

// Client implements replica.Guard.
func (g memberGuard) Client(ctx context.Context, raw net.Conn, key keystead.Digest) (net.Conn, error) {
	conn, err := attest.Client(ctx, raw, g.config())
	if err != nil {
		return nil, err
	}
	if got := shown(conn); got != key {
		_ = conn.Close()
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "connection", Want: key.String(), Got: got.String()})
	}
	return conn, nil
}

// Server implements replica.Guard.
func (g memberGuard) Server(ctx context.Context, raw net.Conn, accept func(keystead.Digest) error) (net.Conn, keystead.Digest, error) {
	conn, err := attest.Server(ctx, raw, g.config())
	if err != nil {
		return nil, keystead.Digest{}, err
	}
	key := shown(conn)
	if err := accept(key); err != nil {
		_ = conn.Close()
		return nil, key, err
	}
	return conn, key, nil
}

// shown names the TLS key that the other side of an attested connection showed.
func shown(c *attest.Conn) keystead.Digest {
	return keystead.Sum(c.TLS().PeerCertificates[0].RawSubjectPublicKeyInfo)
}

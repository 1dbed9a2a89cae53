package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/serve"
)

const (
	showEvery = time.Minute     // how often nodes show each other evidence anew
	showMost  = 3 * time.Minute // and how old it may be at most
)

// openTPM opens the node's TPM, in a domain that asks its nodes for evidence. Its
// attestation key must be the one that the node's contact names.
func (n *Node) openTPM(ctx context.Context) error {
	if !n.genesis.AsksEvidence() {
		return nil
	}
	if n.cfg.TPM.Path == "" {
		return &ConfigError{Problem: "tpm.path must be set: the domain asks its nodes for evidence"}
	}
	root := n.cfg.TPM.Root
	if !filepath.IsAbs(root) {
		root = filepath.Join(n.cfg.Dir, root)
	}
	var err error
	if n.tpm, err = collect.OpenTPM(n.cfg.TPM.Path); err != nil {
		return err
	}
	ak, err := n.tpm.AK(ctx, collect.AKECC)
	if err != nil {
		return err
	}
	if got, want := key.DigestAK(ak), n.contacts[n.name].AK; got != want {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "TPM at " + n.cfg.TPM.Path, Want: "the attestation key of node " + n.name + ", " + want.String(), Got: got.String()})
	}
	n.prover = collect.NewProver(n.tpm, collect.Machine{Root: root}, collect.AKECC, n.cfg.TPM.Note)
	n.gate = newGatekeeper(n)
	return nil
}

// evidenceConfig is what this node brings to attested connections.
func (n *Node) evidenceConfig() attest.Config {
	return attest.Config{Certificate: n.self.TLS, Prover: n.prover, Verifier: n.gate, Timeout: 15 * time.Second, MaxAge: showMost, MaxBundle: maxPeerAnswer}
}

// attestedListener has who connects to the API show evidence: hosts and nodes by the
// protocol of package attest, people by TLS as they are used to.
func (n *Node) attestedListener(inner net.Listener) (net.Listener, error) {
	cfg := n.evidenceConfig()
	cfg.Plain = n.apiTLS()
	cfg.Plain.NextProtos = []string{"h2", "http/1.1"}
	return attest.NewListener(inner, cfg, attest.ListenerOptions{Refused: func(from net.Addr, err error) {
		n.log.Log(n.running, slog.LevelInfo, "connection refused", "from", from, "because", err)
	}})
}

// dialAttested opens a connection to another node's API, on which both have shown
// evidence.
func (n *Node) dialAttested(ctx context.Context, to client.Contact, address string) (net.Conn, error) {
	raw, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := attest.Client(ctx, raw, n.evidenceConfig())
	if err != nil {
		return nil, err
	}
	if got := conn.Peer().Name(); got != to.Name {
		_ = conn.Close()
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "connection to " + address, Want: "node " + to.Name, Got: got})
	}
	return conn, nil
}

// peerAt says who is at the other end of a connection of the API.
func (n *Node) peerAt(c net.Conn) (p serve.Peer) {
	var state tls.ConnectionState
	switch t := c.(type) {
	case *attest.Conn:
		state = t.TLS()
		if peer := t.Peer(); !peer.IsZero() {
			p.EK = peer.Identity()
			if !isHostName(peer.Name()) {
				p.Node = peer.Name()
			}
		}
	case *tls.Conn:
		state = t.ConnectionState()
	}
	if len(state.PeerCertificates) > 0 {
		p.TLS = keystead.Sum(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
	}
	if !n.genesis.AsksEvidence() {
		p.Node = n.nameOf(p.TLS)
	}
	return p
}

// gatekeeper judges who opens an attested connection: a host by the terms in force
// for the role that it is enrolled in, a node of the domain by those for nodes.
// Evidence of an admitted host that fails here ends its lease.
type gatekeeper struct {
	*attest.Appraiser
	node *Node
}

func newGatekeeper(n *Node) *gatekeeper {
	g := &gatekeeper{node: n}
	g.Appraiser = attest.NewAppraiser(g.terms)
	return g
}

// Names by which the gatekeeper calls hosts, in contrast to nodes.
const hostPrefix = "host/"

func isHostName(name string) bool {
	return len(name) > len(hostPrefix) && name[:len(hostPrefix)] == hostPrefix
}

// terms finds by what a TPM is judged, before it has proven to be that one. A hardware
// identity that no host has may be a node's; Verify sees to that.
func (g *gatekeeper) terms(ctx context.Context, identity keystead.Digest) (attest.Terms, error) {
	role, name := admit.RoleNode, ""
	err := g.node.snapshot(func(v ledger.View) error {
		host, err := admit.HostOf(v, identity)
		if err != nil || host == "" {
			return err
		}
		e, _, err := admit.Enrolled(v, host)
		role, name = e.Role, hostPrefix+host
		return err
	})
	if err != nil {
		return attest.Terms{}, err
	}
	rules, err := g.node.rules(ctx, role)
	if err != nil {
		return attest.Terms{}, err
	}
	in := rules.Input()
	in.Time = time.Now().UTC()
	return attest.Terms{Name: name, Input: in}, nil
}

// Verify implements attest.Verifier.
func (g *gatekeeper) Verify(ctx context.Context, c attest.Claim) (string, appraise.Verdict, error) {
	n := g.node
	ek, err := tpm2.ParsePublic(c.Keys.EKPublic)
	if err != nil {
		return "", appraise.Verdict{}, err
	}
	var host string
	err = n.snapshot(func(v ledger.View) (err error) {
		host, err = admit.HostOf(v, ek.Fingerprint())
		return err
	})
	if err != nil {
		return "", appraise.Verdict{}, err
	}
	var node receipt.Node
	if host == "" {
		if node, err = n.nodeWith(keystead.Sum(c.Expect.SubjectKey), ek.Fingerprint()); err != nil {
			return "", appraise.Verdict{}, err
		}
	}
	_, v, err := g.Appraiser.Verify(ctx, c)
	if host != "" {
		if err != nil && v.Claims().Key.Name != "" { // the root of trust held: its own words speak against it
			n.suspend(host, err, v.Digest())
		}
		return hostPrefix + host, v, err
	}
	if got := key.DigestAK(c.Keys.AKPublic); err == nil && got != node.AK {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "node " + node.Name, Want: "its attestation key, " + node.AK.String(), Got: got.String()})
	}
	return node.Name, v, err
}

// nodeWith returns the node of the roster that a TLS key is the name of. What shows
// another key, with hardware that is not enrolled, is nobody.
func (n *Node) nodeWith(pin, ek keystead.Digest) (receipt.Node, error) {
	name := n.nameOf(pin)
	roster, _, _ := n.machine.roster()
	if len(roster.Nodes) == 0 {
		roster = n.genesis.Roster // the ledger has not begun
	}
	node, ok := roster.Node(name)
	switch {
	case name == "":
		return node, keystead.Deny(keystead.Finding{Reason: keystead.ReasonHostUnenrolled, Where: "connection", Want: "a machine that is enrolled", Got: fmt.Sprintf("hardware identity %s", ek)})
	case !ok:
		return node, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "connection", Want: "a node of the roster", Got: name})
	}
	return node, nil
}

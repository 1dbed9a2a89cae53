package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// A nodeGate judges who says to be a node of the domain. The TLS key that it shows is
// its name; its attestation key must be the one that the roster has under that name,
// its evidence must pass the terms for nodes, and its hardware be on no deny list.
type nodeGate struct {
	*attest.Appraiser
	node *admission
}

func newNodeGate(n *admission) *nodeGate {
	g := &nodeGate{node: n}
	g.Appraiser = attest.NewAppraiser(g.terms)
	return g
}

func (g *nodeGate) terms(ctx context.Context, _ keystead.Digest) (attest.Terms, error) {
	return g.node.termsFor(ctx, admit.RoleNode, "", false)
}

// termsFor returns the terms in force for a role, to be judged by as of now. Which sets
// count is judged as of the domain clock, as far as this node knows it. Tee: of a host whose
// TEE speaks alone.
func (n *admission) termsFor(ctx context.Context, role, name string, tee bool) (attest.Terms, error) {
	rules, err := n.rules(ctx, role)
	if err != nil {
		return attest.Terms{}, err
	}
	_, _, clock := n.machine.roster()
	at := time.UnixMilli(int64(clock))
	in := rules.Input(at)
	if tee {
		in = rules.TEEInput(at)
	}
	in.Time = time.Now().UTC()
	return attest.Terms{Name: name, Input: in}, nil
}

// Verify implements attest.Verifier.
func (g *nodeGate) Verify(ctx context.Context, c attest.Claim) (string, appraise.Verdict, error) {
	pin := keystead.Sum(c.Expect.SubjectKey)
	node, err := g.node.nodeWith(pin)
	if err == nil && node.Name == "" {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "connection", Want: "the TLS key of a node of the domain", Got: pin.String()})
	}
	if got := key.DigestAK(c.Keys.AKPublic); err == nil && got != node.AK {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "node " + node.Name, Want: "its attestation key, " + node.AK.String(), Got: got.String()})
	}
	if err != nil {
		return "", appraise.Verdict{}, err
	}
	_, v, err := g.Appraiser.Verify(ctx, c)
	if identity, ierr := attest.Identity(c.Keys); ierr == nil {
		g.node.muster.keep(node, c, g.Accepted(identity), v)
	}
	if err == nil {
		err = g.node.muster.denied(ctx, node)
	}
	return node.Name, v, err
}

// nodeWith returns the node of the roster that a TLS key is the name of; none if no
// contact names the key. It refuses a node that is in the roster no more (not-member), or
// proven bad (node-proven-bad).
func (n *guard) nodeWith(pin keystead.Digest) (node receipt.Node, err error) {
	c, ok := n.contactOf(pin)
	if !ok && n.isUp() { // a node that was added a moment ago
		if _, err := n.readContacts(); err != nil {
			return node, err
		}
		c, ok = n.contactOf(pin)
	}
	if !ok {
		return node, nil
	}
	roster := n.roster()
	if node, ok = roster.Node(c.Name); !ok {
		return node, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "connection", Want: "a node of the roster", Got: c.Name})
	}
	if n.provenBad(node) {
		return receipt.Node{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNodeProvenBad, Where: "connection", Want: "a node whose word can be true", Got: c.Name})
	}
	return node, nil
}

// gatekeeper judges who opens an attested connection to the API: a node of the domain
// as nodeGate does, a host by the terms in force for the role that it is enrolled in.
// A machine may be both, and is what its TLS key says. Evidence of an admitted host
// that fails here ends its lease.
type gatekeeper struct {
	nodes *nodeGate
	hosts *attest.Appraiser
	node  *admission
	seen  sync.Map // names of the hosts that came, by hardware identity
}

func newGatekeeper(n *admission) *gatekeeper {
	g := &gatekeeper{nodes: newNodeGate(n), node: n}
	g.hosts = attest.NewAppraiser(g.terms)
	return g
}

// Names by which the gatekeeper calls hosts, in contrast to nodes.
const hostPrefix = "host/"

func isHostName(name string) bool {
	return len(name) > len(hostPrefix) && strings.HasPrefix(name, hostPrefix)
}

// hostWith returns the host that a hardware identity is enrolled as, "" for none, and
// its enrolment. One that this node has seen, and that members revoked since, is refused as
// such (host-revoked).
func (g *gatekeeper) hostWith(identity keystead.Digest) (host string, enrolled admit.Enrolment, err error) {
	if !g.node.isUp() {
		return "", enrolled, g.node.closed.starts()
	}
	err = g.node.snapshot(func(v ledger.View) error {
		if host, err = admit.HostOf(v, identity); err != nil {
			return err
		}
		name := host
		if seen, ok := g.seen.Load(identity); ok && host == "" {
			name = seen.(string)
		}
		if name == "" {
			return nil
		}
		e, _, err := admit.Enrolled(v, name)
		if err == nil && host == "" && e.Revoked {
			err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonHostRevoked, Where: "connection", Want: "a machine that members enrolled",
				Got: fmt.Sprintf("host %s, hardware identity %s, whose enrolment they revoked", name, identity)})
		}
		enrolled = e
		return err
	})
	if host != "" {
		g.seen.Store(identity, host)
	}
	return host, enrolled, err
}

func unenrolled(identity keystead.Digest) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonHostUnenrolled, Where: "connection", Want: "a machine that members enrolled", Got: "hardware identity " + identity.String()})
}

// terms finds by what a host is judged, before it has proven to be that one.
func (g *gatekeeper) terms(ctx context.Context, identity keystead.Digest) (attest.Terms, error) {
	host, enrolled, err := g.hostWith(identity)
	switch {
	case err != nil:
		return attest.Terms{}, err
	case host == "":
		return attest.Terms{}, unenrolled(identity)
	}
	tee := !enrolled.TEE.IsZero()
	t, err := g.node.termsFor(ctx, enrolled.Role, hostPrefix+host, tee)
	if err != nil {
		return t, err
	}
	t.Turn = func(ctx context.Context) (func(), error) { return g.node.turns.take(ctx, identity) }
	err = g.node.snapshot(func(v ledger.View) (err error) { t.Input.Seen, err = admit.Seen(v, host); return err })
	return t, err
}

// Accepted returns the attestation key that this node activated for a host's TPM.
func (g *gatekeeper) Accepted(identity keystead.Digest) appraise.AcceptedKey {
	return g.hosts.Accepted(identity)
}

// Challenge implements attest.Verifier. Who is none of the roster's machines and no
// enrolled one is challenged as a node would be, to be told who it is.
func (g *gatekeeper) Challenge(ctx context.Context, keys evidence.TPMKeys) (*appraise.Activation, error) {
	identity, err := attest.Identity(keys)
	if err != nil {
		return nil, err
	}
	host, _, err := g.hostWith(identity)
	if !keys.TEE.IsZero() { // no node is that
		if err == nil && host == "" {
			err = unenrolled(identity)
		}
		return nil, err
	}
	isNode := g.node.isNode(keys)
	if !isNode && (err != nil || host != "") {
		if err != nil {
			return nil, err
		}
		return g.hosts.Challenge(ctx, keys)
	}
	asNode, refused := g.nodes.Challenge(ctx, keys)
	if !isNode && refused != nil {
		return nil, errors.Join(unenrolled(identity), refused)
	}
	if host == "" || asNode != nil {
		return asNode, refused
	}
	asHost, err := g.hosts.Challenge(ctx, keys) // a machine that may be both: what speaks against the one is nothing to the other
	if err != nil {
		return nil, refused
	}
	return asHost, nil
}

// isNode reports whether an attestation key is that of a node of the roster.
func (n *admission) isNode(keys evidence.TPMKeys) bool {
	ak := key.DigestAK(keys.AKPublic)
	roster := n.roster()
	for _, node := range roster.Nodes {
		if node.AK == ak {
			return true
		}
	}
	return false
}

// Verify implements attest.Verifier.
func (g *gatekeeper) Verify(ctx context.Context, c attest.Claim) (string, appraise.Verdict, error) {
	n := g.node
	identity, err := attest.Identity(c.Keys)
	if err != nil {
		return "", appraise.Verdict{}, err
	}
	node, notMember := n.nodeWith(keystead.Sum(c.Expect.SubjectKey))
	if node.Name != "" {
		return g.nodes.Verify(ctx, c)
	}
	host, _, err := g.hostWith(identity)
	switch {
	case err != nil:
		return "", appraise.Verdict{}, err
	case host == "" && notMember != nil:
		return "", appraise.Verdict{}, notMember
	case host == "":
		return "", appraise.Verdict{}, unenrolled(identity)
	}
	_, v, err := g.hosts.Verify(ctx, c)
	if err != nil && against(c.Keys, v) { // its own words speak against it
		n.suspend(host, err, v.Digest())
	}
	return hostPrefix + host, v, err
}

// against reports whether what a host shows on its own connection, whose key it has, speaks
// against it where it is refused: the root of trust held.
func against(keys evidence.TPMKeys, v appraise.Verdict) bool {
	if !keys.TEE.IsZero() {
		return admit.SpeaksAgainst(v)
	}
	return v.Claims().Key.Name != ""
}

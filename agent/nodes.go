package agent

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// nodes is what a host knows of its domain's nodes, and how it judges them. What
// nodes hand over for it is held to digests, or to a receipt.
type nodes struct {
	domain *client.Client
	prover attest.Prover
	self   *identity
	judge  *attest.Appraiser

	mu      sync.Mutex
	view    *client.View // nil before the first
	rules   *admit.Rules // of the terms for nodes
	version uint64       // of the terms
}

func newNodes(domain *client.Client, prover attest.Prover, self *identity) *nodes {
	n := &nodes{domain: domain, prover: prover, self: self}
	n.judge = attest.NewAppraiser(n.terms)
	return n
}

// learn fetches roster, contacts and terms. Without an answer what was known stays
// known. Its connection is not kept: there are many hosts, and they ask seldom.
func (n *nodes) learn(ctx context.Context) error {
	defer n.domain.Close()
	v, err := n.domain.Show(ctx)
	if err == nil {
		err = n.learnTerms(ctx, &v.Genesis)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil && (n.view == nil || v.Sequence >= n.view.Sequence) {
		n.view = v
	}
	return err
}

const nodeTerms = admit.TypeTerms + "/" + admit.RoleNode

// learnTerms opens the terms by which nodes are judged: those of the genesis entry, or
// the last that the ledger proves. That there are none later is a node's word.
func (n *nodes) learnTerms(ctx context.Context, genesis *receipt.Genesis) error {
	s, err := n.domain.State(ctx, []string{nodeTerms}, nil)
	if err != nil {
		return err
	}
	if len(s.GetValues()) != 1 {
		return &keystead.FormatError{Format: "state", Field: "values", Problem: "are not one for each key"}
	}
	now := admit.Value{Version: s.GetValues()[0].GetVersion(), Data: s.GetValues()[0].GetValue()}
	n.mu.Lock()
	old := n.rules != nil && now.Version <= n.version
	n.mu.Unlock()
	if old {
		return nil
	}
	if now.Version != 0 {
		if err := n.proveTerms(ctx, now); err != nil {
			return err
		}
	}
	force, err := admit.TermsOf(told{genesis, now}, admit.RoleNode)
	if err != nil {
		return err
	}
	rules, err := force.Open(func(d keystead.Digest) ([]byte, error) { return n.domain.GetObject(ctx, d) })
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules, n.version = rules, now.Version
	return nil
}

// proveTerms checks by a receipt that an entry that took effect wrote the terms.
func (n *nodes) proveTerms(ctx context.Context, v admit.Value) error {
	_, proven, err := n.domain.Receipt(ctx, v.Version-1)
	if err != nil {
		return err
	}
	e, err := ledger.ParseEffective(proven.Entry)
	if err != nil {
		return err
	}
	for _, w := range e.Verdict.Writes {
		if w.Key == nodeTerms && !w.Delete && bytes.Equal(w.Value, v.Data) {
			return nil
		}
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: "terms for nodes",
		Want: fmt.Sprintf("what leaf %d wrote", v.Version-1), Got: keystead.Sum(v.Data).String()})
}

// told is an admit.State of the terms alone.
type told struct {
	genesis *receipt.Genesis
	terms   admit.Value
}

func (t told) Judged(string) (admit.Value, error)          { return t.terms, nil }
func (t told) Founding(setting string) (string, error)     { return t.genesis.Setting(setting), nil }
func (t told) Clock() (uint64, error)                      { return 0, nil }
func (t told) Renewal(string) (admit.Renewal, error)       { return admit.Renewal{}, nil }
func (t told) Suspension(string) (admit.Suspension, error) { return admit.Suspension{}, nil }

func (n *nodes) current() (view *client.View, r *admit.Rules) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.view, n.rules
}

// terms say how a node is judged: by the domain's terms for nodes, at this machine's
// time. Which node it is, dial finds out.
func (n *nodes) terms(context.Context, keystead.Digest) (attest.Terms, error) {
	_, rules := n.current()
	if rules == nil {
		return attest.Terms{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTermsMissing, Where: "role node", Want: "terms to judge a node by", Got: "none yet"})
	}
	now := time.Now().UTC()
	in := rules.Input(now)
	in.Time = now
	return attest.Terms{Name: admit.RoleNode, Input: in}, nil
}

// dial opens a connection to a node, on which both sides show evidence. The node's TPM
// must be the one that the roster names.
func (n *nodes) dial(ctx context.Context, to client.Contact, maxAge time.Duration) (net.Conn, error) {
	view, _ := n.current()
	member, ok := view.Roster.Node(to.Name)
	if !ok || member.AK.None() {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "node " + to.Name,
			Want: "a node of the roster, with a TPM", Got: "one without: hosts are for domains whose nodes show evidence"})
	}
	where, err := url.Parse(to.API)
	if err != nil {
		return nil, err
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", where.Host)
	if err != nil {
		return nil, err
	}
	conn, err := attest.Client(ctx, raw, attest.Config{Certificate: n.self.cert, Prover: n.prover, Verifier: n.judge, MaxAge: maxAge})
	if err != nil {
		return nil, err
	}
	if name := conn.Peer().Key().Name; !ofRoster(name, member.AK) {
		_ = conn.Close() // nothing was said on it
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "node " + to.Name,
			Want: "the TPM that the roster names, " + member.AK.String(), Got: fmt.Sprintf("one with the attestation key %x", name)})
	}
	return conn, nil
}

// ofRoster reports whether an attestation key's TPM name (TPM 2.0 Part 1, 16: hash
// algorithm, here SHA-256, and digest of the public area) is of the key that a roster
// names.
func ofRoster(name []byte, ak key.AKDigest) bool {
	return bytes.Equal(name, append([]byte{0x00, 0x0b}, ak[:]...))
}

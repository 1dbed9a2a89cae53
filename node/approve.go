package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// approveTimeout bounds how long the sender of a snapshot waits for the others' word.
const approveTimeout = 10 * time.Second

// voucher is what one node answered of a state.
type voucher struct {
	answered  bool
	signed    bool // the same digest, by the key that the newest roster names
	stateless bool // it has never had a state
	settled   bool // it has one that a majority confirmed
	recovered *Recovery
	words     string // for people
}

// approve decides whether a snapshot is the state that a majority of the nodes has. It
// asks them itself, over attested connections, and counts only what a node signs by its
// key of today: more than half of the nodes of the newest roster that this node knows, and
// of the one in force at the position. Nodes that members have just added, this one
// included, have no state and no say; but then every other one must have answered, so
// that none which has a state is left out. Where members had the ledger go on from one
// node's disk, that node's word stands for a majority's, if no other one has a
// confirmed state.
func (n *states) approve(ctx context.Context, h replica.StateHeader, proof []byte) error {
	then, chain, err := n.vouchers(proof)
	if err != nil {
		return err
	}
	newest := n.roster()
	if r, number := n.knownRoster(); uint64(len(chain)-1) > number || len(r.Nodes) == 0 {
		newest = then
	}
	want := said(h)
	by := n.askForState(ctx, &newest, &want)
	short := n.tooFew(&newest, by, "the newest roster")
	if short == "" {
		short = n.tooFew(&then, by, "the roster in force there")
	}
	if short == "" || n.recoveredBy(by, chain, h.Index) {
		return nil
	}
	var words []string
	for name, v := range by {
		words = append(words, name+": "+v.words)
	}
	slices.Sort(words)
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSnapshotUnproven, Where: fmt.Sprintf("state at position %d", h.Index),
		Want: "the digest " + want.Digest.String() + ", signed by " + short, Got: strings.Join(words, "; ")})
}

// vouchers returns the last roster of a chain that proves itself from the genesis entry.
func (n *states) vouchers(proof []byte) (r receipt.Roster, chain [][]byte, err error) {
	if chain, err = receipt.ParseChain(proof); err != nil {
		return r, nil, err
	}
	if len(chain) == 0 {
		return r, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSnapshotUnproven, Where: "rosters of the state", Want: "a chain from the genesis entry", Got: "none"})
	}
	_, rosters, err := receipt.VerifyChain(chain, n.cfg.Domain)
	if err != nil {
		return r, nil, err
	}
	return rosters[len(rosters)-1], chain, nil
}

// askForState asks the other nodes of a roster, all at once, what they make of a state.
func (n *states) askForState(ctx context.Context, r *receipt.Roster, want *ledger.StateDigest) map[string]voucher {
	ctx, cancel := context.WithTimeout(ctx, approveTimeout)
	defer cancel()
	type answer struct {
		name string
		voucher
	}
	peers, answers := n.peers.others(), make(chan answer)
	for _, p := range peers {
		go func() { answers <- answer{p.Name, n.askOne(ctx, p, r, want)} }()
	}
	by := map[string]voucher{}
	for _, node := range r.Nodes {
		if node.Name != n.name {
			by[node.Name] = voucher{words: "not reached"}
		}
	}
	for range peers {
		a := <-answers
		if _, in := by[a.name]; in {
			by[a.name] = a.voucher
		}
	}
	return by
}

func (n *states) askOne(ctx context.Context, p *peer, r *receipt.Roster, want *ledger.StateDigest) (v voucher) {
	res, err := p.nodes.GetStateDigest(ctx, connect.NewRequest(&apiv1.GetStateDigestRequest{Position: want.Position}))
	if err != nil {
		v.words = err.Error()
		return v
	}
	v.answered = true
	v.stateless, v.settled = res.Msg.GetStateless(), res.Msg.GetSettled()
	v.words = map[bool]string{true: "has no state yet", false: "has no digest there"}[v.stateless]
	if note := res.Msg.GetRecovery(); len(note) > 0 {
		v.recovered = n.openRecovery(note, r)
	}
	if len(res.Msg.GetDigest()) == 0 {
		return v
	}
	v.stateless = false
	s, err := ledger.ParseStateDigest(res.Msg.GetDigest())
	node, in := r.Node(p.Name)
	if err == nil && (!in || s.Node != p.Name) {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignerUnknown, Where: "state digest", Want: p.Name, Got: s.Node})
	}
	if err == nil {
		err = s.Verify(node.Key, n.cfg.Domain)
	}
	switch {
	case err != nil:
		v.words = err.Error()
	case s.Same(want):
		v.signed, v.words = true, "the same"
	default:
		v.words = "digest " + s.Digest.String()
	}
	return v
}

// tooFew says who would have to sign, or "" if enough of a roster's nodes did.
func (n *states) tooFew(r *receipt.Roster, by map[string]voucher, which string) string {
	signed, stateless, silent := 0, 0, 0
	for _, node := range r.Nodes {
		v, asked := by[node.Name]
		switch {
		case node.Name == n.name:
			if n.confirmed.isFresh() && !n.founding(node) {
				stateless++
			}
		case v.signed:
			signed++
		case v.stateless && !n.founding(node):
			stateless++
		case !asked || !v.settled:
			silent++
		}
	}
	if signed >= r.Majority() {
		return ""
	}
	have := len(r.Nodes) - stateless
	if stateless > 0 && silent == 0 && have > 0 && signed >= receipt.Majority(have) {
		return ""
	}
	return fmt.Sprintf("%d of %d nodes of %s, of which %d have no state", receipt.Majority(have), len(r.Nodes), which, stateless)
}

// founding reports whether the genesis entry names the node, by that key. It was never added to a
// domain that had a state: what it had is lost if it has none.
func (n *states) founding(node receipt.Node) bool {
	f, ok := n.genesis.Roster.Node(node.Name)
	return ok && f.Key == node.Key
}

// recoveredBy reports whether members had the ledger go on from the disk of a node that
// signed, later than this node's own state was, and no other node has a confirmed one. A
// recovery is signed for good, and who was trusted then may lie by now: a node that has
// nothing of its own to tell old from new takes it only if every other node answered.
func (n *states) recoveredBy(by map[string]voucher, chain [][]byte, index uint64) bool {
	found := false
	for name, v := range by {
		r := v.recovered
		switch {
		case v.signed && r != nil && r.Node == name && r.Last <= index && r.Last >= n.confirmed.reached() && r.Roster < uint64(len(chain)):
			found = true
		case !v.answered && n.confirmed.reached() == 0 || v.settled && !v.signed:
			return false
		}
	}
	return found
}

// openRecovery returns what members signed in a recovery's note; nil if too few did.
func (n *states) openRecovery(note []byte, r *receipt.Roster) *Recovery {
	text, by, err := key.Open(note, key.KindRecovery, r.Members...)
	if err != nil || len(by) < r.Threshold {
		return nil
	}
	rec, err := ParseRecovery(text)
	if err != nil || rec.Domain != n.cfg.Domain {
		return nil
	}
	return &rec
}

// GetStateDigest implements serve.Nodes.
func (n *states) GetStateDigest(_ context.Context, position uint64) (*apiv1.GetStateDigestResponse, error) {
	roster, _, _ := n.machine.roster()
	out := &apiv1.GetStateDigestResponse{Settled: n.confirmed.check() == nil && len(roster.Nodes) > 0, Stateless: n.confirmed.isFresh() && len(roster.Nodes) == 0}
	if len(roster.Nodes) == 0 {
		return out, nil
	}
	s, ok := n.ownState(position)
	if !ok {
		return out, nil
	}
	k, err := n.namedKey()
	if err != nil {
		return nil, err
	}
	if lie := n.opts.lies.state; lie != nil {
		lie(&s)
	}
	s = s.Sign(k, n.name, n.cfg.Domain)
	out.Digest = s.Entry()
	out.Recovery, err = n.ownRecovery()
	return out, err
}

// isFresh reports whether this node has never had a state.
func (c *confirmed) isFresh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fresh
}

// reached returns how far this node's own state had come when it started.
func (c *confirmed) reached() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.had
}

// takesFiles reports whether this node takes a state in as files, which nobody signs: only
// in a domain whose entry version is below 4, as far as its genesis entry, this node's own
// state and a receipt of other nodes tell.
func (n *states) takesFiles() bool {
	n.confirmed.mu.Lock()
	version := n.confirmed.version
	n.confirmed.mu.Unlock()
	n.mu.Lock()
	version = max(version, n.standing.version, admit.ParseEntryVersion("", n.genesis.Setting(admit.EntryVersion)))
	n.mu.Unlock()
	if version >= 4 {
		return false
	}
	n.log.Warn("this node takes in another's state unproven: the domain's setting entry-version is below 4, so nodes sign no digests of their states. Whoever leads can forge what this node holds. Have members raise it: keystead setting set entry-version 4")
	return true
}

package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// rekeying brings in the key that this node made when it started, and certifies others'.
type rekeying struct {
	*guard
	rekeys   rekeys
	unsigned string // why this node signs nothing
	settled  func() // called once the key is in force
}

// CertifyNode implements serve.Nodes: it signs a rekey that follows the roster of now,
// for the one node that asks, over a connection on which that node's evidence passed.
// In the change the node's TPM certified the new key.
func (n *rekeying) CertifyNode(ctx context.Context, r *apiv1.CertifyNodeRequest) (*apiv1.CertifyNodeResponse, error) {
	if _, err := n.namedKey(); err != nil { // which this node may have to tell without any state
		return nil, err
	}
	chain, roster, err := n.chainNow()
	if err != nil {
		return nil, err
	}
	change, err := receipt.CheckRekey(r.GetChange(), n.cfg.Domain, uint64(len(chain)), keystead.Sum(chain[len(chain)-1]), &roster)
	if err != nil {
		return nil, err
	}
	from := part.CallerOf(ctx)
	for i, node := range change.Roster.Nodes {
		if node.Key != roster.Nodes[i].Key && node.Name != from.Node {
			return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "rekey of node " + node.Name,
				Want: "a connection on which that node showed evidence", Got: connectionOf(from.Node)})
		}
	}
	k, err := n.signer()
	if err != nil {
		return nil, err
	}
	for i, node := range change.Roster.Nodes {
		if node.Key == roster.Nodes[i].Key {
			continue
		}
		if wait := n.rekeys.wait(node.Name, node.Key, time.Now()); wait > 0 {
			n.alarm("a node brings in keys again and again", "node", node.Name, "more-than", newKeys, "wait", wait)
			return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "rekey of node " + node.Name,
				Want: fmt.Sprintf("at most %d new keys, and one more every %v", newKeys, newKeyEvery), Got: fmt.Sprintf("one more, %v too early", wait.Round(time.Second))})
		}
	}
	signature := k.Sign(r.GetChange())
	return &apiv1.CertifyNodeResponse{Node: n.name, Signature: signature[:]}, nil
}

// How many new keys of one node this node signs for: as many at once, and one more each
// time. Every start of a node has one, and every one takes a place in the chain of
// rosters that no other change gets meanwhile.
const (
	newKeys     = 12
	newKeyEvery = 30 * time.Second
)

// rekeys counts new keys by node.
type rekeys struct {
	mu sync.Mutex
	by map[string]*keysOf
}

type keysOf struct {
	last key.NodePublic // asked for once more, when another change took the place
	used time.Duration  // of newKeys times newKeyEvery
	at   time.Time
}

// wait counts a key that is to be signed for, or returns how long it is too early for it.
func (r *rekeys) wait(node string, k key.NodePublic, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[string]*keysOf{}
	}
	x := r.by[node]
	if x == nil {
		x = &keysOf{at: now}
		r.by[node] = x
	}
	if x.last == k {
		return 0
	}
	used := max(0, x.used-now.Sub(x.at))
	if over := used + newKeyEvery - newKeys*newKeyEvery; over > 0 {
		return over
	}
	x.last, x.used, x.at = k, used+newKeyEvery, now
	return 0
}

func connectionOf(name string) string {
	if name == "" {
		return "one of no node"
	}
	return "one of node " + name
}

// chainNow returns the genesis entry and the roster entries after it, with the roster
// that they lead to.
func (n *rekeying) chainNow() ([][]byte, receipt.Roster, error) {
	for {
		chain, err := n.chain()
		if err != nil {
			return nil, receipt.Roster{}, err
		}
		if roster, sequence, _ := n.machine.roster(); sequence == uint64(len(chain)-1) {
			return chain, roster, nil
		}
	}
}

// How often this node tries to bring in its key, and says that it could not yet.
const (
	rekeyPause = 200 * time.Millisecond
	rekeySay   = 10 * time.Second
)

// rekeyLoop brings in this start's key: it has the other nodes certify it, and once the
// roster names it does what follows from that.
func (n *rekeying) rekeyLoop() {
	if n.signers.boot == nil {
		return
	}
	settled, said := false, time.Now()
	for n.running.Err() == nil {
		pause := rekeyPause
		roster, _, _ := n.machine.roster()
		me, in := roster.Node(n.name)
		switch {
		case !in || me.AK != n.own.AK: // the ledger has not begun, or another machine has the name
		case me.Key == n.signers.boot.Public():
			n.closed.set(keystead.ReasonClosedRekey, nil)
			if !settled {
				settled = n.settle() == nil
			}
			n.say("")
		default:
			settled = false
			err := n.rekey()
			if err == nil {
				continue
			}
			n.say(err.Error())
			n.log.Debug("new signing key not brought in yet", "because", err)
			if time.Since(said) > rekeySay {
				said = time.Now()
				n.log.Warn("this node signs nothing: the roster names another key than the one that it started with. If a majority of the nodes started anew at once, the domain is closed until members sign a roster with their new keys (keystead node rekey)", "because", err)
			}
			pause += rand.N(rekeyPause) // others may be at it too, and one has to be first
		}
		select {
		case <-time.After(pause):
		case <-n.running.Done():
		}
	}
}

// say keeps why this node signs nothing, for its status; "" if it does.
func (n *rekeying) say(why string) {
	n.mu.Lock()
	n.unsigned = why
	n.mu.Unlock()
}

// settle does what follows once this start's key is in force: the kept one is removed,
// contact and authority are signed anew, and so is what was judged.
func (n *rekeying) settle() error {
	if err := n.forget(); err != nil {
		n.log.Error("the key of before is still there", "because", err)
		return err
	}
	n.log.Info("signing key in force", "key", n.signers.boot.Public())
	n.settled()
	return nil
}

// rekeyTime bounds one attempt.
const rekeyTime = 20 * time.Second

// rekey makes the change that names this start's key, collects a majority's signatures
// and has it applied.
func (n *rekeying) rekey() error {
	ctx, cancel := context.WithTimeout(n.running, rekeyTime)
	defer cancel()
	chain, roster, err := n.chainNow()
	if err != nil {
		return err
	}
	text, err := n.rekeyText(ctx, chain, roster)
	if err != nil {
		return err
	}
	signed, err := n.certified(ctx, text, &roster)
	if err != nil {
		return err
	}
	entry, err := receipt.NoteEntry(signed)
	if err != nil {
		return err
	}
	_, err = n.propose(ctx, entry)
	return err
}

// rekeyText has the TPM certify this start's key for the place after a chain.
func (n *rekeying) rekeyText(ctx context.Context, chain [][]byte, roster receipt.Roster) ([]byte, error) {
	public, after := n.signers.boot.Public(), keystead.Sum(chain[len(chain)-1])
	cert, err := n.tpm.Certify(ctx, receipt.KeyBinding(n.cfg.Domain, after, n.name, public), collect.AKECC, nil)
	if err != nil {
		return nil, err
	}
	roster.Nodes = slices.Clone(roster.Nodes)
	for i := range roster.Nodes {
		if roster.Nodes[i].Name == n.name {
			roster.Nodes[i].Key = public
		}
	}
	change := receipt.Change{Domain: n.cfg.Domain, Sequence: uint64(len(chain)), After: after, Rekey: true, Roster: roster,
		Certificates: []receipt.Certificate{{Node: n.name, Certification: cert}}}
	return change.Text()
}

// certified has the nodes of a roster sign a rekey, until a majority did.
func (n *rekeying) certified(ctx context.Context, text []byte, roster *receipt.Roster) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	note, have := append(slices.Clone(text), '\n'), 0
	if k, err := n.namedKey(); err == nil {
		me, _ := roster.Node(n.name)
		if me.Key == k.Public() {
			note, have = receipt.AppendSignature(note, me, k.Sign(text)), 1
		}
	}
	type answer struct {
		node      receipt.Node
		signature key.NodeSignature
		err       error
	}
	others := n.peers.others()
	answers := make(chan answer, len(others))
	for _, p := range others {
		go func() {
			node, _ := roster.Node(p.Name)
			s, err := p.certify(ctx, text, node)
			answers <- answer{node, s, err}
		}()
	}
	var refused []error
	pending := 1 - have // this node, if it has no key in force
	for range others {
		if have >= roster.Majority() {
			break
		}
		a := <-answers
		if a.err != nil {
			refused = append(refused, fmt.Errorf("node %s: %w", a.node.Name, a.err))
			if errors.Is(a.err, keystead.ReasonKeyPending) {
				pending++
			}
			continue
		}
		note, have = receipt.AppendSignature(note, a.node, a.signature), have+1
	}
	n.closed.set(keystead.ReasonClosedRekey, n.manyPending(roster, pending))
	if have < roster.Majority() {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyPending, Where: "rekey of node " + n.name,
			Want: fmt.Sprintf("signatures of %d of %d nodes", roster.Majority(), len(roster.Nodes)), Got: fmt.Sprintf("%d: %v", have, refused)})
	}
	return note, nil
}

// manyPending says that so many nodes wait for their keys to be signed in that the others are
// no majority; nil if they are. That others wait is their own word.
func (n *rekeying) manyPending(roster *receipt.Roster, pending int) *keystead.Finding {
	if len(roster.Nodes)-pending >= roster.Majority() {
		return nil
	}
	return &keystead.Finding{Where: "node " + n.name,
		Want: fmt.Sprintf("%d of %d nodes that sign by keys of the roster. Members sign the new keys in, which each node left in its directory: keystead node rekey CONTACT... --key KEY", roster.Majority(), len(roster.Nodes)),
		Got:  fmt.Sprintf("%d nodes that started with new keys at once", pending)}
}

// certify asks a node for its signature.
func (p *peer) certify(ctx context.Context, text []byte, node receipt.Node) (s key.NodeSignature, err error) {
	r, err := p.nodes.CertifyNode(ctx, connect.NewRequest(&apiv1.CertifyNodeRequest{Change: text}))
	if err != nil {
		return s, refusal.Decode(err)
	}
	if len(r.Msg.GetSignature()) != len(s) || r.Msg.GetNode() != node.Name || !node.Key.Verify(text, key.NodeSignature(r.Msg.GetSignature())) {
		return s, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "rekey", Want: "a signature by " + node.Key.String(), Got: "another"})
	}
	return key.NodeSignature(r.Msg.GetSignature()), nil
}

package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/serve"
)

// Nodes show each other where they stand, directly and not through the log, so that a
// leader who tells two of them two stories is found out within a second.
const (
	headsEvery   = 200 * time.Millisecond
	headsTimeout = time.Second
)

// outlook is what this node knows of where others stand.
type outlook struct {
	mu      sync.Mutex
	book    *heads.Book
	asking  map[string]bool // nodes that have not answered yet
	shunned map[keystead.Digest]bool

	replaced atomic.Bool // the state, since the book was last looked into
}

func (n *guard) openOutlook() error {
	o := &n.outlook
	o.book, o.asking, o.shunned = heads.NewBook(n.name), map[string]bool{}, map[keystead.Digest]bool{}
	proofs, err := loadProofs(n.cfg.Dir)
	for _, p := range proofs {
		o.book.Convict(p)
	}
	return err
}

// ownLog is this node's log and tree, as heads compares by, while a view keeps the state.
type ownLog struct{ node *core }

// Log implements heads.Own.
func (o ownLog) Log() heads.Log {
	c, index := o.node.replica.Chain()
	return heads.Log{Era: c.Era, Start: c.Start, Index: index, Hash: c.Hash}
}

// Link implements heads.Own.
func (o ownLog) Link(index uint64) (keystead.Digest, bool) { return o.node.replica.Link(index) }

// Head implements heads.Own.
func (o ownLog) Head(size uint64) (receipt.TreeHead, bool, error) {
	return o.node.machine.reached(size)
}

// headAt returns the tree at a size; false if it has not grown so far.
func (n *guard) headAt(size uint64) (head receipt.TreeHead, ok bool, err error) {
	err = n.replica.View(func(replica.View) error { // so that no snapshot replaces the state meanwhile
		head, ok, err = ownLog{n.core}.Head(size)
		return err
	})
	return head, ok, err
}

// compareHeads looks into the book while no snapshot replaces the state. After one did, it
// forgets what came of comparing with the state before: else this node would take it for
// two stories of others that they agree with the one state and not with the other.
func (n *guard) compareHeads(look func(b *heads.Book, own heads.Own) error) error {
	return n.replica.View(func(replica.View) error {
		o := &n.outlook
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.replaced.Swap(false) {
			o.book.Replaced()
		}
		return look(o.book, ownLog{n.core})
	})
}

// statement signs where this node stands now, with whatever key of its own the roster names.
func (n *guard) statement() (heads.Statement, error) {
	k, err := n.namedKey()
	if err != nil {
		return heads.Statement{}, err
	}
	log := ownLog{n.core}.Log()
	tree, ok, err := n.headAt(n.machine.size())
	if err == nil && !ok {
		err = notBegun()
	}
	return heads.New(k, n.name, log, tree), err
}

func notBegun() error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "genesis", Want: "a ledger that has begun", Got: "none yet"})
}

// Head implements serve.Domain.
func (n *guard) Head(size uint64) ([]byte, error) {
	if size == 0 {
		s, err := n.statement()
		return s.Bytes(), err
	}
	k, err := n.namedKey()
	if err != nil {
		return nil, err
	}
	tree, ok, err := n.headAt(size)
	if err == nil && !ok {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeafFuture, Where: "head", Want: "a size that the tree has had", Got: "a larger one"})
	}
	if err != nil {
		return nil, err
	}
	s := heads.New(k, n.name, heads.Log{}, tree)
	if lie := n.opts.lies.head; lie != nil {
		s = lie("a client", s, k)
	}
	return s.Bytes(), nil
}

// headsLoop shows the other nodes where this one stands, and learns where they do.
func (n *guard) headsLoop() {
	every := time.NewTicker(headsEvery)
	defer every.Stop()
	for {
		n.look()
		for _, p := range n.peers.others() {
			if n.outlook.begin(p.Name) {
				n.background(func() {
					defer n.outlook.end(p.Name)
					n.ask(p)
				})
			}
		}
		select {
		case <-every.C:
		case <-n.running.Done():
			return
		}
	}
}

func (o *outlook) begin(node string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asking[node] {
		return false
	}
	o.asking[node] = true
	return true
}

func (o *outlook) end(node string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.asking, node)
}

// ask exchanges heads with another node.
func (n *guard) ask(p *peer) {
	ctx, cancel := context.WithTimeout(n.running, headsTimeout)
	defer cancel()
	own, heard := n.shows(p.Name)
	r, err := p.nodes.ExchangeHeads(ctx, connect.NewRequest(&apiv1.ExchangeHeadsRequest{Statement: own, Heard: heard}))
	if err != nil {
		n.log.Debug("heads not exchanged", "node", p.Name, "because", err)
		return
	}
	n.hear(p.Name, r.Msg.GetStatement(), r.Msg.GetHeard())
}

// ExchangeHeads implements serve.Nodes.
func (n *guard) ExchangeHeads(from string, r *apiv1.ExchangeHeadsRequest) (*apiv1.ExchangeHeadsResponse, error) {
	n.hear(from, r.GetStatement(), r.GetHeard())
	own, heard := n.shows(from)
	return &apiv1.ExchangeHeadsResponse{Statement: own, Heard: heard}, nil
}

// shows returns this node's statement, if it can sign one, and what it heard from others,
// if some stand elsewhere.
func (n *guard) shows(to string) (own []byte, heard [][]byte) {
	if s, err := n.statement(); err == nil {
		if lie := n.opts.lies.head; lie != nil {
			k, _ := n.namedKey()
			s = lie(to, s, k)
		}
		own = s.Bytes()
	}
	roster := n.roster()
	n.outlook.mu.Lock()
	defer n.outlook.mu.Unlock()
	if b := n.outlook.book; b.Parted(&roster, now()) || len(b.Proofs()) > 0 {
		heard = b.Said()
	}
	return own, heard[:min(len(heard), serve.MaxHeard)]
}

func now() int64 { return int64(bootMillis()) }

// hear takes what a node says of itself, and what it heard from others.
func (n *guard) hear(from string, own []byte, heard [][]byte) {
	n.take(from, own)
	for _, h := range heard[:min(len(heard), serve.MaxHeard)] {
		n.take(from, h)
	}
}

// take takes a statement that a node handed over. Only one that a node of the roster
// signed counts, and as agreement only one that it handed over itself.
func (n *guard) take(from string, raw []byte) {
	s, err := heads.Parse(raw)
	if err != nil {
		return // none, or of a later build
	}
	roster := n.roster()
	node, ok := roster.Node(s.Node)
	if !ok || !s.Verify(node.Key, n.cfg.Domain) {
		return // by a key of before, or not for this domain: it says nothing
	}
	var proof *heads.Proof
	err = n.compareHeads(func(b *heads.Book, own heads.Own) (err error) {
		proof, err = b.Hear(s, node.Key, s.Node == from, own, now())
		return err
	})
	if err != nil {
		n.log.Error("head not compared", "node", s.Node, "because", err)
	}
	if proof != nil {
		n.convict(proof)
	}
	n.replica.Reached(n.pinOf(s.Node), s.Log.Index)
}

// look compares what was ahead of this node's log when it came.
func (n *guard) look() {
	var proofs []*heads.Proof
	err := n.compareHeads(func(b *heads.Book, own heads.Own) (err error) {
		proofs, err = b.Look(own)
		return err
	})
	if err != nil {
		n.log.Error("heads not compared", "because", err)
	}
	for _, p := range proofs {
		n.convict(p)
	}
	n.shun()
}

// convict keeps the proof against a node, and says so.
func (n *guard) convict(p *heads.Proof) {
	n.alarm("a node is proven bad: it signed what can not both be true; it counts no more, and members should evict it",
		"reason", keystead.ReasonNodeProvenBad, "node", p.Node, "proof", p.String())
	if err := saveProof(n.cfg.Dir, p); err != nil {
		n.log.Error("proof not kept", "node", p.Node, "because", err)
	}
	n.shun()
}

// shun has the replica take nothing more of nodes that are proven bad, so that they lead
// nothing, and vote and acknowledge nothing.
func (n *guard) shun() {
	roster := n.roster()
	bad := map[keystead.Digest]bool{}
	for _, node := range roster.Nodes {
		if n.provenBad(node) {
			bad[n.pinOf(node.Name)] = true
		}
	}
	delete(bad, keystead.Digest{})
	n.outlook.mu.Lock()
	defer n.outlook.mu.Unlock()
	if len(bad) != len(n.outlook.shunned) {
		n.outlook.shunned = bad
		n.replica.Shun(bad)
	}
}

// provenBad reports whether a node of the roster is proven bad by the key that it has there.
func (n *guard) provenBad(node receipt.Node) bool {
	n.outlook.mu.Lock()
	defer n.outlook.mu.Unlock()
	return n.outlook.book.Liar(node)
}

// proven returns what is proven against nodes, for people.
func (o *outlook) proven() (out []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.book.Proofs() {
		out = append(out, p.String())
	}
	return out
}

// pinOf returns the TLS key of a node, zero if no contact of it is known.
func (n *directory) pinOf(name string) keystead.Digest {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.contacts[name].TLS
}

// agreed refuses while no majority of the nodes stands where this one does (ledger-forked,
// or no-quorum while too few say anything).
func (n *guard) agreed() error {
	roster, _, _ := n.machine.roster()
	if len(roster.Nodes) == 0 {
		return notBegun()
	}
	n.outlook.mu.Lock()
	defer n.outlook.mu.Unlock()
	return n.outlook.book.Check(&roster, now())
}

// sound is the gate that everything which grants or signs asks: a majority stands where
// this node does, and came to the same state. What it lets pass while closed is statements of
// heads, digests of states, ticks, and this node's own key.
func (n *guard) sound() error {
	if err := n.agreed(); err != nil {
		return err
	}
	return n.confirmed.check()
}

// signer returns the key by which this node signs: the one that the roster in force
// names, while the gate is open.
func (n *guard) signer() (*key.Node, error) {
	k, err := n.namedKey()
	if err != nil {
		return nil, err
	}
	return k, n.sound()
}

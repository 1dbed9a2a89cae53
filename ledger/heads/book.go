package heads

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Fresh is how long a node counts as agreeing after it said so, in milliseconds. Nodes say
// where they stand five times a second.
const Fresh = 3000

// Proof is two statements by one key that can not both be true. Whoever has the log that
// Second agrees with sees that First is not of it; often the two contradict each other alone.
type Proof struct {
	Node          string
	Key           key.NodePublic
	First, Second Statement
}

// Book keeps what other nodes said. It is not safe for concurrent use.
type Book struct {
	self  string
	nodes map[string]*account
}

// account is what one node said, by the key that it has now: a handful of statements,
// however many it sends.
type account struct {
	key     key.NodePublic
	waiting *Statement // ahead of this node's own log, from the node itself
	came    int64      // when waiting did
	last    *Statement // the newest from the node itself
	log     *Statement // the furthest whose log agrees
	tree    *Statement // the largest whose tree agrees
	parted  *Statement // the first that does not agree
	how     standing   // of parted
	at      int64      // when the node last said, itself, what agrees; 0 for never
	since   int64      // when it last said, itself, what does not agree; 0 for never
	proof   *Proof
}

// NewBook returns an empty book of the node of that name.
func NewBook(self string) *Book { return &Book{self: self, nodes: map[string]*account{}} }

// Convict takes a proof that was kept from before. It holds as long as the node has that key.
func (b *Book) Convict(p *Proof) { b.nodes[p.Node] = &account{key: p.Key, proof: p} }

// Hear takes a statement whose signature the key verified. Direct says that the node itself
// handed it over, and not another. It returns the proof if this statement completes one.
func (b *Book) Hear(s Statement, k key.NodePublic, direct bool, own Own, now int64) (*Proof, error) {
	if s.Node == b.self {
		return nil, nil
	}
	a := b.nodes[s.Node]
	if a == nil || a.key != k {
		a = &account{key: k}
		b.nodes[s.Node] = a
	}
	if a.proof != nil {
		return nil, nil
	}
	for _, old := range a.kept() {
		if contradict(old, &s) {
			return a.convict(s.Node, *old, s), nil
		}
	}
	if direct {
		a.last = &s
	}
	if err := a.file(&s, direct, own, now); err != nil {
		return nil, err
	}
	return a.look(s.Node, own)
}

// kept returns the statements that the account holds.
func (a *account) kept() (out []*Statement) {
	for _, s := range []*Statement{a.waiting, a.last, a.log, a.tree, a.parted} {
		if s != nil && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// file compares a statement that came at a time, and keeps it where it says something new.
func (a *account) file(s *Statement, direct bool, own Own, came int64) error {
	how, err := compare(s, own)
	if err != nil {
		return err
	}
	switch {
	case how == ahead:
		if direct && a.waiting == nil {
			a.waiting, a.came = s, came
		}
	case how == agrees || how == agreesTree:
		if how == agrees && (a.log == nil || s.Log.Index > a.log.Log.Index) {
			a.log = s
		}
		if a.tree == nil || s.Tree.Size > a.tree.Tree.Size {
			a.tree = s
		}
		if direct {
			a.at = max(a.at, came)
		}
	case how.parts():
		if a.parted == nil || s.Log.Index < a.parted.Log.Index {
			a.parted, a.how = s, how
		}
		if direct {
			a.since = max(a.since, came)
		}
	}
	return nil
}

// look compares once more what was ahead, and returns the proof if there is one now. What
// was said counts from when it was said.
func (a *account) look(node string, own Own) (*Proof, error) {
	if s := a.waiting; s != nil {
		a.waiting = nil
		if err := a.file(s, true, own, a.came); err != nil {
			return nil, err
		}
	}
	agreed := a.log
	if a.how == partsTree {
		agreed = a.tree
	}
	if a.parted == nil || agreed == nil || !exclude(a.parted, agreed, a.how) {
		return nil, nil
	}
	return a.convict(node, *a.parted, *agreed), nil
}

func (a *account) convict(node string, first, second Statement) *Proof {
	a.proof = &Proof{Node: node, Key: a.key, First: first, Second: second}
	return a.proof
}

// Look compares once more what was ahead of this node's log when it came.
func (b *Book) Look(own Own) (proofs []*Proof, err error) {
	for name, a := range b.nodes {
		if a.waiting == nil || a.proof != nil {
			continue
		}
		p, err := a.look(name, own)
		if err != nil {
			return proofs, err
		}
		if p != nil {
			proofs = append(proofs, p)
		}
	}
	return proofs, nil
}

// Replaced forgets what came of comparing, for this node's log is another now: a snapshot
// was taken in. Proofs stay.
func (b *Book) Replaced() {
	for name, a := range b.nodes {
		b.nodes[name] = &account{key: a.key, proof: a.proof}
	}
}

// Liar reports whether the node is proven bad, by the key that the roster has for it.
func (b *Book) Liar(n receipt.Node) bool {
	a := b.nodes[n.Name]
	return a != nil && a.proof != nil && a.key == n.Key
}

// Proofs returns all proofs, by node.
func (b *Book) Proofs() (out []*Proof) {
	for _, a := range b.nodes {
		if a.proof != nil {
			out = append(out, a.proof)
		}
	}
	slices.SortFunc(out, func(x, y *Proof) int { return strings.Compare(x.Node, y.Node) })
	return out
}

// Parted reports whether some node that is not proven bad stands elsewhere than this one.
// Then nodes hand on what others said.
func (b *Book) Parted(r *receipt.Roster, now int64) bool {
	for _, n := range r.Nodes {
		if a := b.of(n); a != nil && a.apart(now) {
			return true
		}
	}
	return false
}

// of returns the account of a node of the roster that is not proven bad.
func (b *Book) of(n receipt.Node) *account {
	a := b.nodes[n.Name]
	if n.Name == b.self || a == nil || a.key != n.Key || a.proof != nil {
		return nil
	}
	return a
}

// apart reports whether the node said of late, itself, what is not so of this node's log.
func (a *account) apart(now int64) bool {
	return a.since > a.at && now-a.since <= Fresh
}

// with reports whether the node said of late, itself, what is so of this node's log.
func (a *account) with(now int64) bool { return a.at > a.since && now-a.at <= Fresh }

// Said returns what other nodes said, to be handed on: at most seven statements a node.
func (b *Book) Said() (out [][]byte) {
	for _, a := range b.nodes {
		for _, s := range a.kept() {
			out = append(out, s.Bytes())
		}
		if a.proof != nil {
			out = append(out, a.proof.First.Bytes(), a.proof.Second.Bytes())
		}
	}
	return out
}

// Reached returns the log index that a node of the roster last said that it applied; 0 if
// it said nothing, or something else than this node.
func (b *Book) Reached(n receipt.Node) uint64 {
	a := b.of(n)
	if a == nil || a.last == nil || a.parted != nil {
		return 0
	}
	return a.last.Log.Index
}

// beyond reports whether the node has agreed at the place where another parts, or further
// on. Who stays before it says what is so of both logs, and can be held to nothing.
func (a *account) beyond(other *account) bool {
	if other.how == partsTree {
		return a.tree != nil && a.tree.Tree.Size >= other.parted.Tree.Size
	}
	return a.log != nil && a.log.Log.Index >= other.parted.Log.Index
}

// Check refuses unless a majority of the roster agrees with this node: itself, and nodes
// that said so within [Fresh] milliseconds and are not proven bad. While some node stands
// elsewhere, agreement counts from the place on where that one parts. The refusal is
// ledger-forked if a node that is not proven bad stands elsewhere, and no-quorum if too few
// say anything.
func (b *Book) Check(r *receipt.Roster, now int64) error {
	with := 0
	var parted []*account
	var apart []string
	for _, n := range r.Nodes {
		if a := b.of(n); a != nil && a.apart(now) {
			parted = append(parted, a)
			apart = append(apart, fmt.Sprintf("%s at %s", n.Name, a.parted.place(a.how)))
		}
	}
	for _, n := range r.Nodes {
		a := b.of(n)
		if n.Name == b.self || a != nil && a.with(now) && !slices.ContainsFunc(parted, func(p *account) bool { return !a.beyond(p) }) {
			with++
		}
	}
	if with >= r.Majority() {
		return nil
	}
	f := keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "heads",
		Want: fmt.Sprintf("%d of %d nodes, this one included, that say that their log is this one's", r.Majority(), len(r.Nodes)), Got: fmt.Sprint(with)}
	if len(apart) > 0 {
		f.Reason = keystead.ReasonLedgerForked
		f.Got += ", and another log at " + strings.Join(apart, ", ")
	}
	return keystead.Deny(f)
}

// place names where a statement parts.
func (s *Statement) place(how standing) string {
	if how == partsTree {
		return fmt.Sprintf("tree size %d (root %s, roster %d)", s.Tree.Size, s.Tree.Root, s.Tree.Roster)
	}
	return fmt.Sprintf("log index %d (chain %s)", s.Log.Index, s.Log.Hash)
}

// String says what a node signed, for people.
func (p *Proof) String() string {
	return fmt.Sprintf("node %s signed %s and %s; both can not be true", p.Node, p.First.both(), p.Second.both())
}

func (s *Statement) both() string {
	return fmt.Sprintf("(log index %d, chain %s, tree size %d, root %s)", s.Log.Index, s.Log.Hash, s.Tree.Size, s.Tree.Root)
}

package heads_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
)

var domain = keystead.Sum([]byte("domain"))

// story is a log that a node may have: every entry is a leaf.
type story struct {
	era   uint64
	start uint64
	words []string
}

func (s *story) clone(words ...string) *story {
	return &story{s.era, s.start, append(append([]string(nil), s.words...), words...)}
}

func (s *story) hash(n int) keystead.Digest {
	return keystead.Sum([]byte(fmt.Sprint(s.era, s.start, strings.Join(s.words[:n], "|"))))
}

func (s *story) Log() heads.Log {
	return heads.Log{Era: s.era, Start: s.start, Index: uint64(len(s.words)), Hash: s.hash(len(s.words))}
}

func (s *story) Link(i uint64) (keystead.Digest, bool) {
	if i > uint64(len(s.words)) {
		return keystead.Digest{}, false
	}
	return s.hash(int(i)), true
}

func (s *story) Head(size uint64) (receipt.TreeHead, bool, error) {
	if size == 0 || size > uint64(len(s.words)) {
		return receipt.TreeHead{}, false, nil
	}
	return receipt.TreeHead{Domain: domain, Size: size, Root: keystead.Sum([]byte(strings.Join(s.words[:size], "&")))}, true, nil
}

// cast is the nodes of a domain with their keys.
type cast struct {
	t      *testing.T
	keys   map[string]*key.Node
	roster receipt.Roster
}

func newCast(t *testing.T, n int) *cast {
	c := &cast{t: t, keys: map[string]*key.Node{}}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		k, err := key.NewNode(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.keys[name] = k
		c.roster.Nodes = append(c.roster.Nodes, receipt.Node{Name: name, Key: k.Public()})
	}
	return c
}

// says returns the node's statement on a story.
func (c *cast) says(node string, s *story) heads.Statement {
	c.t.Helper()
	tree, _, err := s.Head(uint64(len(s.words)))
	if err != nil {
		c.t.Fatal(err)
	}
	return heads.New(c.keys[node], node, s.Log(), tree)
}

func (c *cast) hear(b *heads.Book, s heads.Statement, direct bool, own *story, now int64) *heads.Proof {
	c.t.Helper()
	p, err := b.Hear(s, c.keys[s.Node].Public(), direct, own, now)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

func (c *cast) node(name string) receipt.Node { n, _ := c.roster.Node(name); return n }

func demand(t *testing.T, when string, err error, want keystead.Reason) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: want %s, got %v", when, want, err)
	}
}

func same(words int) *story {
	s := &story{start: 1}
	for i := range words {
		s.words = append(s.words, fmt.Sprint("entry-", i))
	}
	return s
}

// TestMajorityAgrees: the gate is open while a majority, this node included, said of late
// that its log is this one's; whoever is ahead or behind counts as well.
func TestMajorityAgrees(t *testing.T) {
	c, b := newCast(t, 3), heads.NewBook("n1")
	own := same(8)
	demand(t, "nobody said anything", b.Check(&c.roster, 1), keystead.ReasonNoQuorum)
	c.hear(b, c.says("n2", same(5)), true, own, 1)
	if err := b.Check(&c.roster, 1); err != nil {
		t.Errorf("one that is behind agrees: %v", err)
	}
	demand(t, "silence", b.Check(&c.roster, 2+heads.Fresh), keystead.ReasonNoQuorum)
	c.hear(b, c.says("n2", same(9)), true, own, 5000)
	demand(t, "one that is ahead is not compared yet", b.Check(&c.roster, 5000), keystead.ReasonNoQuorum)
	if _, err := b.Look(same(9)); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(&c.roster, 5100); err != nil {
		t.Errorf("caught up: %v", err)
	}
	alone := newCast(t, 1)
	if err := heads.NewBook("n1").Check(&alone.roster, 1); err != nil {
		t.Errorf("a node alone: %v", err)
	}
}

// TestMadeUpRoot: one node that signs a tree or log of its own closes nothing while
// another agrees, and is not proven bad by that alone.
func TestMadeUpRoot(t *testing.T) {
	c, b, own := newCast(t, 3), heads.NewBook("n1"), same(8)
	c.hear(b, c.says("n2", own), true, own, 1)
	lie := c.says("n3", own)
	tree := lie.Tree
	tree.Root[0] ^= 1
	if p := c.hear(b, heads.New(c.keys["n3"], "n3", lie.Log, tree), true, own, 1); p != nil {
		t.Errorf("a made-up root proves %v", p)
	}
	if err := b.Check(&c.roster, 1); err != nil {
		t.Errorf("closed by one made-up root: %v", err)
	}
	if !b.Parted(&c.roster, 1) {
		t.Error("and yet somebody stands elsewhere")
	}
	demand(t, "alone with it", b.Check(&c.roster, 2+heads.Fresh), keystead.ReasonNoQuorum)
	c.hear(b, heads.New(c.keys["n3"], "n3", heads.Log{}, tree), true, own, 5000)
	demand(t, "alone with it", b.Check(&c.roster, 5001), keystead.ReasonLedgerForked)
}

// TestTwoStories: a leader tells n1 and n2 two stories, and each the one it likes. They
// find out as soon as they speak, prove it by what it signed, and neither goes on alone.
func TestTwoStories(t *testing.T) {
	for _, tc := range []struct{ ahead, behind int }{{0, 0}, {0, 2}, {2, 0}} {
		c, own := newCast(t, 3), same(8).clone("lease to web")
		other := same(8).clone("no lease to web")
		b := heads.NewBook("n1")
		c.hear(b, c.says("n3", own), true, own, 1)
		if err := b.Check(&c.roster, 1); err != nil {
			t.Fatal(err)
		}
		c.hear(b, c.says("n2", other), true, own, 2)
		demand(t, "n2 stands elsewhere and n3's word is a lie", b.Check(&c.roster, 2+heads.Fresh), keystead.ReasonLedgerForked)
		for range tc.ahead {
			other = other.clone("more")
		}
		for range tc.behind {
			own = own.clone("more")
		}
		p := c.hear(b, c.says("n3", other), false, own, 3) // handed on by n2
		for i := 0; p == nil && i < 3; i++ {
			own = own.clone("more")
			p = c.hear(b, c.says("n3", own), true, own, int64(4+i))
			if p == nil {
				p = c.hear(b, c.says("n3", other), false, own, int64(4+i))
			}
		}
		if p == nil || p.Node != "n3" || !p.First.Verify(c.keys["n3"].Public(), domain) || !p.Second.Verify(c.keys["n3"].Public(), domain) {
			t.Fatalf("ahead %d, behind %d: no proof against n3: %v", tc.ahead, tc.behind, p)
		}
		if !b.Liar(c.node("n3")) || b.Liar(c.node("n2")) {
			t.Errorf("proven bad: n3 %v, n2 %v", b.Liar(c.node("n3")), b.Liar(c.node("n2")))
		}
		c.hear(b, c.says("n3", own), true, own, 10)
		c.hear(b, c.says("n2", other), true, own, 10)
		demand(t, "n3 counts no more", b.Check(&c.roster, 10), keystead.ReasonLedgerForked)
	}
}

// TestStayingBeforeTheFork: who told two stories and then says only what is so of both
// holds no gate open, whether it names an early place or no log at all.
func TestStayingBeforeTheFork(t *testing.T) {
	c, own := newCast(t, 3), same(8).clone("lease to web")
	for name, says := range map[string]heads.Statement{
		"an early place": c.says("n3", same(8)),
		"no log":         heads.New(c.keys["n3"], "n3", heads.Log{}, c.says("n3", same(1)).Tree),
	} {
		b := heads.NewBook("n1")
		c.hear(b, says, true, own, 1)
		if err := b.Check(&c.roster, 1); err != nil {
			t.Errorf("%s, and nobody stands elsewhere: %v", name, err)
		}
		c.hear(b, c.says("n2", same(8).clone("no lease to web")), true, own, 2)
		c.hear(b, says, true, own, 3)
		demand(t, name, b.Check(&c.roster, 3), keystead.ReasonLedgerForked)
		c.hear(b, c.says("n3", own), true, own, 4)
		if err := b.Check(&c.roster, 4); err != nil {
			t.Errorf("%s, and then this node's own: %v", name, err)
		}
	}
}

// TestProofNeedsNoLog: two statements of one place, or of one size, prove a lie to whoever
// has neither log.
func TestProofNeedsNoLog(t *testing.T) {
	for name, other := range map[string]func(c *cast, s heads.Statement) heads.Statement{
		"two logs": func(c *cast, s heads.Statement) heads.Statement {
			s.Log.Hash[0] ^= 1
			return heads.New(c.keys["n3"], "n3", s.Log, s.Tree)
		},
		"two trees": func(c *cast, s heads.Statement) heads.Statement {
			s.Tree.Root[0] ^= 1
			return heads.New(c.keys["n3"], "n3", s.Log, s.Tree)
		},
		"two rosters": func(c *cast, s heads.Statement) heads.Statement {
			s.Tree.Roster++
			return heads.New(c.keys["n3"], "n3", s.Log, s.Tree)
		},
	} {
		c, b, own := newCast(t, 3), heads.NewBook("n1"), same(2)
		s := c.says("n3", same(9))
		if p := c.hear(b, s, true, own, 1); p != nil {
			t.Fatalf("%s: one statement proves %v", name, p)
		}
		if p := c.hear(b, other(c, s), false, own, 2); p == nil || !b.Liar(c.node("n3")) {
			t.Errorf("%s: no proof", name)
		}
	}
}

// TestHonestNodesAreNotProvenBad: not who agreed and then stands elsewhere, not who was
// deceived and came back with a new key, not by an era that members began, not where
// logs can not be compared, and not by comparing with a log that was replaced.
func TestHonestNodesAreNotProvenBad(t *testing.T) {
	innocent := func(name string, b *heads.Book, c *cast, p ...*heads.Proof) {
		t.Helper()
		for _, p := range p {
			if p != nil {
				t.Errorf("%s: proven bad: %v", name, p)
			}
		}
		if len(b.Proofs()) > 0 {
			t.Errorf("%s: %v", name, b.Proofs())
		}
	}
	c, b, own := newCast(t, 3), heads.NewBook("n1"), same(8).clone("forged")
	innocent("this node is the deceived one", b, c,
		c.hear(b, c.says("n2", same(7)), true, own, 1), c.hear(b, c.says("n2", same(9)), true, own, 2), c.hear(b, c.says("n2", same(5)), false, own, 2))

	c, b, own = newCast(t, 3), heads.NewBook("n1"), same(9)
	first := c.hear(b, c.says("n2", same(8).clone("forged")), true, own, 1)
	k, err := key.NewNode(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.keys["n2"] = k
	c.roster.Nodes[1].Key = k.Public()
	innocent("deceived, and back with a new key", b, c, first, c.hear(b, c.says("n2", own), true, own, 2))
	if err := b.Check(&c.roster, 3); err != nil {
		t.Errorf("and counts again: %v", err)
	}

	c, b = newCast(t, 3), heads.NewBook("n1")
	lost, reopened := same(9), same(8).clone("anew")
	lost.words = lost.words[:9]
	reopened.era = 1
	reopened.words = append(reopened.words, "more")
	p := c.hear(b, heads.New(c.keys["n2"], "n2", lost.Log(), c.says("n2", same(8)).Tree), true, reopened, 1)
	innocent("an era that members began", b, c, p, c.hear(b, c.says("n2", reopened), true, reopened, 2))

	c, b, own = newCast(t, 3), heads.NewBook("n1"), same(9)
	own.start = 0 // an earlier build's state
	early := heads.New(c.keys["n2"], "n2", heads.Log{Start: 5, Index: 9, Hash: keystead.Sum([]byte("another"))}, c.says("n2", same(9)).Tree)
	innocent("logs that can not be compared", b, c, c.hear(b, early, true, own, 1))
	if err := b.Check(&c.roster, 1); err != nil {
		t.Errorf("trees agree: %v", err)
	}

	c, b, own = newCast(t, 3), heads.NewBook("n1"), same(8).clone("forged")
	p = c.hear(b, c.says("n2", same(9)), true, own, 1)
	b.Replaced()
	own = same(9)
	innocent("compared with a log that was replaced", b, c, p, c.hear(b, c.says("n2", own), true, own, 2), c.hear(b, c.says("n2", same(9)), false, own, 2))
}

// TestSaidThen: what was ahead of this node's log counts from when it came, and not from when
// this node has come so far. Else whoever holds a node back would hold its gate open with
// what others said long ago.
func TestSaidThen(t *testing.T) {
	for _, late := range []int64{heads.Fresh, heads.Fresh + 1} {
		c, b := newCast(t, 3), heads.NewBook("n1")
		c.hear(b, c.says("n2", same(8)), true, same(3), 1000)
		if proofs, err := b.Look(same(8)); err != nil || proofs != nil {
			t.Fatal(proofs, err)
		}
		err := b.Check(&c.roster, 1000+late)
		if late <= heads.Fresh && err != nil {
			t.Errorf("said %d ms ago: %v", late, err)
		} else if late > heads.Fresh {
			demand(t, "said long ago", err, keystead.ReasonNoQuorum)
		}

		b = heads.NewBook("n1") // and so does what does not agree
		c.hear(b, c.says("n2", same(8).clone("a")), true, same(3), 1000)
		c.hear(b, c.says("n3", same(3)), true, same(3), 1000+late)
		if _, err := b.Look(same(8).clone("b")); err != nil {
			t.Fatal(err)
		}
		if parted := b.Parted(&c.roster, 1000+late); parted != (late <= heads.Fresh) {
			t.Errorf("said %d ms ago, parted: %v", late, parted)
		}
	}
}

// TestFiveNodes: of five nodes a liar takes two with it; the two others and the two that
// it deceived all stop, and once it is proven bad in a domain that is whole, four go on.
func TestFiveNodes(t *testing.T) {
	c, b, own := newCast(t, 5), heads.NewBook("n1"), same(8).clone("a")
	other := same(8).clone("b")
	c.hear(b, c.says("n2", own), true, own, 1)
	c.hear(b, c.says("n5", own), true, own, 1)
	if err := b.Check(&c.roster, 1); err != nil {
		t.Fatal(err)
	}
	c.hear(b, c.says("n3", other), true, own, 2)
	c.hear(b, c.says("n4", other), true, own, 2)
	if p := c.hear(b, c.says("n5", other), false, own, 3); p == nil {
		t.Fatal("no proof against n5")
	}
	demand(t, "two and a liar of five", b.Check(&c.roster, 3), keystead.ReasonLedgerForked)
	for _, n := range []string{"n2", "n3"} {
		b := heads.NewBook("n1")
		for _, n := range []string{"n2", "n3", "n4", "n5"} {
			c.hear(b, c.says(n, own), true, own, 1)
		}
		c.hear(b, c.says("n5", other), false, own, 2)
		if err := b.Check(&c.roster, 2); err != nil || !b.Liar(c.node("n5")) || b.Liar(c.node(n)) {
			t.Errorf("four of five go on without the liar: %v", err)
		}
	}
}

// TestWhatIsKeptIsBounded: a node that sends statements without end fills no memory, and
// what is handed on stays small.
func TestWhatIsKeptIsBounded(t *testing.T) {
	c, b, own := newCast(t, 3), heads.NewBook("n1"), same(8)
	for i := range 500 {
		s := same(8).clone(strings.Repeat("x", i%7))
		s.words = append(s.words, make([]string, i)...)
		tree, _, _ := own.Head(uint64(1 + i%8))
		c.hear(b, heads.New(c.keys["n3"], "n3", s.Log(), tree), i%2 == 0, own, int64(i+1))
	}
	if n := len(b.Said()); n > 7 {
		t.Errorf("%d statements of one node are handed on", n)
	}
}

// TestConvictionLasts: a proof from before counts while the roster has that key.
func TestConvictionLasts(t *testing.T) {
	c, b, own := newCast(t, 3), heads.NewBook("n1"), same(8)
	b.Convict(&heads.Proof{Node: "n2", Key: c.keys["n2"].Public()})
	c.hear(b, c.says("n2", own), true, own, 1)
	if !b.Liar(c.node("n2")) {
		t.Error("forgotten")
	}
	demand(t, "a liar's agreement", b.Check(&c.roster, 1), keystead.ReasonNoQuorum)
	n := c.node("n2")
	n.Key[0] ^= 1
	if b.Liar(n) {
		t.Error("a new key, which members brought in, is bad as well")
	}
}

func FuzzParse(f *testing.F) {
	k, err := key.NewNode(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	s := heads.New(k, "n1", same(3).Log(), receipt.TreeHead{Domain: domain, Size: 3})
	f.Add(s.Bytes())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := heads.Parse(b)
		if err == nil && !bytes.Equal(s.Bytes(), b) {
			t.Errorf("%x has another encoding: %x", b, s.Bytes())
		}
	})
}

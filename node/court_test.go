package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// bench is a court of three nodes, of which this test plays all.
type bench struct {
	court  court
	roster receipt.Roster
	keys   map[string]*key.Node
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{keys: map[string]*key.Node{}}
	b.court.init(nil, nil, nil)
	b.court.bad = nobody
	for i := range 3 {
		k, err := key.NewNode(constant(i + 1))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("n%d", i+1)
		b.keys[name] = k
		b.roster.Nodes = append(b.roster.Nodes, receipt.Node{Name: name, Key: k.Public()})
	}
	return b
}

// constant reads as that byte for ever.
type constant byte

func (c constant) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c)
	}
	return len(b), nil
}

// open opens a proposal that this node has judged, and returns its verdict.
func (b *bench) open() *ledger.Verdict {
	v := &ledger.Verdict{Proposal: keystead.Sum([]byte("proposal")), Type: "setting", Subject: "x"}
	b.court.of(v.Proposal).verdict = v
	return v
}

func (b *bench) endorse(node string, v *ledger.Verdict) {
	e := ledger.Endorse(b.keys[node], node, keystead.Digest{}, v)
	b.court.take(e.Entry())
}

// TestRepeatedEndorsements hands in one node's endorsement again and again, which
// the ledger lets pass as sent twice: it counts once, and keeps nothing from
// taking effect.
func TestRepeatedEndorsements(t *testing.T) {
	b := newBench(t)
	v := b.open()
	for range 100 {
		b.endorse("n1", v)
	}
	if due := b.court.due(true, &b.roster); len(due) != 0 {
		t.Errorf("one node's endorsement was taken for a majority's: %d", len(due))
	}
	b.endorse("n2", v)
	due := b.court.due(true, &b.roster)
	if len(due) != 1 {
		t.Fatalf("two of three endorsed, and %d proposals are due", len(due))
	}
	if got := len(due[0].endorsements); got != 2 {
		t.Errorf("want the endorsements of 2 nodes, got %d", got)
	}
}

// TestRemovedEndorser has a node endorse that then leaves the roster: its signature
// would have the effective entry refused.
func TestRemovedEndorser(t *testing.T) {
	b := newBench(t)
	v := b.open()
	for _, n := range []string{"n3", "n1"} {
		b.endorse(n, v)
	}
	b.roster.Nodes = b.roster.Nodes[:2]
	if due := b.court.due(true, &b.roster); len(due) != 0 {
		t.Errorf("a removed node's endorsement counted: %d", len(due))
	}
	b.endorse("n2", v)
	due := b.court.due(true, &b.roster)
	if len(due) != 1 {
		t.Fatalf("both nodes endorsed, and %d proposals are due", len(due))
	}
	for _, e := range due[0].endorsements {
		if e.Node == "n3" {
			t.Error("the effective entry holds a removed node's endorsement")
		}
	}
}

// TestLeaderAhead gives the leader a clock that is an hour ahead of the others':
// ticks are as old as their arrival says, and the domain clock goes on.
func TestLeaderAhead(t *testing.T) {
	b := newBench(t)
	var box tickBox
	const clock = 1_000_000_000
	add := func(node string, at uint64) {
		box.add(ledger.NewTick(b.keys[node], node, keystead.Digest{}, at, [32]byte{}))
	}
	none := func(string) uint64 { return 0 }
	add("n1", clock+3_600_000) // the leader's own
	add("n2", clock)
	if got := box.take(&b.roster, keystead.Digest{}, nobody, none, time.Now()); len(got) != 2 {
		t.Fatalf("want the ticks of 2 nodes, got %d", len(got))
	}
	if got := box.take(&b.roster, keystead.Digest{}, nobody, none, time.Now().Add(tickMax)); got != nil {
		t.Errorf("ticks that came %v ago were taken: %d", tickMax, len(got))
	}
}

// TestReplayedTicks hands the leader ticks of a silent node that are in the log
// already: one of them would have the whole entry refused.
func TestReplayedTicks(t *testing.T) {
	b := newBench(t)
	var box tickBox
	last := func(node string) uint64 { return map[string]uint64{"n3": 500}[node] }
	for node, at := range map[string]uint64{"n1": 1000, "n2": 1000, "n3": 400} {
		box.add(ledger.NewTick(b.keys[node], node, keystead.Digest{}, at, [32]byte{}))
	}
	got := box.take(&b.roster, keystead.Digest{}, nobody, last, time.Now())
	if len(got) != 2 {
		t.Fatalf("want the ticks of 2 nodes, got %d", len(got))
	}
	for _, tick := range got {
		if tick.Node == "n3" {
			t.Error("a tick that the log has is proposed again")
		}
	}
}

// TestProposalsAreSigned: what too few members signed never reaches the log, where it would
// take one of the places that the ledger has for proposals, for a minute each: a stranger
// could take them all, and no host be admitted.
func TestProposalsAreSigned(t *testing.T) {
	var members [3]key.Member
	roster := receipt.Roster{Threshold: 2}
	for i := range members {
		m, err := key.NewMember(rand.Reader, fmt.Sprintf("m%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if members[i] = m; i < 2 {
			roster.Members = append(roster.Members, m.Public())
		}
	}
	var c court
	types := append((*muster)(nil).statementJudges(nil), (*agreement)(nil).judges()...)
	c.init(nil, nil, types)
	for _, judged := range types {
		kind, note := judged.Type, judged.Statement
		if note == "" {
			continue // nodes alone propose it
		}
		signed := func(by ...key.Member) []byte {
			b := []byte(string(note) + "\ndomain none\nsubject x\nbase 0\nvalue 1\n")
			for i, m := range by {
				sign, err := m.Sign, error(nil)
				if i > 0 {
					sign = m.Cosign
				}
				if b, err = sign(b); err != nil {
					t.Fatal(err)
				}
			}
			return b
		}
		for what, tc := range map[string]struct {
			content []byte
			from    part.Caller
			want    keystead.Reason
		}{
			"by all":                {signed(members[0], members[1]), part.Caller{}, ""},
			"by too few":            {signed(members[0]), part.Caller{}, keystead.ReasonThresholdMissing},
			"by one, twice":         {signed(members[0], members[0]), part.Caller{}, keystead.ReasonThresholdMissing},
			"by one and a stranger": {signed(members[0], members[2]), part.Caller{}, keystead.ReasonThresholdMissing},
			"by a stranger":         {signed(members[2]), part.Caller{}, keystead.ReasonNoteUnsigned},
			"by a host's words":     {signed(members[2]), part.Caller{EK: keystead.Sum([]byte("ek"))}, keystead.ReasonNoteUnsigned},
			"a node hands it on":    {signed(members[2]), part.Caller{Node: "n1"}, ""},
		} {
			entry, err := (&ledger.Proposal{Type: kind, Subject: "x", Content: tc.content}).Entry()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.mayPropose(entry, tc.from, &roster); (tc.want == "") != (err == nil) || tc.want != "" && !errors.Is(err, tc.want) {
				t.Errorf("%s, signed %s: %v, want %q", kind, what, err, tc.want)
			}
		}
	}
	entry, err := (&ledger.Proposal{Type: "unknown", Subject: "x", Content: []byte("x")}).Entry()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.mayPropose(entry, part.Caller{}, &roster); !errors.Is(err, keystead.ReasonPolicyUnusable) {
		t.Errorf("of a type that nobody judges: %v", err)
	}
}

func nobody(receipt.Node) bool { return false }

// TestProvenBadEndorsesNothing: the endorsement of a node that is proven bad is not joined
// into an effective entry, though its signature is good; another's is.
func TestProvenBadEndorsesNothing(t *testing.T) {
	b := newBench(t)
	b.court.bad = func(n receipt.Node) bool { return n.Name == "n3" }
	v := b.open()
	b.endorse("n1", v)
	b.endorse("n3", v)
	if due := b.court.due(true, &b.roster); len(due) != 0 {
		t.Errorf("a node that is proven bad made the majority: %d", len(due))
	}
	b.endorse("n2", v)
	due := b.court.due(true, &b.roster)
	if len(due) != 1 || len(due[0].endorsements) != 2 {
		t.Errorf("two good nodes of three are not enough: %v", due)
	}
}

// TestProvenBadTicksNothing: the leader takes no tick of a node that is proven bad.
func TestProvenBadTicksNothing(t *testing.T) {
	b := newBench(t)
	var box tickBox
	for name, k := range b.keys {
		box.add(ledger.NewTick(k, name, keystead.Digest{}, 1, [32]byte{}))
	}
	none := func(string) uint64 { return 0 }
	got := box.take(&b.roster, keystead.Digest{}, func(n receipt.Node) bool { return n.Name == "n3" }, none, time.Now())
	if len(got) != 2 || got[0].Node == "n3" || got[1].Node == "n3" {
		t.Errorf("ticks of %v", got)
	}
}

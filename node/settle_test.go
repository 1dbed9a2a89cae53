package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// TestTwoExclusionsAtOnce: two statements under way, each of which may have one node of three fall
// out, and each of which leaves two as long as the other does not take effect. One is endorsed; the
// other is when the first one has come to nothing.
func TestTwoExclusionsAtOnce(t *testing.T) {
	roster := &receipt.Roster{}
	for i := range 3 {
		roster.Nodes = append(roster.Nodes, receipt.Node{Name: fmt.Sprintf("n%d", i+1)})
	}
	one, other := keystead.Sum([]byte("one")), keystead.Sum([]byte("other"))
	without := func(name string, passing ...string) tally {
		return tally{passing: passing, out: map[string]keystead.Finding{name: {Reason: keystead.ReasonFileUnknown}}}
	}
	m, c := &muster{}, &change{where: "terms for node", most: 1}
	for range 2 { // sent again it is the same one
		if err := m.settle(one, roster, c, without("n3", "n1", "n2")); err != nil {
			t.Fatalf("the first: %v", err)
		}
	}
	if err := m.settle(other, roster, c, tally{passing: []string{"n1", "n2", "n3"}}); err != nil {
		t.Errorf("one by which nobody falls out: %v", err)
	}
	if err := m.settle(other, roster, c, without("n2", "n1", "n3")); !errors.Is(err, keystead.ReasonTermsExclude) {
		t.Errorf("the second: want terms-exclude, got %v", err)
	}
	if err := m.settle(other, roster, c, without("n3", "n1", "n2")); err != nil {
		t.Errorf("the second, by which the same node falls out: %v", err)
	}
	refused := without("n3", "n1")
	for _, proposal := range []keystead.Digest{one, other} {
		if err := m.settle(proposal, roster, c, refused); !errors.Is(err, keystead.ReasonTermsExclude) {
			t.Errorf("by which no majority is left: want terms-exclude, got %v", err)
		}
	}
	if err := m.settle(other, roster, c, without("n2", "n1", "n3")); err != nil {
		t.Errorf("the second, once the first was refused: %v", err)
	}
}

// TestTwoTimesOfOneStatement: a node that falls out at once, and would later fall out by what is in
// force as well, is out all the same when another one falls out then: both count against may-exclude,
// against the majority, and against other statements.
func TestTwoTimesOfOneStatement(t *testing.T) {
	roster := &receipt.Roster{}
	for i := range 5 {
		roster.Nodes = append(roster.Nodes, receipt.Node{Name: fmt.Sprintf("n%d", i+1)})
	}
	one, other := keystead.Sum([]byte("one")), keystead.Sum([]byte("other"))
	why := keystead.Finding{Reason: keystead.ReasonFileUnknown}
	atOnce := tally{passing: []string{"n1", "n2", "n3", "n4"}, out: map[string]keystead.Finding{"n5": why}}
	later := tally{passing: []string{"n1", "n2", "n3"}, out: map[string]keystead.Finding{"n4": why}, from: ", from later on"}
	m := &muster{}
	err := m.settle(one, roster, &change{where: "terms for node", most: 1}, atOnce, later)
	var deny *keystead.DenyError
	if !errors.As(err, &deny) || len(deny.Findings) != 3 || deny.Findings[2].Want != "may-exclude 2, if that is meant" {
		t.Errorf("two fall out, one of them later: %v", err)
	}
	c := &change{where: "terms for node", most: 2}
	if err := m.settle(one, roster, c, atOnce, later); err != nil {
		t.Fatalf("two fall out, as is said: %v", err)
	}
	for _, name := range []string{"n4", "n5"} { // each of them is spent by the first statement
		alone := tally{passing: []string{"n1", "n2", name}, out: map[string]keystead.Finding{"n3": why}}
		if err := m.settle(other, roster, c, alone); !errors.Is(err, keystead.ReasonTermsExclude) {
			t.Errorf("another statement that needs %s: want terms-exclude, got %v", name, err)
		}
	}
	back := tally{passing: []string{"n1", "n2", "n5"}, out: map[string]keystead.Finding{"n4": why}}
	if err := m.settle(other, roster, c, tally{passing: []string{"n1", "n2", "n3"}, out: map[string]keystead.Finding{"n5": why}}, back); !errors.Is(err, keystead.ReasonTermsExclude) {
		t.Errorf("one that fell out is counted on later: want terms-exclude, got %v", err)
	}
}

// TestDeniedNodeKnocks: however often a node on denied hardware comes, and however many at once, this
// node's own TPM is asked once.
func TestDeniedNodeKnocks(t *testing.T) {
	asked := 0 // under the lock of those who wait
	m := &muster{own: func(context.Context) (exhibit, error) {
		if asked++; asked == 1 {
			return exhibit{}, keystead.ReasonTimeout
		}
		return exhibit{denials: []string{"ek/of-this-one"}}, nil
	}}
	if _, err := m.ownLately(t.Context()); !errors.Is(err, keystead.ReasonTimeout) {
		t.Fatalf("a TPM that does not answer: %v", err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if x, err := m.ownLately(t.Context()); err != nil || len(x.denials) != 1 {
				t.Errorf("%v: %v", x.denials, err)
			}
		})
	}
	all.Wait()
	m.madeAt = m.madeAt.Add(-2 * ownFor)
	if _, err := m.ownLately(t.Context()); err != nil || asked != 3 {
		t.Errorf("the TPM was asked %d times, want 3: one that failed, one for all, one a minute later: %v", asked, err)
	}
}

package node

import (
	"errors"
	"fmt"
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
	m.forget(one)
	m.forget(other)
	if err := m.settle(other, roster, c, without("n2", "n1", "n3")); err != nil {
		t.Errorf("the second, once the first was refused: %v", err)
	}
}

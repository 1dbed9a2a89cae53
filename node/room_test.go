package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// TestWordOfFullDisks: a node that says that its disk is full, and lies, stops nobody's writes;
// so many that the others are no majority do, for as long as they go on saying so.
func TestWordOfFullDisks(t *testing.T) {
	n := newNode(Config{}, Options{})
	n.machine, n.name = &machine{}, "n1"
	for i := range 5 {
		n.genesis.Roster.Nodes = append(n.genesis.Roster.Nodes, receipt.Node{Name: fmt.Sprintf("n%d", i+1)})
	}
	now := time.Now()
	for i, tc := range []struct {
		node   string
		full   bool
		at     time.Time
		refuse bool
	}{
		{"n2", true, now, false},
		{"n2", true, now, false}, // again and again
		{"n3", true, now, false},
		{"n4", true, now, true},
		{"n3", false, now, false},
		{"n3", true, now.Add(-2 * othersFor), false}, // long ago
		{"n5", true, now, true},
	} {
		n.doors.short.note(tc.node, tc.full, tc.at)
		found := n.doors.noRoom()
		if (found != nil) != tc.refuse {
			t.Errorf("step %d, %s says full: %v: refused for %v, want %v", i, tc.node, tc.full, found, tc.refuse)
		}
	}
	n.closed.set(keystead.ReasonDiskFull, n.doors.noRoom())
	n.standing.up = make(chan struct{})
	close(n.standing.up)
	for path, refused := range map[string]bool{"Renew": false, "Release": false, "Admit": true, "PutObject": true} {
		if err := n.doors.opens("/keystead.v1.HostService/" + path); errors.Is(err, keystead.ReasonDiskFull) != refused {
			t.Errorf("%s, while disks are full: %v", path, err)
		}
	}
}

package replica

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
)

// TestWaitsForAState: a node that has its fresh id, and no state yet, gives nobody an id, and
// says that it waits. Two that lost their disks would else wait for each other: each for the
// other's word, which it has only once it counts as one that waits.
func TestWaitsForAState(t *testing.T) {
	s, err := OpenStore(StoreOptions{FS: vfs.NewMem(), Dir: "data", Machine: &keeper{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Rejoin(7); err != nil {
		t.Fatal(err)
	}
	n := &Node{store: s}
	n.ready.Store(true)
	r, err := (*handler)(n).Join(t.Context(), keystead.Digest{1}, JoinRequest{})
	if err != nil || !r.Waits || r.ID != 0 {
		t.Errorf("want that it waits, got %+v, %v", r, err)
	}
}

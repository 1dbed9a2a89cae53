package daemon

import (
	"testing"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// TestReplayed: what is kept of hosts stays within its bound, the newest host's is
// kept, and one that is dropped counts no more.
func TestReplayed(t *testing.T) {
	size := new(appraise.State).Size()
	r := replayed{most: 3*size + size/2}
	for _, host := range []string{"a", "b", "c", "d", "e"} {
		r.keep(host, new(appraise.State))
		if r.hosts[host][0] == nil || r.size > r.most || r.size != len(r.hosts)*size {
			t.Fatalf("after %s: %d hosts of %d bytes, at most %d", host, len(r.hosts), r.size, r.most)
		}
	}
	r.keep("e", nil)
	if r.drop("e"); r.hosts["e"][0] != nil || r.size != len(r.hosts)*size {
		t.Errorf("dropped: %d hosts of %d bytes", len(r.hosts), r.size)
	}
	if r.find("d", evidence.Bundle{}) != nil {
		t.Error("a whole bundle goes on from something")
	}
}

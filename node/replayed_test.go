package node

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

// TestReplayedShared: what states share takes memory as long as one of them is there, and
// counts once. Nothing is left of terms that are in force no more.
func TestReplayedShared(t *testing.T) {
	var r replayed
	r.keep("a", new(appraise.State))
	own := r.size
	one, other := new(int), new(int)
	for i, step := range []struct {
		common *int
		by     int
		want   int
	}{{one, 1, 100}, {one, 1, 100}, {other, 1, 200}, {one, -1, 200}, {one, -1, 100}, {other, -1, 0}} {
		if r.count(step.common, 100, step.by); r.size != own+step.want {
			t.Errorf("step %d: %d bytes, want %d", i+1, r.size-own, step.want)
		}
	}
	if len(r.shared) != 0 {
		t.Errorf("%d are left", len(r.shared))
	}
	r.clear()
	r.drop("a")
	if r.keep("b", new(appraise.State)); r.size != own || len(r.hosts) != 1 {
		t.Errorf("%d hosts of %d bytes, want one of %d", len(r.hosts), r.size, own)
	}
}

package replica

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// follower is the core of member 1 of a group of n, driven by hand, with a log up to 9.
func newFollower(t *testing.T, n int) *alone {
	t.Helper()
	s, err := OpenStore(StoreOptions{FS: vfs.NewMem(), Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var members []Member
	for i := range n {
		members = append(members, Member{Key: keystead.Sum(be64(uint64(i + 1)))})
	}
	if err := s.Bootstrap(1, members); err != nil {
		t.Fatal(err)
	}
	fill(t, s, 9)
	if err := s.Append(&pb.Message{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(9)), Responses: []*pb.Message{{}}}); err != nil {
		t.Fatal(err)
	}
	c, err := NewCore(CoreOptions{}, s)
	if err != nil {
		t.Fatal(err)
	}
	return &alone{c, s}
}

func beat(from, term, commit uint64) *pb.Message {
	return &pb.Message{Type: pb.MsgHeartbeat.Enum(), From: &from, To: new(uint64(1)), Term: &term, Commit: &commit}
}

// hear has the node hear a heartbeat a tick, and returns what that came to.
func (a *alone) hear(t *testing.T, ticks int, m func() *pb.Message) error {
	t.Helper()
	for range ticks {
		if err := a.Step(m()); err != nil {
			return err
		}
		a.pump(t)
		a.Tick()
		a.pump(t)
	}
	return nil
}

// TestForgedHeartbeat: a member says by heartbeats that this node acknowledged what it has
// not. That stops nobody: not one, nor many in another term each, nor one of the leader of
// now that no other member bears out, nor of who is not the leader.
func TestForgedHeartbeat(t *testing.T) {
	const long = 100 // ticks
	third := keystead.Sum(be64(3))
	for name, attack := range map[string]func(a *alone) error{
		"one of another member": func(a *alone) error {
			a.Reached(third, 1000)
			return a.hear(t, 1, func() *pb.Message { return beat(2, 9, 500) })
		},
		"ever higher terms": func(a *alone) error {
			term := uint64(9)
			a.Reached(third, 1000)
			return a.hear(t, long, func() *pb.Message { term++; return beat(2, term, 500) })
		},
		"the leader's, and nobody else says so": func(a *alone) error {
			a.Reached(keystead.Sum(be64(2)), 1000) // its own word is no second witness
			a.Reached(keystead.Sum([]byte("stranger")), 1000)
			a.Reached(third, 499)
			return a.hear(t, long, func() *pb.Message { return beat(2, 9, 500) })
		},
		"not the leader's": func(a *alone) error {
			a.Reached(third, 1000)
			if err := a.hear(t, 2, func() *pb.Message { return beat(2, 9, 9) }); err != nil {
				return err
			}
			for range long {
				if err := errors.Join(a.Step(beat(3, 9, 500)), a.hear(t, 1, func() *pb.Message { return beat(2, 9, 9) })); err != nil {
					return err
				}
			}
			return nil
		},
		"of a term that is over": func(a *alone) error {
			a.Reached(third, 1000)
			if err := a.hear(t, 2, func() *pb.Message { return beat(2, 9, 9) }); err != nil {
				return err
			}
			return a.hear(t, long, func() *pb.Message { return beat(3, 8, 500) })
		},
	} {
		a := newFollower(t, 3)
		if err := attack(a); err != nil {
			t.Errorf("%s: the node stops: %v", name, err)
		}
		if c := a.Status().Commit; c > 9 {
			t.Errorf("%s: %d counts as committed of a log up to 9", name, c)
		}
	}
}

// TestRolledBackDisk: where the leader keeps saying so and another member has the entry, the
// node does stop; and in a group of two at the leader's word, for there is nobody else.
func TestRolledBackDisk(t *testing.T) {
	for n, reached := range map[int]uint64{3: 500, 2: 0} {
		a := newFollower(t, n)
		a.Reached(keystead.Sum(be64(3)), reached)
		err := a.hear(t, 100, func() *pb.Message { return beat(2, 9, 500) })
		if !errors.Is(err, keystead.ReasonDiskRolledBack) {
			t.Errorf("%d members: want disk-rolled-back, got %v", n, err)
		}
	}
}

// TestWithheldEntries: a leader that this node follows keeps entries back, which others have,
// and says that the node has lost them. Since its start the node took entries of a leader,
// which it could not have if its disk lacked what that one had of it: it does not stop.
func TestWithheldEntries(t *testing.T) {
	a := newFollower(t, 3)
	a.Reached(keystead.Sum(be64(3)), 500)
	next := entry(10, 9, "command-10")
	if err := a.Step(&pb.Message{Type: pb.MsgApp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(9)),
		Index: new(uint64(9)), LogTerm: new(uint64(1)), Commit: new(uint64(9)), Entries: []*pb.Entry{next}}); err != nil {
		t.Fatal(err)
	}
	a.pump(t)
	if last, err := a.s.LastIndex(); last != 10 || err != nil {
		t.Fatalf("the log ends at %d, %v", last, err)
	}
	if err := a.hear(t, 100, func() *pb.Message { return beat(2, 9, 500) }); err != nil {
		t.Errorf("the node stops: %v", err)
	}
}

// TestShunned: nothing of a member that is shunned is taken, whatever term it claims.
func TestShunned(t *testing.T) {
	a := newFollower(t, 3)
	a.Shun(map[keystead.Digest]bool{keystead.Sum(be64(2)): true})
	if err := a.hear(t, 3, func() *pb.Message { return beat(2, 9, 9) }); err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.Leader == 2 || s.Term == 9 {
		t.Errorf("a shunned member leads: %+v", s)
	}
	if err := a.hear(t, 3, func() *pb.Message { return beat(3, 9, 9) }); err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.Leader != 3 {
		t.Errorf("another member does not lead: %+v", s)
	}
}

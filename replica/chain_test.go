package replica

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// apply appends and applies entries, cut in two at a place.
func applyCut(t *testing.T, s *Store, ents []*pb.Entry, at int) {
	t.Helper()
	for _, part := range [][]*pb.Entry{ents[:at], ents[at:]} {
		if len(part) == 0 {
			continue
		}
		if err := s.Append(&pb.Message{Entries: part, Responses: []*pb.Message{{}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(&pb.Message{Entries: part}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestChainNamesEveryEntry: two members that applied the same entries have one chain,
// however the entries came; another command, term, kind or order gives another.
func TestChainNamesEveryEntry(t *testing.T) {
	log := func() (ents []*pb.Entry) {
		for i := uint64(2); i <= 9; i++ {
			ents = append(ents, entry(i, i, fmt.Sprintf("command-%d", i)))
		}
		ents[3].Data = nil // a leader's first
		return ents
	}
	chain := func(ents []*pb.Entry, cut int) (*Store, Chain) {
		s := founder(t, vfs.NewMem())
		t.Cleanup(func() { s.Close() })
		applyCut(t, s, ents, cut)
		c, at := s.Chain()
		if at != 9 || c.Start != 1 {
			t.Fatalf("want a chain from 1 at 9, got one from %d at %d", c.Start, at)
		}
		return s, c
	}
	first, want := chain(log(), 0)
	for cut := 1; cut < 8; cut++ {
		other, got := chain(log(), cut)
		if got != want {
			t.Errorf("cut at %d: want %v, got %v", cut, want, got)
		}
		for i := uint64(1); i <= 9; i++ {
			a, okA := first.Link(i)
			b, okB := other.Link(i)
			if a != b || !okA || !okB {
				t.Errorf("cut at %d: link %d: want %v, got %v (%v, %v)", cut, i, a, b, okA, okB)
			}
		}
	}
	if _, ok := first.Link(10); ok {
		t.Error("a link after the last entry")
	}
	for name, lie := range map[string]func([]*pb.Entry){
		"another command":        func(e []*pb.Entry) { e[0].Data = entry(2, 2, "command-X").Data },
		"another term":           func(e []*pb.Entry) { e[7].Term = new(uint64(2)) },
		"an empty entry filled":  func(e []*pb.Entry) { e[3].Data = entry(5, 5, "withheld").Data },
		"two commands exchanged": func(e []*pb.Entry) { e[1].Data, e[2].Data = e[2].Data, e[1].Data },
		"no command":             func(e []*pb.Entry) { e[5].Data = nil },
	} {
		ents := log()
		lie(ents)
		if _, got := chain(ents, 0); got == want {
			t.Errorf("%s: the chain is the same", name)
		}
	}
}

// TestChainSurvives: the chain goes on over a restart, a crash, and a recovery, which
// begins an era that still rests on the one before.
func TestChainSurvives(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := founder(t, fs)
	fill(t, s, 9)
	want, _ := s.Chain()
	crashed := founder(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	defer crashed.Close()
	caughtUp(t, crashed)
	if got, _ := crashed.Chain(); got != want {
		t.Errorf("after a crash: want %v, got %v", want, got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = founder(t, fs)
	caughtUp(t, s)
	if got, at := s.Chain(); at != 9 || got != want {
		t.Errorf("after a restart: want %v at 9, got %v at %d", want, got, at)
	}
	key := s.Membership().Members[0].Key
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	opts := StoreOptions{FS: fs, Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20}
	if err := Recover(opts, nil, key, func(RecoveryPlan) error { return nil }); err != nil {
		t.Fatal(err)
	}
	s = founder(t, fs)
	defer s.Close()
	got, at := s.Chain()
	if got != beginChain(1, 9, want.Hash, s.Membership()) || at != 9 {
		t.Errorf("after a recovery: %v at %d", got, at)
	}
	if _, ok := s.Link(8); ok {
		t.Error("a link from before the era")
	}
}

// caughtUp applies what the log has beyond the state.
func caughtUp(t *testing.T, s *Store) {
	t.Helper()
	last, err := s.LastIndex()
	if err == nil {
		err = s.applyTo(last)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestLinksAreBounded: memory for links does not grow with the log.
func TestLinksAreBounded(t *testing.T) {
	var l links
	for i := uint64(1); i <= 5*maxLinks; i++ {
		l.add(i, keystead.Sum(be64(i)))
	}
	if len(l.hashes) > 2*maxLinks {
		t.Errorf("%d links are kept", len(l.hashes))
	}
	for _, i := range []uint64{5 * maxLinks, 4*maxLinks + 1} {
		if h, ok := l.at(i); !ok || h != keystead.Sum(be64(i)) {
			t.Errorf("link %d: %v, %v", i, h, ok)
		}
	}
	if _, ok := l.at(2 * maxLinks); ok {
		t.Error("a link of long ago")
	}
	l.add(9*maxLinks, keystead.Digest{1}) // a snapshot was taken in
	if _, ok := l.at(5 * maxLinks); ok {
		t.Error("a link of before a gap")
	}
}

package replica

import (
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	"go.etcd.io/raft/v3"
)

// alone is the core of a group of one, driven by hand.
type alone struct {
	*Core
	s *Store
}

func newAlone(t *testing.T, l Limits) *alone {
	t.Helper()
	s, err := OpenStore(StoreOptions{FS: vfs.NewMem(), Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Bootstrap(1, []Member{{}}); err != nil {
		t.Fatal(err)
	}
	c, err := NewCore(CoreOptions{Limits: l}, s)
	if err != nil {
		t.Fatal(err)
	}
	a := &alone{c, s}
	for a.Status().State != raft.StateLeader {
		a.Tick()
		a.pump(t)
	}
	return a
}

// pump does all work there is.
func (a *alone) pump(t *testing.T) {
	t.Helper()
	for {
		w, ok := a.Work()
		if !ok {
			return
		}
		if w.Append != nil {
			if err := a.s.Append(w.Append); err != nil {
				t.Fatal(err)
			}
			a.Appended(w.Append)
		}
		if w.Apply != nil {
			applied, err := a.s.Apply(w.Apply)
			if err != nil {
				t.Fatal(err)
			}
			a.Core.Applied(applied)
		}
	}
}

// outcomes proposes n commands at once and returns what became of each.
func (a *alone) outcomes(n, size int) []error {
	out := make([]error, n)
	for i := range out {
		out[i] = errors.New("no outcome")
		a.Propose(&Proposal{Command: make([]byte, size), Done: func(p *Proposal) { out[i] = p.Err }})
	}
	return out
}

// TestOverload: what exceeds the bounds is refused at once, by its reason, and
// what was taken has its outcome; then there is room again.
func TestOverload(t *testing.T) {
	a := newAlone(t, Limits{Proposals: 10, ProposalBytes: 4096, Command: 1000, BatchCount: 4, Batches: 2})
	got := a.outcomes(15, 10)
	a.pump(t)
	for i, err := range got {
		if i < 10 && err != nil || i >= 10 && !errors.Is(err, keystead.ReasonOverloaded) {
			t.Errorf("proposal %d of 15, with room for 10: %v", i, err)
		}
	}
	got = a.outcomes(9, 900) // by bytes: four of them fit
	a.pump(t)
	if n := slices.IndexFunc(got, func(err error) bool { return errors.Is(err, keystead.ReasonOverloaded) }); n != 4 {
		t.Errorf("want the fifth of 900 bytes refused, got %v", got)
	}
	if err := a.outcomes(1, 1001)[0]; !errors.Is(err, keystead.ReasonTooLarge) {
		t.Errorf("an oversized command: %v", err)
	}
	got = a.outcomes(10, 10)
	a.pump(t)
	for _, err := range got {
		if err != nil {
			t.Errorf("after that: %v", err)
		}
	}
	if s := a.Status(); s.Proposals != 0 || a.proposals.queueBytes != 0 || a.proposals.pendBytes != 0 {
		t.Errorf("nothing waits, yet %d proposals, %d and %d bytes are counted", s.Proposals, a.proposals.queueBytes, a.proposals.pendBytes)
	}
}

// TestReadsAreBounded, as proposals are.
func TestReadsAreBounded(t *testing.T) {
	a := newAlone(t, Limits{Reads: 3})
	var got []error
	for range 5 {
		a.Read(&Read{Done: func(r *Read) { got = append(got, r.Err) }})
	}
	a.pump(t)
	refused := 0
	for _, err := range got {
		if errors.Is(err, keystead.ReasonOverloaded) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if len(got) != 5 || refused != 2 {
		t.Errorf("want 5 outcomes, 2 of them overloaded, got %v", got)
	}
}

// TestCloseEndsAll: nothing that waits is left without an outcome.
func TestCloseEndsAll(t *testing.T) {
	a := newAlone(t, Limits{})
	sent := a.outcomes(1, 10)
	a.flush()
	got := a.outcomes(3, 10)
	var read error = errors.New("no outcome")
	a.Read(&Read{Done: func(r *Read) { read = r.Err }})
	a.Close(keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown}))
	for _, err := range append(got, read) {
		if !errors.Is(err, keystead.ReasonShutdown) {
			t.Errorf("want shutdown, got %v", err)
		}
		if errors.Is(err, keystead.ReasonTimeout) {
			t.Errorf("never sent, and yet open: %v", err)
		}
	}
	if !errors.Is(sent[0], keystead.ReasonTimeout) || !errors.Is(sent[0], keystead.ReasonShutdown) {
		t.Errorf("sent, so its effect is open: got %v", sent[0])
	}
}

// TestMembershipChanges: what does not fit is refused, alike on every node.
func TestMembershipChanges(t *testing.T) {
	a := newAlone(t, Limits{})
	for _, tc := range []struct {
		name   string
		change Change
		reason error
	}{
		{"the last voter", Change{Remove: []uint64{1}}, keystead.ReasonChangeRefused},
		{"an id that is no member's", Change{Remove: []uint64{9}}, keystead.ReasonChangeRefused},
		{"a key that is a member's", Change{Add: []Member{{}}}, keystead.ReasonChangeRefused},
		{"a voter promoted", Change{Promote: []uint64{1}}, keystead.ReasonChangeRefused},
		{"an address too long", Change{Add: []Member{{Key: keystead.Sum([]byte("n")), Address: string(make([]byte, 300))}}}, keystead.ReasonChangeRefused},
		{"more than fits", Change{Remove: make([]uint64, 1<<17)}, keystead.ReasonTooLarge},
		{"a learner", Change{Add: []Member{{Key: keystead.Sum([]byte("n"))}}}, nil},
		{"the same learner again", Change{Add: []Member{{Key: keystead.Sum([]byte("n"))}}}, keystead.ReasonChangeRefused},
		{"its removal", Change{Remove: []uint64{2}}, nil},
		{"its removal again", Change{Remove: []uint64{2}}, keystead.ReasonChangeRefused},
	} {
		err := errors.New("no outcome")
		a.Change(tc.change, &Proposal{Done: func(p *Proposal) { err = p.Err }})
		a.pump(t)
		if !errors.Is(err, tc.reason) {
			t.Errorf("%s: want %v, got %v", tc.name, tc.reason, err)
		}
	}
	if m := a.s.Membership(); m.LastID != 2 || len(m.Members) != 1 {
		t.Errorf("got %+v", m)
	}
}

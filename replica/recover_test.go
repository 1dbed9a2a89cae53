package replica

import (
	"errors"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// TestRecoveryAppliesTheWholeLog reopens a group from a disk whose state lags behind
// its log, in which batches are of ids that the recovery gives up: what is in the log
// may have been acknowledged.
func TestRecoveryAppliesTheWholeLog(t *testing.T) {
	fs := vfs.NewMem()
	s := founder(t, fs)
	fill(t, s, 4)
	other := entry(7, 1, "of the other")
	other.Data[8] = 2
	rest := []*pb.Entry{entry(5, 5, "five"), entry(6, 6, "six"), other}
	if err := errors.Join(s.Append(&pb.Message{Entries: rest, Responses: []*pb.Message{{}}}), s.Close()); err != nil {
		t.Fatal(err)
	}
	opts := StoreOptions{FS: fs, Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20}
	refused := errors.New("refused")
	var first, plan RecoveryPlan
	if err := Recover(opts, nil, keystead.Sum([]byte("a")), func(p RecoveryPlan) error { first = p; return refused }); !errors.Is(err, refused) {
		t.Errorf("want the refusal, got %v", err)
	}
	seal := FileSeal{FS: fs, Path: "sealed"}
	if err := Recover(opts, seal, keystead.Sum([]byte("a")), func(p RecoveryPlan) error { plan = p; return nil }); err != nil {
		t.Fatal(err)
	}
	if plan.Last != 7 || !reflect.DeepEqual(plan, first) {
		t.Errorf("a refused recovery changed something: the plan is %+v", plan)
	}
	s = founder(t, fs)
	defer s.Close()
	if err := s.Unseal(seal); err != nil {
		t.Errorf("the node does not start in place: %v", err)
	}
	var got []string
	err := s.View(func(v View) error {
		return v.Scan([]byte("000005"), nil, func(_, value []byte) bool { got = append(got, string(value)); return true })
	})
	if err != nil || len(got) != 3 || got[0] != "five" || got[1] != "six" || got[2] != "of the other" {
		t.Errorf("of the end of the log the state has %q, %v", got, err)
	}
	m := s.Membership()
	if s.Applied() != 7 || s.ID() != 3 || m.LastID != 4 || len(m.Voters()) != 1 || m.Voters()[0] != 3 {
		t.Errorf("applied %d as id %d, members %+v", s.Applied(), s.ID(), m)
	}
	for _, before := range []uint64{1, 2} {
		if _, known := m.ByID(before); known {
			t.Errorf("id %d of before is a member's still", before)
		}
	}
}

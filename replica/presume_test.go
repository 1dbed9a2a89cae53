package replica

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// TestPresumption: what a member may not send changes nothing at this node, whoever it is.
func TestPresumption(t *testing.T) {
	a := newFollower(t, 3)
	if err := a.hear(t, 1, func() *pb.Message { return beat(2, 7, 0) }); err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.Leader != 2 || s.Term != 7 {
		t.Fatalf("want member 2 to lead in term 7, got %+v", s)
	}
	message := func(kind pb.MessageType, from, term uint64) *pb.Message {
		return &pb.Message{Type: kind.Enum(), From: &from, To: new(uint64(1)), Term: &term, Commit: new(uint64(0)), Index: new(uint64(0)), LogTerm: new(uint64(0))}
	}
	var read error
	done := false
	a.Read(&Read{Done: func(r *Read) { read, done = r.Err, true }})
	a.pump(t)
	answer := message(pb.MsgReadIndexResp, 3, 7)
	answer.Index = new(uint64(1))
	answer.Entries = []*pb.Entry{{Data: append(be64(1), be64(a.reads.context)...)}}
	for _, m := range []*pb.Message{
		message(pb.MsgHeartbeat, 3, 7), message(pb.MsgApp, 3, 7), message(pb.MsgTimeoutNow, 3, 7), message(pb.MsgTransferLeader, 3, 0), answer,
	} {
		if err := a.Step(m); err != nil {
			t.Fatal(err)
		}
		a.pump(t)
		if s := a.Status(); s.Leader != 2 || s.Term != 7 || s.State != raft.StateFollower || done {
			t.Fatalf("%v of another member: %+v, read %v %v", m.GetType(), s, done, read)
		}
	}
	answer.From = new(uint64(2))
	if err := a.Step(answer); err != nil || func() bool { a.pump(t); return !done }() || read != nil {
		t.Errorf("the leader's answer to a read: %v %v", done, read)
	}
	if err := a.Step(message(pb.MsgTimeoutNow, 2, 7)); err != nil {
		t.Fatal(err)
	}
	if a.pump(t); a.Status().State == raft.StateFollower {
		t.Error("the leader's word to campaign was not taken")
	}
}

// TestProposalsInOthersNames: a member's batch under another's number would void that
// one's own, and what is no batch would lie in every log.
func TestProposalsInOthersNames(t *testing.T) {
	a := newAlone(t, Limits{})
	last := func() uint64 {
		a.pump(t)
		n, err := a.s.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	propose := func(data []byte) bool {
		before := last()
		if err := a.Step(&pb.Message{Type: pb.MsgProp.Enum(), From: new(uint64(2)), To: new(a.id), Entries: []*pb.Entry{{Data: data}}}); err != nil {
			t.Fatal(err)
		}
		return last() != before
	}
	if !propose(appendHead(nil, 2, 1)) {
		t.Error("a member's own batch was not taken")
	}
	for _, data := range [][]byte{appendHead(nil, 1, 1<<62), {1, 2}, nil, append(appendHead(nil, 2, 1), 99), {2}} {
		if propose(data) {
			t.Errorf("%x was taken into the log", data)
		}
	}
}

// TestAlteredBatch: a leader has other commands under the number of this node's batch. They
// are applied, as everywhere, and what this node proposed is not acknowledged.
func TestAlteredBatch(t *testing.T) {
	for name, rest := range map[string][]byte{"another command": {1, 'y'}, "one more": {1, 'x', 1, 'y'}, "none": {}} {
		q := proposals{maxCount: 10, maxBytes: 1 << 10, batchCount: 10, batchBytes: 1 << 10}
		var got error
		if err := q.add(&Proposal{Command: []byte("x"), Done: func(p *Proposal) { got = p.Err }, deadline: 9}); err != nil {
			t.Fatal(err)
		}
		q.next(1, 0)
		q.applied(appliedBatch{seq: q.seq, rest: rest, results: [][]byte{nil, nil}})
		if !errors.Is(got, keystead.ReasonTimeout) || q.count != 0 || len(q.pending) != 0 {
			t.Errorf("%s: want timeout, got %v", name, got)
		}
	}
}

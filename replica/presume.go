package replica

import (
	"github.com/keystead/keystead/replica/internal/defect"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// presumes reports whether a message is one that its sender may not send, so that a member
// which lies can not have it done by raft, whose members trust each other:
//
//   - nodes hand over leadership by their own will alone: no other asks for it;
//   - only the leader of now, in the term of now, has this node campaign, or says up to
//     where it may read;
//   - once this node follows a leader it takes no other's entries in the same term, unless
//     of whom it voted for itself;
//   - what is proposed is a batch or a change of whom it came from.
func (c *Core) presumes(m *pb.Message) bool {
	if defect.On == defect.Trust {
		return false
	}
	s := c.rn.BasicStatus()
	leads := m.GetFrom() == s.Lead && m.GetTerm() == s.HardState.GetTerm()
	switch m.GetType() {
	case pb.MsgTransferLeader:
		return true
	case pb.MsgTimeoutNow, pb.MsgReadIndexResp:
		return !leads
	case pb.MsgHeartbeat, pb.MsgApp, pb.MsgSnap:
		return m.GetTerm() == s.HardState.GetTerm() && s.Lead != raft.None && !leads && m.GetFrom() != s.HardState.GetVote()
	case pb.MsgProp:
		for _, e := range m.GetEntries() {
			if origin, ok := originOf(e); !ok || origin != m.GetFrom() {
				return true
			}
		}
	}
	return false
}

// originOf returns the member that an entry names as its origin, if it is in the form that
// members propose.
func originOf(e *pb.Entry) (uint64, bool) {
	data, change, ok := payload(e)
	if !ok || len(data) == 0 {
		return 0, false
	}
	origin, _, rest, err := parseHead(data)
	if err == nil && !change {
		_, err = appendCommands(nil, 0, 0, rest)
	}
	return origin, err == nil
}

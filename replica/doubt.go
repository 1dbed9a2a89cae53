package replica

import (
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/defect"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A doubt is what a leader's heartbeats say of this node's log and is not so.
type doubt struct {
	from, term uint64
	entry      uint64 // that this node is said to have acknowledged
	since      uint64 // tick
}

// checkDisk finds out that this node's disk is older than what it acknowledged: a leader's
// heartbeat names as committed an entry that this node said it has, and has not. Any member
// can send a heartbeat, so one is worth nothing. The node stops only if the leader of now
// says so for two election timeouts, in one term, while the entry does not come, another
// member has applied that entry, and this start has taken no entries yet. Until then a
// heartbeat is taken without what it says of the log.
func (c *Core) checkDisk(m *pb.Message) error {
	last, err := c.store.LastIndex()
	if err != nil || m.GetType() != pb.MsgHeartbeat || m.GetCommit() <= last {
		return err
	}
	s := c.rn.BasicStatus()
	claim := doubt{m.GetFrom(), m.GetTerm(), m.GetCommit(), c.tick}
	m.Commit = new(min(s.HardState.GetCommit(), last))
	if c.followed && defect.On != defect.Beats {
		return nil // a leader that had more of this node would have sent nothing that its log takes
	}
	if claim.term != s.HardState.GetTerm() || s.Lead != claim.from {
		return nil // not of the leader of now
	}
	if d := &c.doubt; d.from != claim.from || d.term != claim.term || d.entry <= last {
		c.doubt = claim
		c.opts.Log.Warn("a heartbeat names an entry that this node does not have; it is not believed so far", "leader", claim.from, "entry", claim.entry, "log", last)
	}
	if defect.On != defect.Beats && (c.tick-c.doubt.since < 2*uint64(c.opts.ElectionTicks) || !c.witnessed(claim.from, c.doubt.entry)) {
		return nil
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonDiskRolledBack, Where: c.store.opts.Dir,
		Want: fmt.Sprintf("entry %d, which leader %d says that this node acknowledged, and another member has applied; start with an empty directory, so that the node rejoins as a learner, and keep this one until it votes again", c.doubt.entry, claim.from),
		Got:  fmt.Sprintf("a log up to %d", last)})
}

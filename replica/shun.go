package replica

import (
	"maps"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Shun has the node take no more messages of members with those keys, so that they lead
// nothing, vote for nobody and acknowledge nothing. Who is in the group is not changed.
func (n *Node) Shun(keys map[keystead.Digest]bool) {
	keys = maps.Clone(keys)
	n.in.event(func(c *Core) error { c.Shun(keys); return nil })
}

// Reached tells of a member, by its key, that it says it has applied the log up to an index:
// a second witness to what a leader says of this node's own log.
func (n *Node) Reached(key keystead.Digest, index uint64) {
	n.in.event(func(c *Core) error { c.Reached(key, index); return nil })
}

// Chain returns the chain after the last entry applied, and that entry's index.
func (n *Node) Chain() (Chain, uint64) { return n.store.Chain() }

// Link returns the chain's hash after an entry, if it is one of the last.
func (n *Node) Link(index uint64) (keystead.Digest, bool) { return n.store.Link(index) }

// Shun has the core take no more messages of members with those keys.
func (c *Core) Shun(keys map[keystead.Digest]bool) { c.shunned = keys }

// Reached takes a member's word on how far it has applied the log.
func (c *Core) Reached(key keystead.Digest, index uint64) {
	if _, ok := c.members.ByKey(key); !ok {
		return
	}
	if c.reached == nil {
		c.reached = map[keystead.Digest]uint64{}
	}
	c.reached[key] = max(c.reached[key], index)
}

// witnessed reports whether a member other than that one and this says that it has applied
// the log up to an index. Where there is no third member nobody can be asked, and it is so.
func (c *Core) witnessed(from, index uint64) bool {
	others := 0
	for _, m := range c.members.Members {
		if m.ID == c.id || m.ID == from || c.shunned[m.Key] {
			continue
		}
		if others++; c.reached[m.Key] >= index {
			return true
		}
	}
	return others == 0
}

// shuns reports whether a message is of a member that is shunned.
func (c *Core) shuns(m *pb.Message) bool {
	if len(c.shunned) == 0 {
		return false
	}
	from, ok := c.members.ByID(m.GetFrom())
	return ok && c.shunned[from.Key]
}

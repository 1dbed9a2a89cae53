// Package replica keeps a state machine equal on several nodes: the loop around
// go.etcd.io/raft, its log, transport, snapshots and membership. It knows no
// subsystem by name; whoever wants to be replicated implements [StateMachine].
//
// # Acknowledged
//
// [Node.Propose] returns once the command is committed, which means synced on the
// disks of a majority, and applied on the node that was asked. Any member takes
// proposals; raft forwards them to the leader in batches. [Node.Read] and then
// [Node.View] read linearizably, by ReadIndex and never by a lease, so clocks do
// not matter to what is true, only to when there is an election.
//
// # Parts
//
// A [Core] is the loop without its world: messages, ticks and finished writes go
// in, [Work] comes out. A [Store] is the log in segment files, synced, and the state
// in pebble, which a crash takes back to an older index and the log
// brings forward. A [Node] drives both in real time over a [Transport]; replica/sim
// drives them in simulated time, over a network and disks that fail.
//
// # Trust
//
// Raft stands crashes, lost messages and slow disks, not lying members. What a bad leader
// could do is bounded above this room, by signatures that the state machine checks, and found
// out there: the state chains a hash over all that was applied ([Chain]), which members compare,
// and a member that is proven bad is heard no more ([Node].Shun). A snapshot counts only where a
// majority signed what it holds. Changes of membership must be explained by the state
// ([StoreOptions].Explain), and one member's heartbeat stops nobody. A host can roll back a node's disk, its vote included. So a node
// that restarts without a record of a clean shutdown ([Seal]) rejoins as a learner
// under a new raft id, and is promoted once it has caught up; if a majority
// restarts so, the group stays closed until [Recover] is authorised. A group may
// trust its disks instead ([Options].TrustDisks).
package replica

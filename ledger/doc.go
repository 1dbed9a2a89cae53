// Package ledger is the state machine of a domain: what its nodes agreed on, in
// order, becomes state, a Merkle tree, and proofs.
//
// It is pure. Replicas hand it committed entries ([Machine.Apply]); it hands back
// results, alarms and writes, and reads a store through [Reader]. Time, randomness and
// keys come as arguments. docs/spec/ledger.md specifies the entries, the
// transcripts in testdata explain the protocol by example.
//
// # Entries
//
// Leaves of the tree are the genesis entry, changes of the roster (members and
// nodes), transactions, and effective entries. A [Transaction] was executed once, on one
// node; the others check its conditions and its prefix and apply its writes. An
// [Effective] entry is a [Verdict] on a [Proposal] that a majority of the nodes reached, each by
// itself, and endorsed; the judging function belongs to whoever proposes, and Apply
// checks signatures only, so builds that judge differently raise an [Alarm] and
// never diverge. Ticks, proposals, endorsements and checkpoint signatures are
// in the log but not in the tree, and can not be proven.
//
// # Trust
//
// The replicas are trusted to agree on one order and to lose nothing that was
// acknowledged. That a leader gave two of them two orders, they find out outside of the log
// (package heads). A leader can delay and reorder what it is sent: it can not make up
// a nonce, move the clock ahead without a majority, save up endorsements for longer than the
// [Window], or let two judged entries on one subject both count. Whoever executes
// transactions can write what it likes under its contract's own prefix, and nothing
// elsewhere. A majority of nodes that lie can write anything, save who the members
// and nodes are: members decide that, and a majority of nodes only over node keys.
package ledger

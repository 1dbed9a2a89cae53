// Package heads compares what the nodes of a domain say of their logs and trees. Raft
// takes a leader's word, so a leader that lies can give two followers two logs. Here each
// node signs where it stands, shows that to each other node directly, outside of the log,
// and goes on only while a majority stands where it does.
//
// A [Statement] is signed: a place in the log with the hash over all before it, and a
// tree with its roster. A [Book] keeps what other nodes said and what came of comparing it
// with one's own log ([Own]). [Book.Check] is the gate: it refuses with ledger-forked.
//
// # Who is proven bad
//
// A statement that is not so of one's own log proves nothing: either side may have been
// lied to. A node is proven bad ([Proof]) once it signed, by one key, two statements that
// can not both be true: of one place with two hashes, of one size with two trees, or one
// that parts from a log at a place, and one that agrees with that log there or further on.
// So nodes hand on what others said to them. One made-up root closes nothing:
// its signer only counts no more.
//
// # Trust
//
// Nobody: signatures are checked by the caller, with the keys of the roster that is in force
// in its own state. What another handed on counts as proof, never as agreement. The package is
// pure: time comes as an argument, in milliseconds of a clock that never goes back.
package heads

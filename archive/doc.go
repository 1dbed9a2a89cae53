// Package archive keeps what a verdict was made of, so that it can be computed again.
//
// A Record has the bundle of one judged admission and the names of what else went into
// the verdict. Bundles tell what runs on a machine and whose hardware it is, so a record
// is at rest only Sealed, under a key of its own; whoever destroys that key destroys the
// record. A File is a record together with the policy, roots, reference sets and code
// sets that it was judged by, and the receipt of the admission: Replay needs nothing
// else, and no connection.
//
// The room is pure: it takes randomness, keys and bytes as arguments. Replay trusts the
// digest of the domain's genesis entry alone. It does not trust the record: what the
// verdict was made of is what the endorsed verdict names, and each input is held to its
// digest there.
package archive

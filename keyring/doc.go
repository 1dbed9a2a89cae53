// Package keyring makes the keys of a domain by agreement of its nodes, keeps them
// wrapped on the ledger, and decides to whom one is released.
//
// Every secret comes out of a round (docs/spec/keys.md). The nodes commit to 32
// random bytes each, reveal them once all commitments are on the ledger, and derive
// the secret from all of them. So nobody alone chooses, as long as one contributor is
// honest. An epoch secret is for the nodes alone: contributions to it are sealed to
// each node's wrapping key. A key is wrapped under the epoch secret, and each epoch
// secret under the one that follows, so that whoever holds the newest reads all.
//
// The package is pure. It takes what is on the ledger through [State], randomness as an
// argument (save that HPKE encapsulates with crypto/rand), and gives back what to write
// as data. All nodes come to the same bytes: what is wrapped is wrapped under a key
// of its own, derived for that one plaintext, so a fixed nonce is sound.
//
// It trusts the ledger's versions and the roster that it is handed, and no message:
// each names its node and carries that node's signature.
package keyring

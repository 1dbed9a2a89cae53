// Package receipt proves, offline, that a domain's ledger holds an entry.
//
// A [Receipt] is the entry, its inclusion proof (RFC 6962), a checkpoint that a
// majority of the domain's nodes signed (C2SP tlog-checkpoint), and the chain of
// entries from the genesis to the roster that those nodes are of. Its text form is
// a C2SP tlog-proof (docs/spec/receipt.md). A [Verifier] needs the digest of the genesis entry and
// nothing else: no network, no clock, no ledger.
//
// The package trusts that digest, SHA-256 and Ed25519, and that of every roster in the chain
// a majority of nodes and the members' threshold were honest while it lasted. It
// can not know of a roster that a receipt does not show: whoever does says so by
// [Verifier.RequireRoster]. A receipt of a domain with trust-disks ([Genesis.TrustsDisks]) is worth
// what its disks are.
//
// Each node key after a node's first was certified by the TPM that members signed for, so
// a majority of keys that leaked can not name others in their place. In a domain with
// evidence=none ([Genesis.AsksEvidence]) it can.
package receipt

// Package keystead holds the nouns that every room of the house shares.
//
// Machines earn their keys. A machine shows hardware evidence of what it runs; if
// the evidence passes, it gets what it needs for as long as the proof stays fresh.
//
// # The one flow
//
//	Bundle --appraise--> Verdict --admit--> Lease --keyring, channel, relay--> Grant
//
// A Bundle is bytes as received: nothing in it is believed. A Verdict is a pure
// function of bundle, collateral, reference values, policy and time: no I/O, no
// clock, no randomness, so the same inputs give the same bytes on every node of
// one build. Each type is minted by its own package alone, has no exported
// fields, and denies as a zero value.
//
// # The rooms
//
// Imports point down this ladder only; internal/ladder enforces it.
//
//	0  keystead (this package), key, api
//	1  evidence and its formats, refval and its formats, policy, lock
//	2  appraise, receipt
//	3  admit
//	4  keyring
//	5  ledger, attest, channel, relay, interchange, recorder
//	6  part, and the systems: watch
//	7  archive, replica, collect, fetch, serve, client, console
//	8  node, agent
//	9  cmd/keystead
//
// Rungs 0 to 5 are pure: they take time, randomness and I/O as arguments. The
// others touch the world; part is the seam between a node and the systems on it. A room appears when its first code does, so not all of these
// exist yet; README.md says what does.
//
// Verbs carry trust: Parse is syntax, Verify and Open are cryptography, Appraise
// is policy, Apply is replicated, and Collect, Fetch and Install touch the world.
//
// # Refusals
//
// Whoever is refused gets a [DenyError]: findings of a closed list of reasons,
// each with what was wanted, what was found, and where. Bytes that do not parse
// give a [FormatError] with format, offset and field.
package keystead

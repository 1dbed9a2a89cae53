package receipt

import (
	"crypto/sha256"
	"strconv"

	"github.com/keystead/keystead"
)

// Version is the newest version of the ledger's entry format: the first byte of every
// entry, which is the version that brought its kind. It only ever grows. A node that
// meets a version which it does not know, and which members voted, stops before it applies anything.
//
//	1  kinds 1 to 8
//	2  kinds 9 and 10
//	3  kind 11
//	4  kind 15
//	5  kind 12
//
// From version 4 on, a domain's setting entry-version must have reached a version before
// entries of it count, so that nodes of older builds are not stopped by them.
const Version = newest

// KnownVersion reports whether this build knows an entry's first byte.
func KnownVersion(b byte) bool { return b >= 1 && b <= Version }

// Voted reports whether entries of a version count only where the setting entry-version
// has reached it.
func Voted(version byte) bool { return version >= 4 }

// versionOf returns the version that brought the kind.
func versionOf(k Kind) byte {
	switch {
	case k == KindCall:
		return 5
	case k > KindRenewals:
		return 4
	case k == KindRenewals:
		return 3
	case k >= KindEarlyRenewals:
		return 2
	}
	return 1
}

// MaxEntry is the size of the largest entry, in bytes.
const MaxEntry = 1 << 20

// Kind says what an entry is: its second byte.
type Kind uint8

// The kinds. Only those up to KindEffective, and those from version 2 on, are leaves of the
// Merkle tree, so only they can be proven.
const (
	KindGenesis     Kind = 1 // the first entry of a domain; its digest names the domain
	KindRoster      Kind = 2 // members and nodes from here on
	KindTransaction Kind = 3 // executed once, by one node; its write set
	KindEffective   Kind = 4 // a judged proposal, with the endorsements of a majority

	KindProposal    Kind = 5 // what the nodes are asked to judge
	KindEndorsement Kind = 6 // one node's signature over its verdict
	KindTick        Kind = 7 // times and random values, signed by a majority
	KindCheckpoint  Kind = 8 // one node's signature over a tree head

	KindEarlyRenewals Kind = 9  // KindRenewals of before they said what the TPM's clock was: read, and written no more
	KindSuspension    Kind = 10 // a lease that one node ends
	KindRenewals      Kind = 11 // leases that two nodes prolong

	KindCall Kind = 12 // a contract's call, executed once, by one node; its write set

	KindPosition Kind = 15 // a place in the log at which nodes compare their states, or one node's signed digest of its state there
)

var kindNames = [...]string{KindGenesis: "genesis", KindRoster: "roster", KindTransaction: "transaction", KindEffective: "effective",
	KindProposal: "proposal", KindEndorsement: "endorsement", KindTick: "tick", KindCheckpoint: "checkpoint",
	KindEarlyRenewals: "early renewals", KindSuspension: "suspension", KindRenewals: "renewals", KindCall: "call", KindPosition: "position"}

// String returns the kind's name, such as "transaction".
func (k Kind) String() string {
	if known(k) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// known reports whether a version up to the newest has the kind.
func known(k Kind) bool { return int(k) < len(kindNames) && kindNames[k] != "" }

// Provable reports whether entries of the kind are leaves of the tree.
func (k Kind) Provable() bool {
	return k >= KindGenesis && k <= KindEffective || k >= KindEarlyRenewals && k <= KindCall
}

// HeaderSize is the number of bytes before an entry's body: version and kind.
const HeaderSize = 2

// Header opens an entry of the kind.
func Header(k Kind) []byte { return []byte{versionOf(k), byte(k)} }

// Split reads an entry's version and kind and returns its body, which aliases
// entry. An unknown version is refused with version-unknown.
func Split(entry []byte) (Kind, []byte, error) {
	switch {
	case len(entry) < HeaderSize || len(entry) > MaxEntry:
		return 0, nil, &keystead.FormatError{Format: "entry", Field: "size", Problem: strconv.Itoa(len(entry)) + " bytes; an entry has 2 to " + strconv.Itoa(MaxEntry)}
	case !KnownVersion(entry[0]):
		return 0, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonVersionUnknown, Want: "entry version 1 to " + strconv.Itoa(Version), Got: strconv.Itoa(int(entry[0]))})
	}
	k := Kind(entry[1])
	if !known(k) || entry[0] != versionOf(k) {
		return 0, nil, &keystead.FormatError{Format: "entry", Offset: 1, Field: "kind", Problem: k.String() + " is not of version " + strconv.Itoa(int(entry[0]))}
	}
	return k, entry[HeaderSize:], nil
}

// LeafHash returns the entry's Merkle leaf hash (RFC 6962, section 2.1), which
// is also its transaction id: both are known before the entry is replicated.
func LeafHash(entry []byte) keystead.Digest {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(entry)
	var d keystead.Digest
	h.Sum(d[:0])
	return d
}

// Majority returns how many of n nodes are more than half.
func Majority(n int) int { return n/2 + 1 }

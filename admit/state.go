package admit

import (
	"github.com/keystead/keystead"
)

// State is what a node has agreed with the others, at one point: a view of the
// ledger. ledger.View is one.
type State interface {
	// Judged returns what a judged key holds; a zero Value if it is absent.
	Judged(key string) (Value, error)
	// Founding returns a setting of the genesis entry, or "".
	Founding(setting string) (string, error)
	// Clock returns the domain clock in Unix milliseconds.
	Clock() (uint64, error)
	// Renewal returns the last renewal of a host's lease; zero if there is none.
	Renewal(host string) (Renewal, error)
	// Suspension returns the last suspension of a host's lease; zero if there is none.
	Suspension(host string) (Suspension, error)
}

// Value is what a key of the ledger holds.
type Value struct {
	Version uint64 // of the entry that wrote it: its leaf plus one; 0 for an absent key
	Data    []byte
}

// Renewal is a lease's last renewal.
type Renewal struct {
	Lease   uint64          // version of the lease that it renews
	Issued  uint64          // time of the tick that gave the evidence's nonce, Unix milliseconds
	Until   uint64          // likewise
	Verdict keystead.Digest // on the evidence

	Restarts uint32 // what the TPM said, as in appraise.Boot
	Clock    uint64
	Resumed  bool // the restarts are more than at the evidence before
}

// Suspension is the end of a lease before its time.
type Suspension struct {
	Lease   uint64 // version of the lease that it ends
	Node    string // whose word it is
	Reason  string
	Verdict keystead.Digest // on the evidence that failed; zero if there was none
	Time    uint64          // domain clock when it took effect
}

// ends reports whether the suspension ends a lease: the one that it names, and every
// lease on evidence from before it. Else a machine that was suspended would be admitted
// again by the good evidence that it showed just before.
func (x *Suspension) ends(version, issued uint64) bool {
	return x.Lease != 0 && (x.Lease == version || x.Time >= issued)
}

// The judged types of this room: they own the judged keys that start with their name
// and a slash.
const (
	TypeSetting   = "setting"   // subject: its name
	TypeObject    = "object"    // subject: its digest
	TypeTerms     = "terms"     // subject: the role
	TypeEnrolment = "enrolment" // subject: the host's name
	TypeDenial    = "denial"    // subject: ek/DIGEST, issuer/DIGEST or firmware/VERSION
	TypeLease     = "lease"     // subject: the host's name
)

// The judged keys.
func settingKey(name string) string        { return TypeSetting + "/" + name }
func objectKey(d keystead.Digest) string   { return TypeObject + "/" + d.String() }
func termsKey(role string) string          { return TypeTerms + "/" + role }
func enrolmentKey(host string) string      { return EnrolmentPrefix + host }
func identityKey(d keystead.Digest) string { return TypeEnrolment + "/identity/" + d.String() }
func denialKey(subject string) string      { return TypeDenial + "/" + subject }

// The prefixes of judged keys under which all hosts are listed.
const (
	EnrolmentPrefix = TypeEnrolment + "/host/" // and the host's name: the enrolment's text
	LeasePrefix     = TypeLease + "/host/"     // and the host's name: the lease's Record
)

// LeaseKey returns the judged key of a host's lease. Its version is the lease's.
func LeaseKey(host string) string { return LeasePrefix + host }

// VerdictKey returns the judged key of the verdict by which a host was admitted. Its
// version is the lease's.
func VerdictKey(host string) string { return TypeLease + "/verdict/" + host }

// Ruling is what a node that judges endorses: the content of its verdict, and what is
// written when a majority says the same. Keys start with the judged type and a slash.
type Ruling struct {
	Content []byte
	Writes  []Write
}

// Write puts a value at a judged key, or deletes the key.
type Write struct {
	Key    string
	Delete bool
	Value  []byte
}

// Objects returns the bytes of an object by their digest; nil if it is not at hand.
// What it returns is held to the digest.
type Objects func(keystead.Digest) ([]byte, error)

package receipt

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// Bounds of a roster.
const (
	maxMembers = 64
	maxNodes   = 64
	maxName    = 64
	maxNote    = 64 << 10 // bytes of a genesis or roster note
)

// Node is one node of a domain: its name, which stays; its signing key, which
// changes whenever the node boots; and the attestation key of its TPM, which members
// signed for and which certifies the others.
type Node struct {
	Name string
	Key  key.NodePublic
	AK   key.AKDigest // none only in a domain that asks no evidence
}

// Roster is who makes up a domain at one point: its node set, and the members
// who govern it. Of the members, Threshold must sign a change.
type Roster struct {
	Threshold int
	Members   []key.MemberPublic // sorted by text
	Nodes     []Node             // sorted by name
}

// Node returns the node of that name.
func (r *Roster) Node(name string) (Node, bool) {
	i, ok := slices.BinarySearchFunc(r.Nodes, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return Node{}, false
	}
	return r.Nodes[i], true
}

// Majority returns how many of the roster's nodes are more than half.
func (r *Roster) Majority() int { return Majority(len(r.Nodes)) }

func (r *Roster) appendText(b []byte) []byte {
	b = fmt.Appendf(b, "threshold %d\n", r.Threshold)
	for _, m := range r.Members {
		b = fmt.Appendf(b, "member %s\n", m)
	}
	for _, n := range r.Nodes {
		b = fmt.Appendf(b, "node %s %s %s\n", n.Name, n.Key, n.AK)
	}
	return b
}

// normal sorts the roster and says what is wrong with it, or "".
func (r *Roster) normal() string {
	slices.SortFunc(r.Members, func(a, b key.MemberPublic) int { return strings.Compare(a.String(), b.String()) })
	slices.SortFunc(r.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	keys := map[string]string{}
	take := func(name, text string) string { // text ends in a public key in base64
		k, _ := base64.StdEncoding.DecodeString(text[max(0, len(text)-44):])
		k = k[max(0, len(k)-len(key.NodePublic{})):]
		if other, twice := keys[string(k)]; twice {
			return fmt.Sprintf("%s and %s have the same key", other, name)
		}
		keys[string(k)] = name
		return ""
	}
	for i, m := range r.Members {
		if m == (key.MemberPublic{}) {
			return "an empty member key"
		}
		if i > 0 && r.Members[i-1].Name() == m.Name() {
			return fmt.Sprintf("member %s stands there twice", m.Name())
		}
		if problem := take(m.Name(), m.String()); problem != "" {
			return problem
		}
	}
	machines := map[key.AKDigest]string{}
	for i, n := range r.Nodes {
		if !validName(n.Name) {
			return fmt.Sprintf("node %.80q: names have 1 to %d of a-z, 0-9, dot and dash", n.Name, maxName)
		}
		if problem := take(n.Name, n.Key.String()); problem != "" {
			return problem
		}
		if i > 0 && r.Nodes[i-1].Name == n.Name {
			return fmt.Sprintf("node %s stands there twice", n.Name)
		}
		if other, twice := machines[n.AK]; twice && !n.AK.None() {
			return fmt.Sprintf("%s and %s have the same attestation key: one machine can not be two nodes", other, n.Name)
		}
		machines[n.AK] = n.Name
	}
	switch {
	case len(r.Members) == 0 || len(r.Members) > maxMembers:
		return fmt.Sprintf("%d members; a domain has 1 to %d", len(r.Members), maxMembers)
	case len(r.Nodes) == 0 || len(r.Nodes) > maxNodes:
		return fmt.Sprintf("%d nodes; a domain has 1 to %d", len(r.Nodes), maxNodes)
	case r.Threshold < 1 || r.Threshold > len(r.Members):
		return fmt.Sprintf("threshold %d of %d members", r.Threshold, len(r.Members))
	}
	return ""
}

func validName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-')
	})
}

// The kinds of signed text that lead from a domain's genesis to its roster of
// now: the first line of each.
const (
	kindGenesis = string(key.KindGenesis)
	kindRoster  = string(key.KindRoster) // signed by members: may change everything
	kindRekey   = "keystead-rekey/1"     // signed by a majority of nodes: may change node keys
)

// Change is a roster that follows another.
type Change struct {
	Domain   keystead.Digest
	Sequence uint64          // the genesis roster is 0, the first change 1
	After    keystead.Digest // of the entry that made the roster before
	Rekey    bool            // signed by nodes, and changes nothing but node keys
	Roster   Roster

	Certificates []Certificate // of a rekey; sorted by name
}

// Text returns the change as the text that members (or, for a rekey, nodes) sign
// as a C2SP signed note (docs/spec/ledger.md).
func (c *Change) Text() ([]byte, error) {
	if problem := c.Roster.normal(); problem != "" {
		return nil, &keystead.FormatError{Format: "roster", Field: "roster", Problem: problem}
	}
	kind := kindRoster
	if c.Rekey {
		kind = kindRekey
	}
	b := fmt.Appendf(nil, "%s\ndomain %s\nsequence %d\nafter %s\n", kind, Origin(c.Domain), c.Sequence, c.After)
	b, problem := c.certificates(c.Roster.appendText(b))
	if problem != "" {
		return nil, &keystead.FormatError{Format: "roster", Field: "certify", Problem: problem}
	}
	return b, nil
}

// ParseChange reads a roster entry without checking its signatures.
func ParseChange(entry []byte) (Change, error) {
	text, _, err := splitNote(entry, KindRoster)
	if err != nil {
		return Change{}, err
	}
	var c Change
	l := lines{format: "roster", rest: text}
	switch kind := l.line("kind"); kind {
	case kindRoster:
	case kindRekey:
		c.Rekey = true
	default:
		l.fail("kind", fmt.Sprintf("%.40q is neither %s nor %s", kind, kindRoster, kindRekey))
	}
	c.Domain = l.origin("domain")
	c.Sequence = l.number("sequence")
	c.After = l.digest("after")
	l.roster(&c.Roster)
	c.Certificates = l.certificates()
	l.end()
	if l.err != nil {
		return Change{}, l.err
	}
	if again, err := c.Text(); err != nil || !bytes.Equal(again, text) {
		return Change{}, &keystead.FormatError{Format: "roster", Field: "text", Problem: "is not in its one canonical spelling"}
	}
	return c, nil
}

// VerifyChange checks that entry is a roster change of this genesis's domain that may
// follow the roster old, made by the entry of digest after at sequence-1. The
// members' threshold signed it, and every node has a TPM if the domain asks for
// evidence; or it is a rekey: a majority of the old nodes signed it, and of each node
// whose key changes the TPM that old names certified the new key.
func (g *Genesis) VerifyChange(entry []byte, domain keystead.Digest, sequence uint64, after keystead.Digest, old *Roster) (Change, error) {
	c, err := follows(entry, domain, sequence, after)
	if err != nil {
		return Change{}, err
	}
	if !c.Rekey {
		if err := verifyMembers(entry, KindRoster, old, c.where()); err != nil {
			return Change{}, err
		}
		return c, g.checkMachines(&c.Roster, c.where())
	}
	if !sameButKeys(*old, c.Roster) {
		return Change{}, c.beyondKeys()
	}
	if err := verifyNodes(entry[HeaderSize:], old, c.where()); err != nil {
		return Change{}, err
	}
	return c, c.verifyCertificates(old, c.where())
}

// CheckRekey checks all of a rekey but the nodes' signatures, as a node does before it
// adds its own. Text is the rekey's text.
func CheckRekey(text []byte, domain keystead.Digest, sequence uint64, after keystead.Digest, old *Roster) (Change, error) {
	c, err := follows(append(append(Header(KindRoster), text...), '\n'), domain, sequence, after)
	switch {
	case err != nil:
		return Change{}, err
	case !c.Rekey || !sameButKeys(*old, c.Roster):
		return Change{}, c.beyondKeys()
	}
	return c, c.verifyCertificates(old, c.where())
}

func (c *Change) where() string { return "roster " + strconv.FormatUint(c.Sequence, 10) }

func (c *Change) beyondKeys() error {
	return deny(keystead.ReasonRosterBroken, c.where(), "a rekey changes node keys only", "a change of members, nodes or attestation keys that members did not sign")
}

// follows reads a change of the domain that has its place after the entry of digest
// after. It checks no signature.
func follows(entry []byte, domain keystead.Digest, sequence uint64, after keystead.Digest) (Change, error) {
	c, err := ParseChange(entry)
	if err != nil {
		return Change{}, err
	}
	switch {
	case c.Domain != domain:
		return Change{}, deny(keystead.ReasonDomainMismatch, c.where(), Origin(domain), Origin(c.Domain))
	case c.Sequence != sequence:
		return Change{}, deny(keystead.ReasonRosterBroken, c.where(), "sequence "+strconv.FormatUint(sequence, 10), strconv.FormatUint(c.Sequence, 10))
	case c.After != after:
		return Change{}, deny(keystead.ReasonRosterBroken, c.where(), "a change after entry "+after.String(), c.After.String())
	}
	return c, nil
}

func sameButKeys(a, b Roster) bool {
	return a.Threshold == b.Threshold && slices.Equal(a.Members, b.Members) &&
		slices.EqualFunc(a.Nodes, b.Nodes, func(x, y Node) bool { return x.Name == y.Name && x.AK == y.AK })
}

// NoteEntry makes a genesis or roster entry of its signed note.
func NoteEntry(signed []byte) ([]byte, error) {
	k := KindRoster
	if bytes.HasPrefix(signed, []byte(kindGenesis+"\n")) {
		k = KindGenesis
	}
	entry := append(Header(k), signed...)
	_, _, err := splitNote(entry, k)
	return entry, err
}

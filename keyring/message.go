package keyring

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
)

// Contract owns the records of rounds on the ledger. Only nodes write it: clients can
// write contract kv alone.
const Contract = "agreement"

// Prefixes of the records.
const (
	NodePrefix  = Contract + "/node/"  // announcements
	RoundPrefix = Contract + "/round/" // then ROUND in hex, then /open, /commit/NODE, /reveal/NODE
)

// Kinds of values, each after the version of the format.
const (
	formatVersion = 1
	publicVersion = 2 // of kindVersion, with a public half

	kindAnnouncement = 1
	kindOpen         = 2
	kindCommit       = 3
	kindReveal       = 4
	kindEpoch        = 5
	kindVersion      = 6
	kindHeld         = 7
)

const maxNodes = 64 // as many as a roster has

// RoundID names a round; its proposer draws it at random.
type RoundID [16]byte

// String returns it in hex.
func (r RoundID) String() string { return hex.EncodeToString(r[:]) }

// OpenKey is where the opening of a round stands.
func (r RoundID) OpenKey() string { return RoundPrefix + r.String() + "/open" }

// ParseOpenKey reads what OpenKey returns.
func ParseOpenKey(key string) (r RoundID, ok bool) {
	text, ok := strings.CutPrefix(key, RoundPrefix)
	text, ok2 := strings.CutSuffix(text, "/open")
	b, err := hex.DecodeString(text)
	if !ok || !ok2 || err != nil || len(b) != len(r) {
		return RoundID{}, false
	}
	copy(r[:], b)
	return r, r.OpenKey() == key
}

// CommitKey is where a node's commitment stands.
func (r RoundID) CommitKey(node string) string { return RoundPrefix + r.String() + "/commit/" + node }

// RevealKey is where a node's contribution stands, encrypted.
func (r RoundID) RevealKey(node string) string { return RoundPrefix + r.String() + "/reveal/" + node }

// Opening starts a round.
type Opening struct {
	Round     RoundID
	Purpose   Purpose
	Epoch     uint64         // whose secret is in use; 0 before the first
	Roster    uint64         // sequence of the roster in force
	Nodes     []Announcement // of those who contribute, by name
	Proposer  string
	Signature key.NodeSignature
}

func header(kind byte) []byte { return []byte{formatVersion, kind} }

// start begins to read a value of the kind.
func start(format string, kind byte, b []byte) *cursor.Cursor {
	c, _ := startUpTo(format, kind, b, formatVersion)
	return c
}

// startUpTo is start for a kind that has versions up to the newest, and returns which it is.
func startUpTo(format string, kind byte, b []byte, newest byte) (c *cursor.Cursor, version byte) {
	c = cursor.New(format, binary.BigEndian, b)
	if version = c.U8("version"); c.Err() == nil && (version < formatVersion || version > newest) {
		c.Fail("version", "%d is not known", version)
	}
	if k := c.U8("kind"); c.Err() == nil && k != kind {
		c.Fail("kind", "is %d, not %d", k, kind)
	}
	return c, version
}

func digest(c *cursor.Cursor, field string) (d keystead.Digest) {
	copy(d[:], c.Bytes(len(d), field))
	return d
}

func signature(c *cursor.Cursor) (s key.NodeSignature) {
	copy(s[:], c.Bytes(len(s), "signature"))
	return s
}

// count reads a two-byte number of nodes.
func count(c *cursor.Cursor, field string) int {
	n := int(c.U16(field))
	if n > maxNodes {
		c.Fail(field, "%d, at most %d are accepted", n, maxNodes)
		return 0
	}
	return n
}

func verify(k key.NodePublic, message []byte, s key.NodeSignature, what, node string) error {
	if !k.Verify(message, s) {
		return deny(keystead.ReasonSignatureInvalid, what, "a signature by "+node, "another")
	}
	return nil
}

func (o *Opening) body() []byte {
	b := append(header(kindOpen), o.Round[:]...)
	b = o.Purpose.append(b)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, o.Epoch), o.Roster)
	b = binary.BigEndian.AppendUint16(b, uint16(len(o.Nodes)))
	for i := range o.Nodes {
		b = cursor.AppendSized16(b, o.Nodes[i].Bytes())
	}
	return cursor.AppendSized16(b, o.Proposer)
}

// Bytes returns the one encoding.
func (o *Opening) Bytes() []byte { return append(o.body(), o.Signature[:]...) }

// Sign signs the opening as its proposer.
func (o *Opening) Sign(k Signer, domain keystead.Digest) {
	o.Signature = k.Sign(append(label("round-open", domain), o.body()...))
}

// Verify checks that the key signed it, for the domain.
func (o *Opening) Verify(k key.NodePublic, domain keystead.Digest) error {
	return verify(k, append(label("round-open", domain), o.body()...), o.Signature, "opening", o.Proposer)
}

// ID returns the digest that every message of the round names, so that none serves in
// another: it covers domain, round, purpose, nodes and wrapping keys.
func (o *Opening) ID(domain keystead.Digest) keystead.Digest {
	return keystead.Sum(append(label("round", domain), o.body()...))
}

// ParseOpening reads an opening; it checks no signature.
func ParseOpening(b []byte) (o Opening, err error) {
	c := start("opening", kindOpen, b)
	copy(o.Round[:], c.Bytes(len(o.Round), "round"))
	o.Purpose = readPurpose(c)
	o.Epoch, o.Roster = c.U64("epoch"), c.U64("roster")
	for range count(c, "nodes") {
		if c.Err() != nil {
			break
		}
		o.Nodes = append(o.Nodes, readContributor(c))
	}
	for i := 1; i < len(o.Nodes); i++ {
		if o.Nodes[i-1].Node >= o.Nodes[i].Node {
			c.Fail("nodes", "%s does not follow %s", o.Nodes[i].Node, o.Nodes[i-1].Node)
		}
	}
	if c.Err() == nil && len(o.Nodes) == 0 {
		c.Fail("nodes", "are none")
	}
	o.Proposer = name(c, "proposer")
	o.Signature = signature(c)
	c.End()
	return o, c.Err()
}

func readContributor(c *cursor.Cursor) (a Announcement) {
	raw := c.Sized16(2048, "announcement")
	if c.Err() != nil {
		return a
	}
	a, err := ParseAnnouncement(raw)
	if err != nil {
		c.Fail("announcement", "%v", err)
	}
	return a
}

// names returns the contributors' names.
func (o *Opening) names() (out []string) {
	for _, n := range o.Nodes {
		out = append(out, n.Node)
	}
	return out
}

// contributor returns the place of a node, or -1.
func (o *Opening) contributor(node string) int {
	return slices.IndexFunc(o.Nodes, func(a Announcement) bool { return a.Node == node })
}

// commit is a node's commitment to its contribution.
type commit struct {
	round      keystead.Digest // Opening.ID
	node       string
	commitment keystead.Digest
	signature  key.NodeSignature
}

func (m *commit) body() []byte {
	b := cursor.AppendSized16(append(header(kindCommit), m.round[:]...), m.node)
	return append(b, m.commitment[:]...)
}

func (m *commit) bytes() []byte { return append(m.body(), m.signature[:]...) }

func parseCommit(b []byte) (m commit, err error) {
	c := start("commit", kindCommit, b)
	m.round, m.node, m.commitment = digest(c, "round"), name(c, "node"), digest(c, "commitment")
	m.signature = signature(c)
	c.End()
	return m, c.Err()
}

// reveal is a node's contribution: for an epoch sealed to each contributor, in their
// order; for a key once, under the epoch secret.
type reveal struct {
	round     keystead.Digest
	node      string
	sealed    [][]byte
	signature key.NodeSignature
}

func (m *reveal) body() []byte {
	b := cursor.AppendSized16(append(header(kindReveal), m.round[:]...), m.node)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.sealed)))
	for _, s := range m.sealed {
		b = cursor.AppendSized16(b, s)
	}
	return b
}

func (m *reveal) bytes() []byte { return append(m.body(), m.signature[:]...) }

func parseReveal(b []byte) (m reveal, err error) {
	c := start("reveal", kindReveal, b)
	m.round, m.node = digest(c, "round"), name(c, "node")
	for range count(c, "seals") {
		if c.Err() == nil {
			m.sealed = append(m.sealed, c.Sized16(sealedSize, "seal"))
		}
	}
	m.signature = signature(c)
	c.End()
	return m, c.Err()
}

// commitment hides a contribution and binds its node to it.
func commitment(round keystead.Digest, node string, contribution []byte) keystead.Digest {
	b := cursor.AppendSized16(append([]byte("keystead contribution/1\n"), round[:]...), node)
	return keystead.Sum(append(b, contribution...))
}

// about names one contribution on its way: of whom, to whom, and which.
func about(use string, round keystead.Digest, from, to string, c keystead.Digest) []byte {
	b := append(fmt.Appendf(nil, "keystead %s/1\n", use), round[:]...)
	b = cursor.AppendSized16(cursor.AppendSized16(b, from), to)
	return append(b, c[:]...)
}

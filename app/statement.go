package app

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/cursor"
)

// statementMagic opens a statement and has its version. It only ever grows:
//
//	1  all fields of Statement
const statementMagic = "keystead-application/1\n"

// Bounds of a statement, in bytes.
const (
	MaxStatement  = 128 << 10
	ChallengeSize = 32
	maxHost       = 256
	maxMappings   = 2 * maxLibraries
	maxKeys       = 8
	maxKey        = 2048
	maxProof      = 256
	maxAttributes = 32
	maxAttribute  = 1024
	maxSubject    = 512 // signature of the subject key
)

// A Use is what a statement is made for.
type Use string

// The uses. A statement for one is worthless for another.
const (
	UseRelease  Use = "release"  // a key is sealed to a wrapping key of the application
	UseRelay    Use = "relay"    // a relay's vouching
	UseMember   Use = "member"   // a member of a network
	UseCall     Use = "call"     // a caller of contracts
	UseRecorder Use = "recorder" // a recorder's right to write
	UseCourier  Use = "courier"  // a courier's right to deliver
	UseIdentity Use = "identity" // an X.509-SVID for the application
)

var uses = []Use{UseRelease, UseRelay, UseMember, UseCall, UseRecorder, UseCourier, UseIdentity}

// A Coverage says how memory was looked at.
type Coverage string

// The coverages. None covers relocated read-only data (RELRO), writable data, or code
// that is made while the program runs.
const (
	CoverageNone   Coverage = "none"   // level peer: memory was not looked at
	CoveragePages  Coverage = "pages"  // the file's own pages, none of them changed in memory
	CoverageMemory Coverage = "memory" // the same, and the memory itself was read
)

var coverages = []Coverage{CoverageNone, CoveragePages, CoverageMemory}

// A Mapping is a library or loader whose code is in the process.
type Mapping struct {
	Name string          // its own name (DT_SONAME), or the loader's
	File keystead.Digest // of the whole file
}

// A Key is a public key that a statement binds to the application.
type Key struct {
	Algorithm Algorithm
	Public    []byte
	Proof     []byte // a signature by the key over Possession; empty for keys that are sealed to
}

// An Attribute is a further word of the application about itself.
type Attribute struct{ Name, Value string }

// A Statement is what the agent of a host says of one process, once. It is signed by the
// subject key of the host's lease, and as good as the evidence for that host.
type Statement struct {
	Domain    keystead.Digest // of the domain's genesis entry
	Host      string
	Lease     uint64 // version of the host's lease
	Boot      process.BootID
	Challenge [ChallengeSize]byte // the node's
	Use       Use
	Level     process.Level
	Coverage  Coverage
	Frozen    bool   // the process was frozen from the measurement on until this was composed
	UID       uint32 // effective
	Inode     uint64 // of the process in pidfs: no other process of this boot has it
	Program   Measured
	Note      *Note     // what the program carries; nil at level peer for one that is not signed
	Mappings  []Mapping // ascending by name and digest
	Keys      []Key
	Attribute []Attribute // ascending by name, each once
}

// Name is the application's; empty for one that is not signed.
func (s *Statement) Name() string {
	if s.Note == nil {
		return ""
	}
	return s.Note.Name
}

// body returns what is signed, after its context.
func (s *Statement) body() ([]byte, error) {
	b := append([]byte(statementMagic), s.Domain[:]...)
	b = cursor.AppendSized16(b, s.Host)
	b = binary.BigEndian.AppendUint64(b, s.Lease)
	b = append(append(b, s.Boot[:]...), s.Challenge[:]...)
	b = cursor.AppendSized16(b, string(s.Use))
	b = append(b, byte(s.Level))
	b = cursor.AppendSized16(b, string(s.Coverage))
	b = append(b, flag(s.Frozen))
	b = binary.BigEndian.AppendUint32(b, s.UID)
	b = binary.BigEndian.AppendUint64(b, s.Inode)
	b = append(append(b, s.Program.File[:]...), s.Program.Text[:]...)
	var note []byte
	if s.Note != nil {
		var err error
		if note, err = s.Note.Encode(); err != nil {
			return nil, err
		}
	}
	b = cursor.AppendSized16(b, note)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Mappings)))
	for _, m := range s.Mappings {
		b = append(cursor.AppendSized16(b, m.Name), m.File[:]...)
	}
	b = append(b, byte(len(s.Keys)))
	for _, k := range s.Keys {
		b = cursor.AppendSized16(b, string(k.Algorithm))
		b = cursor.AppendSized16(b, k.Public)
		b = cursor.AppendSized16(b, k.Proof)
	}
	b = append(b, byte(len(s.Attribute)))
	for _, a := range s.Attribute {
		b = cursor.AppendSized16(b, a.Name)
		b = cursor.AppendSized16(b, a.Value)
	}
	return b, nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// parseStatement reads a statement, and returns the signed bytes and the signature.
// It fails with a *keystead.FormatError. There is one spelling of each statement.
func parseStatement(raw []byte) (s *Statement, body, signature []byte, err error) {
	c := cursor.New("application-statement", binary.BigEndian, raw)
	if len(raw) > MaxStatement {
		c.Fail("size", "is %d bytes, at most %d are accepted", len(raw), MaxStatement)
	}
	if magic := c.Bytes(len(statementMagic), "magic"); c.Err() == nil && string(magic) != statementMagic {
		c.Fail("magic", "is %q, want %q", magic, statementMagic)
	}
	s = &Statement{}
	copy(s.Domain[:], c.Bytes(len(s.Domain), "domain"))
	s.Host = string(c.Sized16(maxHost, "host"))
	s.Lease = c.U64("lease")
	copy(s.Boot[:], c.Bytes(len(s.Boot), "boot id"))
	copy(s.Challenge[:], c.Bytes(ChallengeSize, "challenge"))
	s.Use = Use(c.Sized16(16, "use"))
	s.Level = process.Level(c.U8("level"))
	s.Coverage = Coverage(c.Sized16(16, "coverage"))
	frozen := c.U8("frozen")
	s.Frozen = frozen == 1
	s.UID, s.Inode = c.U32("uid"), c.U64("inode")
	copy(s.Program.File[:], c.Bytes(len(s.Program.File), "program"))
	copy(s.Program.Text[:], c.Bytes(len(s.Program.Text), "text"))
	note := c.Sized16(MaxNote, "note")
	s.readMappings(c)
	s.readKeys(c)
	s.readAttributes(c)
	body = raw[:c.Offset()]
	signature = c.Sized16(maxSubject, "signature")
	c.End()
	s.check(c, frozen)
	if c.Err() != nil {
		return nil, nil, nil, c.Err()
	}
	if len(note) > 0 {
		if s.Note, err = ParseNote(note); err != nil {
			return nil, nil, nil, err
		}
	}
	return s, body, signature, s.checkLevel()
}

func (s *Statement) readMappings(c *cursor.Cursor) {
	count := int(c.U16("mappings"))
	if count > maxMappings {
		c.Fail("mappings", "are %d, at most %d are accepted", count, maxMappings)
	}
	for i := 0; i < count && c.Err() == nil; i++ {
		m := Mapping{Name: string(c.Sized16(maxSymbol, "mapping"))}
		copy(m.File[:], c.Bytes(len(m.File), "mapping"))
		if c.Err() == nil && (!libraryName(m.Name) || i > 0 && m.compare(s.Mappings[i-1]) <= 0) {
			c.Fail("mapping", "%.80q is no name of a file, or out of order", m.Name)
		}
		s.Mappings = append(s.Mappings, m)
	}
}

func (m Mapping) compare(o Mapping) int {
	if c := strings.Compare(m.Name, o.Name); c != 0 {
		return c
	}
	return slices.Compare(m.File[:], o.File[:])
}

func (s *Statement) readKeys(c *cursor.Cursor) {
	count := int(c.U8("keys"))
	if count > maxKeys {
		c.Fail("keys", "are %d, at most %d are accepted", count, maxKeys)
	}
	for i := 0; i < count && c.Err() == nil; i++ {
		s.Keys = append(s.Keys, Key{Algorithm: Algorithm(c.Sized16(32, "algorithm")),
			Public: slices.Clone(c.Sized16(maxKey, "public key")), Proof: slices.Clone(c.Sized16(maxProof, "proof"))})
	}
}

func (s *Statement) readAttributes(c *cursor.Cursor) {
	count := int(c.U8("attributes"))
	if count > maxAttributes {
		c.Fail("attributes", "are %d, at most %d are accepted", count, maxAttributes)
	}
	for i := 0; i < count && c.Err() == nil; i++ {
		a := Attribute{string(c.Sized16(64, "attribute")), string(c.Sized16(maxAttribute, "value"))}
		if c.Err() == nil && (CheckName(a.Name) != nil || i > 0 && s.Attribute[i-1].Name >= a.Name || badValue(a.Value)) {
			c.Fail("attribute", "%.80q is no name, out of order, or has a value that is not printable ASCII", a.Name)
		}
		s.Attribute = append(s.Attribute, a)
	}
}

func badValue(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f })
}

func (s *Statement) check(c *cursor.Cursor, frozen byte) {
	switch {
	case c.Err() != nil:
	case badHost(s.Host):
		c.Fail("host", "%.80q is no name", s.Host)
	case !slices.Contains(uses, s.Use):
		c.Fail("use", "%q is not one of %q", s.Use, uses)
	case !slices.Contains(coverages, s.Coverage):
		c.Fail("coverage", "%q is not one of %q", s.Coverage, coverages)
	case frozen > 1:
		c.Fail("frozen", "is %d", frozen)
	}
}

// checkLevel refuses what no agent says: a level without what it stands for.
func (s *Statement) checkLevel() error {
	fail := func(field, problem string) error {
		return &keystead.FormatError{Format: "application-statement", Field: field, Problem: problem}
	}
	switch {
	case s.Level < process.Peer || s.Level > process.Launched:
		return fail("level", "is none")
	case s.Program.File.IsZero() || s.Inode == 0:
		return fail("program", "has no digest, or the process no inode")
	case s.Level > process.Peer && (s.Note == nil || s.Coverage == CoverageNone):
		return fail("level", "is above peer, without a note or without coverage")
	case s.Level == process.Peer && (s.Coverage != CoverageNone || s.Frozen || len(s.Mappings) > 0 || !s.Program.Text.IsZero()):
		return fail("level", "is peer, which says nothing of memory")
	}
	return nil
}

package ledger

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Bounds of judged entries.
const (
	maxSubject = 256       // bytes
	maxInputs  = 256       // digests
	maxContent = 512 << 10 // bytes of a proposal's or verdict's content
)

// Proposal asks the nodes to judge something. It changes nothing.
type Proposal struct {
	ID      [16]byte // random, so that one thing can be proposed again
	Type    string   // names the judging function, such as "setting"; owns the judged keys that start with it and "/"
	Subject string   // what is judged, such as "lease-seconds"
	Base    uint64   // version of the subject that the proposer saw, 0 for none
	Inputs  []keystead.Digest
	Content []byte // what the judging function reads; the ledger does not
}

// Entry returns the proposal as an entry. The entry's digest (keystead.Sum) names the proposal.
func (p *Proposal) Entry() ([]byte, error) {
	b := append(receipt.Header(receipt.KindProposal), p.ID[:]...)
	b = appendSubject(b, p.Type, p.Subject, p.Base)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Inputs)))
	for _, d := range p.Inputs {
		b = append(b, d[:]...)
	}
	b = cursor.AppendSized32(b, p.Content)
	_, err := ParseProposal(b)
	return b, err
}

func appendSubject(b []byte, kind, subject string, base uint64) []byte {
	return binary.BigEndian.AppendUint64(cursor.AppendSized16(cursor.AppendSized16(b, kind), subject), base)
}

func readSubject(c *cursor.Cursor) (kind, subject string, base uint64) {
	kind = string(name(c, "type"))
	s := c.Sized16(maxSubject, "subject")
	for _, ch := range s {
		if ch <= ' ' || ch > '~' {
			c.Fail("subject", "%.64q has characters that are not printable ASCII", s)
		}
	}
	if c.Err() == nil && len(s) == 0 {
		c.Fail("subject", "is empty")
	}
	return kind, string(s), c.U64("base")
}

// ParseProposal reads a proposal entry.
func ParseProposal(entry []byte) (p Proposal, err error) {
	b, err := body(entry, receipt.KindProposal)
	if err != nil {
		return p, err
	}
	c := record("proposal", b)
	copy(p.ID[:], c.Bytes(16, "id"))
	p.Type, p.Subject, p.Base = readSubject(c)
	for range count(c, "inputs", maxInputs) {
		if c.Err() == nil {
			p.Inputs = append(p.Inputs, digest(c, "input"))
		}
	}
	p.Content = c.Sized32(maxContent, "content")
	c.End()
	return p, c.Err()
}

// Verdict is what a judging function concluded from a proposal, and what is to be
// written if a majority concluded the same. Its encoding is what nodes endorse.
type Verdict struct {
	Proposal keystead.Digest // of the proposal's entry
	Type     string          // Type, Subject and Base are the proposal's
	Subject  string
	Base     uint64
	Content  []byte  // the judging function's own words
	Writes   []Write // keys start with Type and "/"; none is a denial
}

// NewVerdict returns an empty verdict on the proposal of that entry.
func NewVerdict(proposal []byte) (Verdict, error) {
	p, err := ParseProposal(proposal)
	return Verdict{Proposal: keystead.Sum(proposal), Type: p.Type, Subject: p.Subject, Base: p.Base}, err
}

// Bytes returns the one encoding of the verdict.
func (v *Verdict) Bytes() []byte {
	b := appendSubject(v.Proposal[:], v.Type, v.Subject, v.Base)
	return appendWrites(cursor.AppendSized32(b, v.Content), v.Writes)
}

// ParseVerdict reads a verdict's encoding.
func ParseVerdict(raw []byte) (Verdict, error) {
	v, writes, err := parseVerdict(raw)
	v.Writes = writes.all()
	return v, err
}

func parseVerdict(raw []byte) (v Verdict, writes writeList, err error) {
	c := record("verdict", raw)
	v.Proposal = digest(c, "proposal")
	v.Type, v.Subject, v.Base = readSubject(c)
	v.Content = c.Sized32(maxContent, "content")
	writes = readWrites(c)
	c.End()
	return v, writes, c.Err()
}

// Endorsement is one node's signature over its verdict on a proposal.
type Endorsement struct {
	Proposal, Verdict keystead.Digest // of the proposal's entry, of the verdict's encoding
	Signed
}

// Endorse signs a verdict, given by its encoding, as the node of that name.
func Endorse(k *key.Node, node string, domain keystead.Digest, v *Verdict) Endorsement {
	e := Endorsement{Proposal: v.Proposal, Verdict: keystead.Sum(v.Bytes()), Signed: Signed{Node: node}}
	e.Signature = k.Sign(e.message(domain))
	return e
}

func (e *Endorsement) message(domain keystead.Digest) []byte {
	b := append([]byte("keystead endorsement/1\n"), domain[:]...)
	return append(append(b, e.Proposal[:]...), e.Verdict[:]...)
}

// Entry returns the endorsement as an entry.
func (e *Endorsement) Entry() []byte {
	b := append(receipt.Header(receipt.KindEndorsement), e.Proposal[:]...)
	return appendSigned(append(b, e.Verdict[:]...), e.Signed)
}

// ParseEndorsement reads an endorsement entry; it checks no signature.
func ParseEndorsement(entry []byte) (e Endorsement, err error) {
	b, err := body(entry, receipt.KindEndorsement)
	if err != nil {
		return e, err
	}
	c := record("endorsement", b)
	e.Proposal, e.Verdict = digest(c, "proposal"), digest(c, "verdict")
	e.Signed = readSigned(c)
	c.End()
	return e, c.Err()
}

// Effective is a verdict with the endorsements that make it effective.
type Effective struct {
	Verdict      Verdict
	Endorsements []Signed // over the verdict's digest, each by another node
}

// NewEffective joins a verdict and endorsements of it. Those of other verdicts
// are left out.
func NewEffective(v *Verdict, endorsements []Endorsement) *Effective {
	e := &Effective{Verdict: *v}
	d := keystead.Sum(v.Bytes())
	for _, s := range endorsements {
		if s.Verdict == d && s.Proposal == v.Proposal {
			e.Endorsements = append(e.Endorsements, s.Signed)
		}
	}
	return e
}

// Entry returns the effective entry.
func (e *Effective) Entry() ([]byte, error) {
	b := cursor.AppendSized32(receipt.Header(receipt.KindEffective), e.Verdict.Bytes())
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Endorsements)))
	for _, s := range e.Endorsements {
		b = appendSigned(b, s)
	}
	_, err := ParseEffective(b)
	return b, err
}

// ParseEffective reads an effective entry; it checks no signature.
func ParseEffective(entry []byte) (e Effective, err error) {
	raw, signed, err := splitEffective(entry)
	if err != nil {
		return e, err
	}
	v, err := ParseVerdict(raw)
	return Effective{v, signed}, err
}

// verdictAt is where the verdict is in an effective entry.
const verdictAt = receipt.HeaderSize + 4

func splitEffective(entry []byte) (verdict []byte, signed []Signed, err error) {
	b, err := body(entry, receipt.KindEffective)
	if err != nil {
		return nil, nil, err
	}
	c := record("effective", b)
	verdict = c.Sized32(receipt.MaxEntry, "verdict")
	for range count(c, "endorsements", maxSigned) {
		if c.Err() == nil {
			signed = append(signed, readSigned(c))
		}
	}
	c.End()
	return verdict, signed, c.Err()
}

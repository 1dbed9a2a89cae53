package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/keystead/keystead"
)

// MaxProposals is how many proposals are kept at most.
const MaxProposals = 1 << 16

// proposal is what the state keeps of a proposal, for twice the Window: in the
// second half it is expired, but endorsements still raise alarms.
type proposal struct {
	kind, subject string
	base          uint64
	opened        uint64          // domain clock
	roster        uint64          // sequence of the roster then
	effective     keystead.Digest // verdict that took effect, or zero
	alarmed       bool
	endorsed      []Endorsement // in log order, one a node
}

func (p *proposal) encode() []byte {
	b := appendSubject(nil, p.kind, p.subject, p.base)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, p.opened), p.roster)
	b = append(b, p.effective[:]...)
	flag := byte(0)
	if p.alarmed {
		flag = 1
	}
	b = binary.BigEndian.AppendUint16(append(b, flag), uint16(len(p.endorsed)))
	for _, e := range p.endorsed {
		b = appendSigned(append(b, e.Verdict[:]...), e.Signed)
	}
	return b
}

func decodeProposal(id keystead.Digest, b []byte) (*proposal, error) {
	c := record("proposal record", b)
	p := &proposal{}
	p.kind, p.subject, p.base = readSubject(c)
	p.opened, p.roster, p.effective = c.U64("opened"), c.U64("roster"), digest(c, "effective")
	p.alarmed = c.U8("alarmed") == 1
	for range count(c, "endorsements", maxSigned) {
		if c.Err() == nil {
			p.endorsed = append(p.endorsed, Endorsement{Proposal: id, Verdict: digest(c, "verdict"), Signed: readSigned(c)})
		}
	}
	c.End()
	return p, c.Err()
}

func (m *Machine) saveProposal(id keystead.Digest, p *proposal, w Writer) error {
	return fatal(w.Set(nameKey(spaceProposal, id[:]), p.encode()))
}

func (m *Machine) applyProposal(entry []byte, w Writer) error {
	t, err := ParseProposal(entry)
	if err != nil {
		return err
	}
	id := keystead.Sum(entry)
	switch {
	case m.proposals[id] != nil:
		return nil // sent twice
	case len(m.proposals) >= MaxProposals:
		return deny(keystead.ReasonOverloaded, "proposals", "at most "+strconv.Itoa(MaxProposals), "one more")
	}
	v, err := m.version(spaceSubject, subjectKey(t.Type, t.Subject))
	if err != nil {
		return err
	}
	if v != t.Base {
		return subjectChanged(t.Type, t.Subject, t.Base, v)
	}
	p := &proposal{kind: t.Type, subject: t.Subject, base: t.Base, opened: m.head.clock, roster: uint64(len(m.rosters) - 1)}
	m.proposals[id] = p
	return m.saveProposal(id, p, w)
}

func subjectKey(kind, subject string) []byte { return []byte(kind + "/" + subject) }

func subjectChanged(kind, subject string, base, now uint64) error {
	return deny(keystead.ReasonSubjectChanged, kind+" "+subject, "version "+strconv.FormatUint(base, 10)+", which was proposed upon", strconv.FormatUint(now, 10))
}

// open returns the proposal if it can still be endorsed.
func (m *Machine) open(id keystead.Digest) (*proposal, error) {
	p := m.proposals[id]
	if p == nil {
		return nil, deny(keystead.ReasonProposalUnknown, "proposal", "a proposal in the log, not long ago", id.String())
	}
	return p, nil
}

func (m *Machine) applyEndorsement(entry []byte, w Writer) error {
	e, err := ParseEndorsement(entry)
	if err != nil {
		return err
	}
	p, err := m.open(e.Proposal)
	if err != nil {
		return err
	}
	k, err := m.signer(m.current(), e.Node, "endorsement")
	if err != nil {
		return err
	}
	if !k.Verify(e.message(m.head.domain), e.Signature) {
		return deny(keystead.ReasonSignatureInvalid, "endorsement", "a signature by "+e.Node, "another")
	}
	for _, old := range p.endorsed {
		if old.Node == e.Node && old.Verdict == e.Verdict {
			return nil // sent twice
		}
	}
	if err := m.compare(p, e.Proposal, e.Verdict, e.Node, w); err != nil {
		return err
	}
	for _, old := range p.endorsed {
		if old.Node == e.Node {
			return m.refuseSecond(p, e, old, w)
		}
	}
	if len(p.endorsed) == maxSigned { // rosters came and went within a minute
		return deny(keystead.ReasonOverloaded, "endorsements", "at most "+strconv.Itoa(maxSigned), "one more")
	}
	p.endorsed = append(p.endorsed, e)
	return m.saveProposal(e.Proposal, p, w)
}

// refuseSecond refuses a node's second, different verdict; its first one stands.
func (m *Machine) refuseSecond(p *proposal, e, old Endorsement, w Writer) error {
	if err := m.saveProposal(e.Proposal, p, w); err != nil {
		return err
	}
	return deny(keystead.ReasonVerdictDisagreement, "endorsement by "+e.Node, "its first verdict "+old.Verdict.String(), e.Verdict.String())
}

// compare raises the alarm, once for a proposal, when a verdict differs from
// another one that a node signed.
func (m *Machine) compare(p *proposal, id, verdict keystead.Digest, who string, w Writer) error {
	if p.alarmed {
		return nil
	}
	other, by := p.effective, "the effective entry"
	for _, e := range p.endorsed {
		if e.Verdict != verdict {
			other, by = e.Verdict, e.Node
		}
	}
	if other.IsZero() || other == verdict {
		return nil
	}
	p.alarmed = true
	return m.raise(w, keystead.Finding{Reason: keystead.ReasonVerdictDisagreement, Where: "proposal " + id.String(),
		Want: "the verdict " + other.String() + " of " + by, Got: verdict.String() + " of " + who})
}

func (m *Machine) applyEffective(entry []byte, w Writer, res *Result) error {
	raw, signed, err := splitEffective(entry)
	if err != nil {
		return err
	}
	v, writes, err := parseVerdict(raw)
	if err != nil {
		return err
	}
	writes.at += verdictAt
	p, err := m.open(v.Proposal)
	if err != nil {
		return err
	}
	switch {
	case !p.effective.IsZero():
		return deny(keystead.ReasonProposalClosed, "proposal", "one effective entry", "another")
	case m.head.clock > p.opened+Window:
		return deny(keystead.ReasonProposalExpired, "proposal", "at most "+millis(Window)+" after it was opened", strconv.FormatUint(m.head.clock-p.opened, 10)+" ms")
	case v.Type != p.kind || v.Subject != p.subject || v.Base != p.base:
		return deny(keystead.ReasonProposalUnknown, "verdict", fmt.Sprintf("on %s %s at version %d", p.kind, p.subject, p.base), fmt.Sprintf("on %s %s at version %d", v.Type, v.Subject, v.Base))
	}
	if writes.n == 0 {
		return deny(keystead.ReasonUnprovable, "verdict", "one that writes something", "a denial, which never takes effect")
	}
	if err := writes.confined([]byte(v.Type)); err != nil {
		return err
	}
	verdict := keystead.Sum(raw)
	if err := m.endorsed(p, Endorsement{Proposal: v.Proposal, Verdict: verdict}, signed); err != nil {
		return err
	}
	subject := subjectKey(v.Type, v.Subject)
	now, err := m.version(spaceSubject, subject)
	if err != nil {
		return err
	}
	if now != v.Base {
		return subjectChanged(v.Type, v.Subject, v.Base, now)
	}
	if err := m.record(entry, w, res); err != nil {
		return err
	}
	if err := m.compare(p, v.Proposal, verdict, "the effective entry", w); err != nil {
		return err
	}
	p.effective = verdict
	if err := m.saveProposal(v.Proposal, p, w); err != nil {
		return err
	}
	version := res.Leaf + 1
	if err := w.Set(nameKey(spaceSubject, subject), binary.BigEndian.AppendUint64(nil, version)); err != nil {
		return fatal(err)
	}
	m.written = append(m.written, written{spaceSubject, subject, version})
	return m.write(spaceJudged, writes, entry, version, w)
}

// endorsed checks that a majority of the nodes of now signed the verdict.
func (m *Machine) endorsed(p *proposal, e Endorsement, signed []Signed) error {
	r := m.current()
	by := map[string]bool{}
	for _, s := range signed {
		k, err := m.signer(r, s.Node, "effective entry")
		if err != nil {
			return err
		}
		e.Signed = s
		if !by[s.Node] && !m.checked(p, e) && !k.Verify(e.message(m.head.domain), s.Signature) {
			return deny(keystead.ReasonSignatureInvalid, "effective entry", "a signature of this verdict by "+s.Node, "another")
		}
		by[s.Node] = true
	}
	if len(by) < r.Majority() {
		return deny(keystead.ReasonMajorityMissing, "effective entry", fmt.Sprintf("endorsements of %d of %d nodes", r.Majority(), len(r.Nodes)), strconv.Itoa(len(by)))
	}
	return nil
}

// checked reports whether the same endorsement was in the log, so that its
// signature was checked, and by the key that the node still has.
func (m *Machine) checked(p *proposal, e Endorsement) bool {
	return p.roster == uint64(len(m.rosters)-1) && slices.Contains(p.endorsed, e)
}

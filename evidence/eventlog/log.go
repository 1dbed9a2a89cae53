package eventlog

import (
	"encoding/hex"
	"fmt"
	"iter"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
)

// An Event is one event of a register that the quote covers. Its bytes alias the log.
type Event struct {
	Number int    // position in the log; the header of a crypto-agile log is 0
	PCR    int    // proven: the replay of this register equals the quote
	Type   Type   // as the log says; nothing covers it
	Digest []byte // proven, in Log.Bank
	Data   []byte // as the log says, unless Log.Bound says otherwise
}

// A Log is an event log whose replay equals the quoted registers.
type Log struct {
	bank      evidence.Bank
	zeros     []byte                 // digest of a separator: four zero bytes
	ones      []byte                 // of one on platforms with a legacy boot
	covered   [evidence.NumPCRs]bool // in bank, and judged by this room
	events    []Event
	uncovered int
}

// judged are the registers that firmware, boot loaders and the EFI stub measure
// into and the running system does not: 0 to 7 and the boot loader's 8, 9, 12, 13,
// 14. The kernel goes on extending 10 (see evidence/ima), systemd 11 and 15 and
// whoever wants to 16 and 23, without an entry here; 17 to 22 are for late launch.
var judged = [evidence.NumPCRs]bool{0: true, 1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true, 9: true, 12: true, 13: true, 14: true}

// Judges reports whether a register is one that a log is held against.
func Judges(pcr int) bool { return pcr >= 0 && pcr < len(judged) && judged[pcr] }

// Open parses a log and replays it against covered, the register values that a
// quote proves: each judged register (0 to 9 and 12 to 14) in each of its banks.
// It refuses with a *keystead.DenyError:
//
//	evidence-missing  no log, or none with digests of a covered bank
//	bank-unaccepted   no covered bank is SHA-256 or SHA-384
//	log-truncated     the log ends inside a record, or before the events that end a boot
//	log-altered       one edit explains the difference: events in the wrong order, or one too many
//	pcr-mismatch      any other difference from the quote
//	digest-invalid    an event's data has not the digest that its type demands
//
// and with a *keystead.FormatError for bytes that do not parse.
func Open(raw []byte, covered []evidence.PCRs) (*Log, error) {
	if len(raw) == 0 {
		return nil, deny(keystead.ReasonEvidenceMissing, "event log", "an event log", "none")
	}
	var r replay
	if err := r.init(covered); err != nil {
		return nil, err
	}
	p := newParser(raw, r.banks)
	if err := p.header(); err != nil {
		return nil, err
	}
	for _, b := range r.banks {
		if p.algorithm(b) == nil {
			return nil, deny(keystead.ReasonEvidenceMissing, "event log", "digests of the quoted bank "+b.String(), "a log with "+p.declared())
		}
	}
	n := 1
	if p.legacy {
		n = 0
	}
	var rec record
	for ; p.more(); n++ {
		if err := p.next(n, &rec); err != nil {
			return nil, err
		}
		if err := r.add(p, n, &rec); err != nil {
			return nil, err
		}
	}
	if err := r.compare(); err != nil {
		return nil, err
	}
	if err := r.log.bind(); err != nil {
		return nil, err
	}
	return r.log, nil
}

// Bank is the bank that events' digests are of: the first covered one that is accepted.
func (l *Log) Bank() evidence.Bank { return l.bank }

// Covered reports whether the events of a register are among those returned.
func (l *Log) Covered(pcr int) bool { return l.covered[pcr] }

// Events returns the events of covered registers in the log's order. Between
// registers that order is not proven, within one it is. The caller must not change it.
func (l *Log) Events() []Event { return l.events }

// Uncovered is the number of events of registers that are not covered.
func (l *Log) Uncovered() int { return l.uncovered }

// of returns the events of one register.
func (l *Log) of(pcr int) iter.Seq[*Event] {
	return func(yield func(*Event) bool) {
		for i := range l.events {
			if l.events[i].PCR == pcr && !yield(&l.events[i]) {
				return
			}
		}
	}
}

// bind compares the data of events that demand it with their digests.
func (l *Log) bind() error {
	var bad []keystead.Finding
	for i := range l.events {
		e := &l.events[i]
		if demands(e) && !l.Bound(e) {
			bad = append(bad, keystead.Finding{
				Reason: keystead.ReasonDigestInvalid,
				Where:  fmt.Sprintf("event log, event %d (%v), PCR %d", e.Number, e.Type, e.PCR),
				Want:   hex.EncodeToString(e.Digest),
				Got:    hex.EncodeToString(l.sum(e.Data)),
			})
		}
	}
	if bad != nil {
		return keystead.Deny(bad...)
	}
	return nil
}

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}

// A replay extends registers by a log's records.
type replay struct {
	log     *Log
	banks   []evidence.Bank
	wanted  []evidence.PCRs
	state   [maxBanks][evidence.NumPCRs]chain.Value
	started bool                   // PCR 0 was extended, so its initial value is settled
	located bool                   // a StartupLocality event was seen
	initial [evidence.NumPCRs]byte // last byte of each register's initial value; the rest is zero
}

func (r *replay) init(covered []evidence.PCRs) error {
	r.log, r.wanted = new(Log), covered
	for _, p := range covered {
		if p.Bank.Size() == 0 || slices.Contains(r.banks, p.Bank) || len(r.banks) == maxBanks {
			return deny(keystead.ReasonBankUnaccepted, "covered registers", "known banks, each once", p.Bank.String())
		}
		r.banks = append(r.banks, p.Bank)
		if r.log.bank == 0 && p.Bank.Accepted() {
			r.log.bank = p.Bank
			for i := range p.Value {
				r.log.covered[i] = judged[i] && p.Value[i] != nil
			}
		}
	}
	if r.log.bank == 0 {
		return deny(keystead.ReasonBankUnaccepted, "covered registers", "sha256 or sha384", fmt.Sprint(r.banks))
	}
	r.log.zeros, r.log.ones = r.log.sum([]byte{0, 0, 0, 0}), r.log.sum([]byte{0xff, 0xff, 0xff, 0xff})
	r.log.events = make([]Event, 0, 64)
	return nil
}

// add extends a record's register in every bank where it is covered.
func (r *replay) add(p *parser, n int, rec *record) error {
	if rec.typ == NoAction {
		return r.locality(p, rec)
	}
	pcr := int(rec.pcr)
	if pcr == 0 && !r.started {
		r.started = true
		if rec.typ == EFIHCRTM { // PFP 1.06, 3.3.4: an H-CRTM starts PCR 0 at 4
			r.start(4)
		}
	}
	for i, b := range r.banks {
		if !judged[pcr] || r.wanted[i].Value[pcr] == nil {
			continue
		}
		d := rec.digest[i]
		if d == nil {
			p.c.Fail("digests", "event %d has none of bank %v", n, b)
			return p.c.Err()
		}
		r.state[i][pcr].Extend(b, d)
		if b == r.log.bank {
			r.log.events = append(r.log.events, Event{Number: n, PCR: pcr, Type: rec.typ, Digest: d, Data: rec.data})
		}
	}
	if !r.log.covered[pcr] {
		r.log.uncovered++
	}
	return nil
}

// locality reads an EV_NO_ACTION event: StartupLocality gives the initial value of
// PCR 0 (PFP 1.06, 10.4.5.3); no other one concerns a register.
func (r *replay) locality(p *parser, rec *record) error {
	if rec.pcr != 0 || len(rec.data) != len(localityEvent)+1 || string(rec.data[:len(localityEvent)]) != localityEvent {
		return nil
	}
	loc := rec.data[len(localityEvent)]
	switch {
	case r.started || r.located:
		p.c.Fail("StartupLocality", "comes after PCR 0 was extended, or twice")
		return p.c.Err()
	case loc != 0 && loc != 3 && loc != 4:
		p.c.Fail("StartupLocality", "is %d, only 0, 3 and 4 exist", loc)
		return p.c.Err()
	}
	r.located = true
	r.start(loc)
	return nil
}

func (r *replay) start(locality byte) {
	r.initial[0] = locality
	for i, b := range r.banks {
		r.state[i][0] = chain.Value{}
		r.state[i][0][b.Size()-1] = locality
	}
}

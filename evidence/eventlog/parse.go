package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// Bounds of a log, beside evidence.MaxEventLog.
const (
	maxBanks  = 4       // banks that a log is replayed in
	maxAlgs   = 16      // digest algorithms that a log may declare
	maxDigest = 64      // bytes
	maxData   = 4 << 20 // bytes, one event's data
)

const (
	format        = "tcg2-event-log"
	specID        = "Spec ID Event03\x00"
	localityEvent = "StartupLocality\x00"
)

// A record is one event as it stands in the log. All bytes alias the log.
type record struct {
	pcr    uint32
	typ    Type
	digest [maxBanks][]byte // in the order of parser.banks; nil where the record has none
	data   []byte
}

// A parser reads the log's records: the header says which algorithms they carry.
type parser struct {
	c      *cursor.Cursor
	banks  []evidence.Bank // that digests are wanted of
	legacy bool            // the format of TPM 1.2: one SHA-1 digest a record
	algs   [maxAlgs]algorithm
	nalgs  int
}

type algorithm struct {
	id   evidence.Bank
	size int
	slot int // in record.digest, or -1
}

func newParser(raw []byte, banks []evidence.Bank) *parser {
	p := &parser{c: cursor.New(format, binary.LittleEndian, raw), banks: banks}
	if len(raw) > evidence.MaxEventLog {
		p.c.Fail("whole", "is %d bytes long, at most %d are accepted", len(raw), evidence.MaxEventLog)
	}
	return p
}

// header reads the first record, a TCG_PCR_EVENT in either format. In a
// crypto-agile log its data is a TCG_EfiSpecIDEvent (PFP 1.06, 10.4.5.1); any
// other log is read anew as one of TPM 1.2.
func (p *parser) header() error {
	first := *p.c
	p.c.U32("header PCR")
	typ := Type(p.c.U32("header type"))
	p.c.Bytes(evidence.SHA1.Size(), "header digest")
	data := p.c.Sized32(maxData, "header data")
	if p.c.Err() != nil {
		return p.fail(0)
	}
	if typ != NoAction || !bytes.HasPrefix(data, []byte(specID)) {
		*p.c = first
		p.legacy, p.nalgs = true, 1
		p.algs[0] = algorithm{evidence.SHA1, evidence.SHA1.Size(), p.slot(evidence.SHA1)}
		return nil
	}
	return p.specification(data)
}

func (p *parser) specification(data []byte) error {
	c := cursor.New(format+"-header", binary.LittleEndian, data)
	c.Bytes(len(specID), "signature")
	c.U32("platform class")
	minor, major := c.U8("minor version"), c.U8("major version")
	if major != 2 || minor != 0 {
		c.Fail("version", "is %d.%d, only 2.0 is known", major, minor)
	}
	c.U8("errata")
	c.U8("uintn size")
	n := c.U32("number of algorithms")
	if n == 0 || n > maxAlgs {
		c.Fail("number of algorithms", "is %d, 1 to %d are accepted", n, maxAlgs)
	}
	for range n {
		a := algorithm{id: evidence.Bank(c.U16("algorithm")), size: int(c.U16("digest size"))}
		if a.size == 0 || a.size > maxDigest || a.id.Size() != 0 && a.id.Size() != a.size {
			c.Fail("digest size", "is %d for %v", a.size, a.id)
		}
		if p.algorithm(a.id) != nil {
			c.Fail("algorithm", "%v is declared twice", a.id)
		}
		if c.Err() != nil {
			return c.Err()
		}
		a.slot = p.slot(a.id)
		p.algs[p.nalgs] = a
		p.nalgs++
	}
	c.Bytes(int(c.U8("vendor data length")), "vendor data")
	c.End()
	return c.Err()
}

// algorithm returns what the header declared of id, or nil.
func (p *parser) algorithm(id evidence.Bank) *algorithm {
	for i := range p.algs[:p.nalgs] {
		if p.algs[i].id == id {
			return &p.algs[i]
		}
	}
	return nil
}

// declared names the log's algorithms.
func (p *parser) declared() string {
	var names []string
	for _, a := range p.algs[:p.nalgs] {
		names = append(names, a.id.String())
	}
	return strings.Join(names, ", ")
}

func (p *parser) slot(id evidence.Bank) int {
	for i, b := range p.banks {
		if b == id {
			return i
		}
	}
	return -1
}

// more reports whether another record follows.
func (p *parser) more() bool { return p.c.Len() > 0 }

// next reads record n into r.
func (p *parser) next(n int, r *record) error {
	*r = record{pcr: p.c.U32("PCR"), typ: Type(p.c.U32("type"))}
	if r.pcr >= evidence.NumPCRs && r.typ != NoAction {
		p.c.Fail("PCR", "is %d, registers are 0 to %d", r.pcr, evidence.NumPCRs-1)
	}
	if p.legacy {
		p.digest(r, &p.algs[0])
	} else {
		p.digests(r)
	}
	r.data = p.c.Sized32(maxData, "event data")
	if p.c.Err() != nil {
		return p.fail(n)
	}
	return nil
}

func (p *parser) digests(r *record) {
	n := p.c.U32("number of digests")
	if int64(n) > int64(p.nalgs) {
		p.c.Fail("number of digests", "is %d, the header declares %d algorithms", n, p.nalgs)
	}
	for range n {
		id := evidence.Bank(p.c.U16("digest algorithm"))
		if p.c.Err() != nil {
			return
		}
		a := p.algorithm(id)
		if a == nil {
			p.c.Fail("digest algorithm", "%v is not declared in the header", id)
			return
		}
		p.digest(r, a)
	}
}

func (p *parser) digest(r *record, a *algorithm) {
	d := p.c.Bytes(a.size, "digest")
	if a.slot < 0 {
		return
	}
	if r.digest[a.slot] != nil {
		p.c.Fail("digest", "%v is given twice", a.id)
	}
	r.digest[a.slot] = d
}

// fail returns the cursor's error while record n was read: a log that was cut
// inside a record is a finding, anything else a format error.
func (p *parser) fail(n int) error {
	if !p.c.Short() {
		return p.c.Err()
	}
	return keystead.Deny(keystead.Finding{
		Reason: keystead.ReasonLogTruncated,
		Where:  fmt.Sprintf("event log, event %d", n),
		Want:   "a log that ends with a whole event",
		Got:    p.c.Err().Error(),
	})
}

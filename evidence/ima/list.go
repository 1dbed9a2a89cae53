package ima

import (
	"encoding/binary"
	"iter"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
	"github.com/keystead/keystead/internal/cursor"
)

// Register is the register that IMA extends unless its policy says otherwise.
const Register = 10

// An Entry is one measurement. Its bytes alias the list.
type Entry struct {
	PCR        int
	Template   []byte // as the list says, not proven; see the package's doc
	Alg        string // md5, sha1, sha256, sha384 or sha512; "" when there is no FileDigest
	FileDigest []byte // of a file's content; nil when the entry does not read as digest and path
	Path       Path   // as the kernel saw it; not proven in a violation entry
	Signature  []byte // third field: an IMA signature in ima-sig, other data in other templates
	Violation  bool   // the kernel could not measure: the file was open for writing
}

// A Path holds any bytes but zero, whatever a host made of it.
type Path []byte

// String gives the path in printable form, escaped as in Go's strings where needed.
func (p Path) String() string {
	const most = 4096
	q := strconv.Quote(string(p[:min(len(p), most)]))
	q = q[1 : len(q)-1]
	if len(p) > most {
		q += "…"
	}
	return q
}

// A List is a measurement list of which a prefix is proven.
type List struct {
	raw     []byte
	pcr     int
	covered int             // bytes of the prefix
	len     int             // entries of the register in it
	rest    int             // all other entries
	banks   []evidence.Bank // where the entries' own digests lead to the quote
	at      []bank          // where the chains stand
	lines   int             // entries of all registers in the prefix
	before  *State          // what was replayed before the first of raw; nil for nothing
}

// Open parses a list and finds the shortest prefix whose replay equals register pcr
// in every bank of quoted, the register values that a quote proves. It refuses with
// a *keystead.DenyError:
//
//	evidence-missing  no list, the register is not quoted, or nothing was measured into it
//	log-truncated     the list ends inside an entry, or before the quoted value is reached
//	log-altered       the same, and an edit was found that explains it
//	digest-weak       only SHA-1 digests lead to the quoted value (Linux before 5.8)
//	pcr-mismatch      the banks disagree
//
// and with a *keystead.FormatError for bytes that do not parse. The list may end
// inside an entry after the prefix: it grows while it is read.
//
// A kernel that lacks a bank's hash extends SHA-1 digests padded with zeros there.
// That is accepted beside an accepted bank that the entries' own digests lead to.
func Open(raw []byte, quoted []evidence.PCRs, pcr int) (*List, error) {
	r, err := newReplay(raw, quoted, pcr)
	if err != nil {
		return nil, err
	}
	l := &List{raw: raw, pcr: pcr}
	c := cursor.New(format, binary.LittleEndian, raw)
	if len(raw) > evidence.MaxIMALog {
		c.Fail("whole", "is %d bytes long, at most %d are accepted", len(raw), evidence.MaxIMALog)
	}
	var rec record
	reached := false
	for c.Len() > 0 {
		if err := rec.next(c); err != nil {
			break
		}
		if !reached {
			l.lines++
		}
		if reached || rec.pcr != pcr {
			l.rest++
			continue
		}
		l.len++
		if reached = r.extend(&rec); reached {
			l.covered = c.Offset()
		}
	}
	switch {
	case c.Err() != nil && !c.Short():
		return nil, c.Err()
	case reached:
		l.banks, err = r.others(l)
		l.at = r.at()
	case c.Err() != nil:
		err = deny(keystead.ReasonLogTruncated, r.where(), "a list that ends with a whole entry", c.Err().Error())
	default:
		err = r.explain(l.len)
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Len is the number of covered entries.
func (l *List) Len() int { return l.len }

// Uncovered is the number of all other entries: after the quoted prefix, or of
// other registers.
func (l *List) Uncovered() int { return l.rest }

// Banks are the quoted banks that the entries' own digests lead to: all, save those
// whose hash the kernel lacks.
func (l *List) Banks() []evidence.Bank { return l.banks }

// All yields the covered entries with their numbers: the lines of
// ascii_runtime_measurements, from 1. It does not allocate.
func (l *List) All() iter.Seq2[int, Entry] {
	return func(yield func(int, Entry) bool) {
		first := 0
		if l.before != nil {
			first = int(l.before.lines)
		}
		for n, rec := range records(l.raw[:l.covered]) {
			n += first
			if rec.pcr == l.pcr && !yield(n, rec.entry()) {
				return
			}
		}
	}
}

// records yields the records of a list that parses, with their numbers from 1.
func records(raw []byte) iter.Seq2[int, *record] {
	return func(yield func(int, *record) bool) {
		c := cursor.New(format, binary.LittleEndian, raw)
		var rec record
		for n := 1; c.Len() > 0; n++ {
			if rec.next(c) != nil || !yield(n, &rec) {
				return
			}
		}
	}
}

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}

// paddedSHA1 sets v to what a kernel that lacks the bank's hash extends.
func paddedSHA1(r *record, v *chain.Value) {
	*v = chain.Value{}
	r.sum(evidence.SHA1, v)
}

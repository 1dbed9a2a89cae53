package ledger

import (
	"encoding/binary"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
)

// written is a key that the batch at hand wrote.
type written struct {
	space   byte
	key     []byte // aliases the entry
	version uint64 // 0 when it was deleted
}

// version returns the version of a key, this batch's writes included.
func (m *Machine) version(space byte, key []byte) (uint64, error) {
	if m.versions == nil {
		m.versions = map[string]uint64{}
	}
	for ; m.indexed < len(m.written); m.indexed++ {
		x := m.written[m.indexed]
		m.versions[string(append(append(m.keyBuf[:0], x.space), x.key...))] = x.version
	}
	m.keyBuf = append(append(m.keyBuf[:0], space), key...)
	if v, ok := m.versions[string(m.keyBuf)]; ok {
		return v, nil
	}
	b, found, err := m.store.Get(m.keyBuf)
	if err != nil || !found {
		return 0, fatal(err)
	}
	v, err := parseStored(b)
	return v.version, fatal(err)
}

// stored is the record of a key. A value of 256 bytes or more that makes up half of the
// entry that put it, or more, is not stored a second time: the record says where in
// the entry it is. For smaller ones a second read costs more than a copy.
//
//	8 bytes  version: the entry's leaf plus one
//	1 byte   0 and the value, or 1 and
//	4 bytes  where in the entry the value begins
//	4 bytes  its length
type stored struct {
	version  uint64
	inline   []byte
	inEntry  bool
	at, size uint32
}

const (
	storedInline  = 0
	storedInEntry = 1
	leastInEntry  = 256 // bytes
)

// parseStored reads a record, or the version of a subject, which has no value.
func parseStored(b []byte) (s stored, err error) {
	c := record("value", b)
	s.version = c.U64("version")
	if c.Len() == 0 {
		return s, c.Err()
	}
	switch form := c.U8("form"); form {
	case storedInline:
		s.inline = c.Rest()
	case storedInEntry:
		s.inEntry, s.at, s.size = true, c.U32("offset"), c.U32("length")
		c.End()
	default:
		c.Fail("form", "%d is not known", form)
	}
	return s, c.Err()
}

// appendStored appends the record of a value that a write of an entry puts.
func appendStored(b []byte, version uint64, entry int, x *writeView) []byte {
	b = binary.BigEndian.AppendUint64(b, version)
	if len(x.value) < leastInEntry || 2*len(x.value) < entry {
		return append(append(b, storedInline), x.value...)
	}
	b = binary.BigEndian.AppendUint32(append(b, storedInEntry), uint32(x.at))
	return binary.BigEndian.AppendUint32(b, uint32(len(x.value)))
}

// write carries out writes of an entry that were checked, as of a version.
func (m *Machine) write(space byte, writes writeList, entry []byte, version uint64, w Writer) error {
	for x := range writes.each {
		v := version
		m.keyBuf = append(append(m.keyBuf[:0], space), x.key...)
		if x.delete {
			v = 0
			if err := w.Delete(m.keyBuf); err != nil {
				return fatal(err)
			}
		} else {
			m.buf = appendStored(m.buf[:0], version, len(entry), &x)
			if err := w.Set(m.keyBuf, m.buf); err != nil {
				return fatal(err)
			}
		}
		m.written = append(m.written, written{space, x.key, v})
		if space == spaceJudged {
			m.leases.note(x, v, &m.genesis)
			if string(x.key) == entryVersionKey {
				m.entryVersion = admit.ParseEntryVersion(string(x.value), m.genesis.Setting(admit.EntryVersion))
			}
		}
	}
	return nil
}

func (m *Machine) applyTransaction(entry []byte, w Writer, res *Result) error {
	t, err := parseTransaction(entry)
	if err != nil {
		return err
	}
	if err := m.requests.check(t.request, m.head.clock); err != nil {
		return err
	}
	if leaf, found := m.requests.find(t.request); found {
		res.Leaf, res.Repeated = leaf, true
		return nil
	}
	if err := t.writes.confined(t.contract); err != nil {
		return err
	}
	for c := range t.conditions.each {
		v, err := m.version(spaceContract, c.key)
		if err != nil {
			return err
		}
		if v != c.version {
			return deny(keystead.ReasonConditionFailed, strconv.Quote(string(c.key)), "version "+strconv.FormatUint(c.version, 10), strconv.FormatUint(v, 10))
		}
	}
	if err := m.record(entry, w, res); err != nil {
		return err
	}
	m.requests.add(t.request, res.Leaf)
	return m.write(spaceContract, t.writes, entry, res.Leaf+1, w)
}

// MaxRequests is how many requests are remembered at most, for exactly-once.
const MaxRequests = 4 << 20

// requests remembers every request that took effect until its deadline has
// passed: leaf by id, in buckets by the second of the deadline.
type requests struct {
	buckets map[uint64]map[[16]byte]uint64
	n       int
}

func (q *requests) check(r RequestID, clock uint64) error {
	switch {
	case r.Deadline <= clock || r.Deadline > clock+Window:
		return deny(keystead.ReasonRequestExpired, "deadline", "after the domain clock's "+strconv.FormatUint(clock, 10)+", by at most "+millis(Window), strconv.FormatUint(r.Deadline, 10))
	case q.n >= MaxRequests:
		return deny(keystead.ReasonOverloaded, "requests", "at most "+strconv.Itoa(MaxRequests)+" whose deadlines are ahead", "one more")
	}
	return nil
}

func (q *requests) find(r RequestID) (leaf uint64, found bool) {
	leaf, found = q.buckets[r.Deadline/1000][r.ID]
	return leaf, found
}

func (q *requests) add(r RequestID, leaf uint64) {
	b := q.buckets[r.Deadline/1000]
	if b == nil {
		b = map[[16]byte]uint64{}
		q.buckets[r.Deadline/1000] = b
	}
	b[r.ID] = leaf
	q.n++
}

// forget drops the buckets whose deadlines have all passed.
func (q *requests) forget(clock uint64) {
	for second, b := range q.buckets {
		if (second+1)*1000 <= clock {
			q.n -= len(b)
			delete(q.buckets, second)
		}
	}
}

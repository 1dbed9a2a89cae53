package archive

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// recordVersion opens a record; it only ever grows:
//
//	1  as below
const recordVersion = 1

// Bounds of a record, in bytes.
const (
	MaxBundle = 64 << 20
	MaxRecord = MaxBundle + 4<<10
	maxName   = 64
	maxBuild  = 256
)

// Record is what a node archives of an admission that it endorsed.
type Record struct {
	Host    string
	Verdict keystead.Digest // the record's name
	Terms   keystead.Digest // an object: the text that names policy, roots, reference and code sets
	Time    uint64          // of judgement, Unix milliseconds of the domain clock
	Tick    uint64          // log index of the tick that gave the nonce
	Build   string          // that came to the verdict here
	Bundle  []byte
}

// Bytes returns the record's one encoding.
func (r *Record) Bytes() []byte {
	b := cursor.AppendSized16([]byte{recordVersion}, r.Host)
	b = append(append(b, r.Verdict[:]...), r.Terms[:]...)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, r.Time), r.Tick)
	return cursor.AppendSized32(cursor.AppendSized16(b, r.Build), r.Bundle)
}

// ParseRecord reads a record. It fails with a *keystead.FormatError.
func ParseRecord(b []byte) (Record, error) {
	c := cursor.New("archive record", binary.BigEndian, b)
	version(c, recordVersion)
	r := Record{Host: string(c.Sized16(maxName, "host")), Verdict: digest(c, "verdict"), Terms: digest(c, "terms"), Time: c.U64("time"), Tick: c.U64("tick"),
		Build: string(c.Sized16(maxBuild, "build")), Bundle: c.Sized32(MaxBundle, "bundle")}
	c.End()
	if c.Err() != nil {
		return Record{}, c.Err()
	}
	return r, nil
}

func version(c *cursor.Cursor, known uint8) {
	if v := c.U8("version"); c.Err() == nil && v != known {
		c.Fail("version", "%d; this build knows %d", v, known)
	}
}

func digest(c *cursor.Cursor, field string) (d keystead.Digest) {
	copy(d[:], c.Bytes(len(d), field))
	return d
}

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}

func bytesLong(n int) string { return fmt.Sprintf("%d bytes", n) }

package ima

import (
	"bytes"
	"encoding/binary"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
	"github.com/keystead/keystead/internal/cursor"
)

const format = "ima"

// Bounds of a list, beside evidence.MaxIMALog.
const (
	maxName = 256      // bytes of a template's name, which may be a list of its fields
	maxData = 16 << 20 // bytes of an entry's template data
	maxPath = 255      // bytes of a path in the old template
)

// A record is one entry as it stands in the list. All bytes alias the list.
type record struct {
	pcr  int
	sha1 []byte // SHA-1 of the template data, or zeros for a violation
	name []byte // of the template
	data []byte // template data; in the old template the digest
	path []byte // in the old template
	old  bool   // the template "ima": 20 bytes of digest and a path of at most 255, hashed padded to 256
}

var zeros [64]byte

var ones = bytes.Repeat([]byte{0xff}, len(zeros))

// next reads a record (Linux security/integrity/ima/ima_fs.c, ima_measurements_show).
func (r *record) next(c *cursor.Cursor) error {
	if n := r.quick(c.Ahead()); n > 0 {
		c.Bytes(n, "entry")
		return nil
	}
	return r.slow(c)
}

// slow reads a record of any template, or says what is wrong with it.
func (r *record) slow(c *cursor.Cursor) error {
	pcr := c.U32("PCR")
	if pcr >= evidence.NumPCRs {
		c.Fail("PCR", "is %d, registers are 0 to %d", pcr, evidence.NumPCRs-1)
	}
	r.pcr = int(pcr)
	r.sha1 = c.Bytes(20, "template hash")
	r.name = c.Sized32(maxName, "template name")
	if r.old = string(r.name) == "ima"; !r.old {
		r.data = c.Sized32(maxData, "template data")
		return c.Err()
	}
	r.data = c.Bytes(20, "file digest")
	r.path = c.Sized32(maxPath, "path")
	if bytes.IndexByte(r.path, 0) >= 0 {
		c.Fail("path", "holds a zero byte")
	}
	return c.Err()
}

// quick reads what nearly every record is, of a whole list and not of the old template, and
// returns its bytes; 0 where that is not so, or slow has an error to name.
func (r *record) quick(b []byte) int {
	const fixed = 4 + 20 + 4 // register, template hash, length of the name
	if len(b) < fixed {
		return 0
	}
	pcr, name := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[24:])
	if pcr >= evidence.NumPCRs || name > maxName || len(b) < fixed+int(name)+4 {
		return 0
	}
	rest := b[fixed+name:]
	data := binary.LittleEndian.Uint32(rest)
	if data > maxData || int(data) > len(rest)-4 || string(b[fixed:fixed+name]) == "ima" {
		return 0
	}
	*r = record{pcr: int(pcr), sha1: b[4:24:24], name: b[fixed : fixed+name : fixed+name], data: rest[4 : 4+data : 4+data]}
	return fixed + int(name) + 4 + int(data)
}

// violation reports whether the kernel could not measure and extended all ones.
func (r *record) violation() bool { return bytes.Equal(r.sha1, zeros[:20]) }

// sum sets v to what the kernel hashed into the register in that bank.
func (r *record) sum(b evidence.Bank, v *chain.Value) {
	if r.violation() {
		copy(v[:], ones)
		return
	}
	r.hash(b, v)
}

// hash sets v to the digest of the template data, violation or not.
func (r *record) hash(b evidence.Bank, v *chain.Value) {
	if !r.old {
		chain.Sum(b, v, r.data)
		return
	}
	var padded [20 + maxPath + 1]byte
	copy(padded[:], r.data)
	copy(padded[20:], r.path)
	chain.Sum(b, v, padded[:])
}

// entry reads the fields of a record. In every template but the old one these are
// length-prefixed and start with digest and path; what does not read so gives an
// entry without them.
func (r *record) entry() Entry {
	e := Entry{PCR: r.pcr, Template: r.name, Violation: r.violation()}
	if r.old {
		e.Alg, e.FileDigest, e.Path = "sha1", r.data, r.path
	} else {
		digest, rest, ok := field(r.data)
		path, rest, ok2 := field(rest)
		n := len(path) - 1
		if ok && ok2 && n >= 0 && bytes.IndexByte(path, 0) == n {
			e.Path = path[:n:n]
			e.Alg, e.FileDigest = fileDigest(digest)
			e.Signature, _, _ = field(rest)
		}
	}
	if e.Violation {
		e.Alg, e.FileDigest, e.Signature = "", nil, nil
	}
	return e
}

// field cuts a length-prefixed field off b.
func field(b []byte) (f, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// fileDigest reads the field d-ng, "sha256:" NUL digest, or d-ngv2, which puts
// "ima:" before it. A digest of fs-verity is not one of the file's content, so it
// is not returned.
func fileDigest(b []byte) (alg string, digest []byte) {
	i := bytes.IndexByte(b, 0)
	if i < 1 || b[i-1] != ':' {
		return "", nil
	}
	name := bytes.TrimPrefix(b[:i-1], []byte("ima:"))
	digest = b[i+1:]
	switch size := len(digest); {
	case size == 32 && string(name) == "sha256":
		return "sha256", digest
	case size == 48 && string(name) == "sha384":
		return "sha384", digest
	case size == 64 && string(name) == "sha512":
		return "sha512", digest
	case size == 20 && string(name) == "sha1":
		return "sha1", digest
	case size == 16 && string(name) == "md5":
		return "md5", digest
	}
	return "", nil
}

package admit

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// recordVersion opens a lease record. It only ever grows; every version has the
// fields that the ledger reads in the same place, version, until and issued:
//
//	1  without what the Boot has beside the count of resets
//	2  without the guest, of hosts with a TPM; they have it still
//	3  as below, of hosts with a TEE alone
const recordVersion = 3

// Record is a lease as it stands on the ledger (docs/spec/lease.md).
type Record struct {
	Until      uint64 // Unix milliseconds of the domain clock, unless renewed
	Issued     uint64 // likewise: the time of the tick that gave the nonce
	Role       string
	EK         keystead.Digest // hardware identity
	AK         keystead.Digest // of the attestation key's TPM name; zero for a host without a TPM
	SubjectKey []byte          // PKIX DER
	Assurance  evidence.Assurance
	Verdict    keystead.Digest
	Enrolment  uint64          // version of the enrolment
	Terms      keystead.Digest // of the terms' text
	Boot       appraise.Boot   // which boot was admitted; of version 1 the resets alone are known
	Denials    []string        // subjects of denials that would end it
	Guest      keystead.Digest // of a host with a TEE alone: which guest was admitted; zero for a host with a TPM

	first bool // it is of version 1
}

// Bounds of a record.
const (
	maxSubjectKey = 1024 // bytes
	maxDenials    = 8
)

// Bytes returns the record's one encoding.
func (r *Record) Bytes() []byte {
	version := byte(2)
	switch {
	case r.first:
		version = 1
	case !r.Guest.IsZero():
		version = 3
	}
	b := binary.BigEndian.AppendUint64([]byte{version}, r.Until)
	b = binary.BigEndian.AppendUint64(b, r.Issued)
	b = cursor.AppendSized16(b, r.Role)
	b = append(append(b, r.EK[:]...), r.AK[:]...)
	b = append(cursor.AppendSized16(b, r.SubjectKey), byte(r.Assurance))
	b = binary.BigEndian.AppendUint64(append(b, r.Verdict[:]...), r.Enrolment)
	b = binary.BigEndian.AppendUint64(append(b, r.Terms[:]...), uint64(r.Boot.Resets))
	if !r.first {
		b = appendBoot(b, &r.Boot)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Denials)))
	for _, d := range r.Denials {
		b = cursor.AppendSized16(b, d)
	}
	if version == 3 {
		b = append(b, r.Guest[:]...)
	}
	return b
}

// ParseRecord reads a record. It fails with a *keystead.FormatError.
func ParseRecord(b []byte) (Record, error) {
	c := cursor.New("lease", binary.BigEndian, b)
	version := c.U8("version")
	if version == 0 || version > recordVersion {
		c.Fail("version", "%d; this build knows 1 to %d", version, recordVersion)
	}
	digest := func(field string) (d keystead.Digest) {
		copy(d[:], c.Bytes(len(d), field))
		return d
	}
	r := Record{Until: c.U64("until"), Issued: c.U64("issued"), Role: string(c.Sized16(8, "role")), EK: digest("ek"), AK: digest("ak"),
		SubjectKey: append([]byte(nil), c.Sized16(maxSubjectKey, "subject key")...), Assurance: evidence.Assurance(c.U8("assurance")),
		Verdict: digest("verdict"), Enrolment: c.U64("enrolment"), Terms: digest("terms"), first: version == 1}
	resets := c.U64("reset count")
	if r.Boot.Resets = uint32(resets); resets > math.MaxUint32 {
		c.Fail("reset count", "%d is more than a TPM counts", resets)
	}
	if !r.first {
		readBoot(c, &r.Boot)
	}
	n := int(c.U16("denials"))
	if n > maxDenials {
		c.Fail("denials", "%d, at most %d are accepted", n, maxDenials)
	}
	for i := 0; i < n && c.Err() == nil; i++ {
		s := string(c.Sized16(maxSubject, "denial"))
		if c.Err() == nil && !validDenial(s) {
			c.Fail("denial", "%.80q is not the subject of one", s)
		}
		r.Denials = append(r.Denials, s)
	}
	if version == 3 {
		if r.Guest = digest("guest"); r.Guest.IsZero() {
			c.Fail("guest", "is all zeroes, which names nothing")
		}
	}
	if _, err := evidence.ParseAssurance(r.Assurance.String()); err != nil {
		c.Fail("assurance", "%v", err)
	}
	if r.Role != RoleHost && r.Role != RoleNode {
		c.Fail("role", "%.8q is not known", r.Role)
	}
	c.End()
	if err := c.Err(); err != nil {
		return Record{}, err
	}
	return r, nil
}

// appendBoot writes a boot without its count of resets.
func appendBoot(b []byte, x *appraise.Boot) []byte {
	b = binary.BigEndian.AppendUint32(b, x.Restarts)
	b = binary.BigEndian.AppendUint64(b, x.Clock)
	unsafe := byte(0)
	if x.Unsafe {
		unsafe = 1
	}
	b = binary.BigEndian.AppendUint64(append(b, unsafe), x.Firmware)
	b = binary.BigEndian.AppendUint64(b, x.LogBytes)
	return append(b, x.Log[:]...)
}

// readBoot reads what appendBoot wrote.
func readBoot(c *cursor.Cursor, x *appraise.Boot) {
	x.Restarts, x.Clock = c.U32("restart count"), c.U64("clock")
	unsafe := c.U8("unsafe")
	if unsafe > 1 {
		c.Fail("unsafe", "is %d, want 0 or 1", unsafe)
	}
	x.Unsafe, x.Firmware, x.LogBytes = unsafe == 1, c.U64("firmware"), c.U64("log bytes")
	copy(x.Log[:], c.Bytes(len(x.Log), "log"))
}

// RecordTimes returns end and beginning of a lease from its record, of any version: all
// that the ledger reads of it. Both are 0 for bytes that are no record.
func RecordTimes(b []byte) (until, issued uint64) {
	if len(b) < 17 || b[0] == 0 {
		return 0, 0
	}
	return binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
}

func at(ms uint64) string { return strconv.FormatUint(ms, 10) + " ms" }

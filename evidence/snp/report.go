// Package snp reads and verifies attestation reports of AMD SEV-SNP guests (SEV Secure
// Nested Paging Firmware ABI Specification, revision 1.58, section 7.3).
//
// A report is signed by the chip's VCEK, or by a VLEK that AMD gave to a cloud; AMD's
// roots certify either. [Verify] checks chain, chip and firmware level. What the guest
// runs is for policies to judge; it trusts the pinned roots and nothing else.
package snp

import (
	"bytes"
	"encoding/binary"

	"github.com/keystead/keystead/internal/cursor"
)

// Size is that of ATTESTATION_REPORT in bytes.
const Size = 1184

// signedSize is how much of it is signed.
const signedSize = 0x2A0

// The keys that sign reports (SIGNING_KEY).
const (
	keyVCEK = 0
	keyVLEK = 1
)

// Report is ATTESTATION_REPORT. Byte strings alias the input.
type Report struct {
	Version     uint32
	GuestSVN    uint32
	Policy      Policy
	VMPL        uint32
	CurrentTCB  uint64
	Platform    uint64
	Flags       uint32 // 0x48: AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY
	ReportData  []byte // 64
	Measurement []byte // 48
	HostData    []byte // 32
	IDKey       []byte // 48, digest; zeros: launched without an ID block
	ReportID    []byte // REPORT_ID, 32: of this guest since its launch
	MigrationID []byte // REPORT_ID_MA, 32; all ones: no migration agent
	ReportedTCB uint64
	Family      uint8 // CPUID; 0 before version 3
	Model       uint8
	ChipID      []byte // 64; zeros when masked
	Committed   uint64
	LaunchTCB   uint64

	signed []byte
	r, s   []byte // little-endian
}

// Policy is POLICY, what the guest's owner allows (section 4.3).
type Policy uint64

// Debug reports whether a debugger may read the guest's memory.
func (p Policy) Debug() bool { return p&(1<<19) != 0 }

// Migration reports whether a migration agent may take the guest away.
func (p Policy) Migration() bool { return p&(1<<18) != 0 }

// Parse reads a report: Size bytes, no more. It fails with a *keystead.FormatError.
func Parse(raw []byte) (*Report, error) {
	c := cursor.New("snp-report", binary.LittleEndian, raw)
	r := &Report{Version: c.U32("version")}
	if r.Version < 2 || r.Version > 5 {
		c.Fail("version", "is %d, want 2 to 5", r.Version)
	}
	r.GuestSVN = c.U32("guest SVN")
	r.Policy = Policy(c.U64("policy"))
	c.Bytes(32, "family and image id")
	r.VMPL = c.U32("VMPL")
	if algo := c.U32("signature algorithm"); algo != 1 {
		c.Fail("signature algorithm", "is %d, want 1 (ECDSA P-384 with SHA-384)", algo)
	}
	r.CurrentTCB = c.U64("current TCB")
	r.Platform = c.U64("platform info")
	r.Flags = c.U32("key flags")
	c.Bytes(4, "reserved")
	r.ReportData = c.Bytes(64, "report data")
	r.Measurement = c.Bytes(48, "measurement")
	r.HostData = c.Bytes(32, "host data")
	r.IDKey = c.Bytes(48, "id key digest")
	c.Bytes(48, "author key digest")
	r.ReportID = c.Bytes(32, "report id")
	r.MigrationID = c.Bytes(32, "report id of the migration agent")
	r.ReportedTCB = c.U64("reported TCB")
	r.Family, r.Model = c.U8("CPUID family"), c.U8("CPUID model")
	c.Bytes(22, "CPUID stepping and reserved")
	r.ChipID = c.Bytes(64, "chip id")
	r.Committed = c.U64("committed TCB")
	c.Bytes(8, "firmware versions")
	r.LaunchTCB = c.U64("launch TCB")
	c.Bytes(signedSize-c.Offset(), "reserved")
	r.r, r.s = scalar(c, "signature R"), scalar(c, "signature S")
	zeros(c, 368, "signature, reserved")
	c.End()
	if err := c.Err(); err != nil {
		return nil, err
	}
	r.signed = raw[:signedSize]
	return r, nil
}

// scalar reads one of the signature's two numbers: 72 bytes, little-endian, of which
// P-384 needs 48.
func scalar(c *cursor.Cursor, field string) []byte {
	b := c.Bytes(48, field)
	zeros(c, 24, field)
	return b
}

func zeros(c *cursor.Cursor, n int, field string) {
	if b := c.Bytes(n, field); b != nil && len(bytes.Trim(b, "\x00")) > 0 {
		c.Fail(field, "has bits beyond what is defined")
	}
}

// SigningKey returns SIGNING_KEY: 0 VCEK, 1 VLEK, 7 none.
func (r *Report) SigningKey() int { return int(r.Flags>>2) & 7 }

// ChipMasked reports whether the platform hides the chip's identity or key.
func (r *Report) ChipMasked() bool {
	return r.Flags&2 != 0 || len(bytes.Trim(r.ChipID, "\x00")) == 0
}

// Debuggable reports whether somebody outside may read the guest's memory: a debugger,
// or a migration agent if the guest has one.
func (r *Report) Debuggable() bool {
	return r.Policy.Debug() || r.Policy.Migration() && bytes.Count(r.MigrationID, []byte{0xff}) < len(r.MigrationID)
}

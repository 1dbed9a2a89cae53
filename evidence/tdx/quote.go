// Package tdx reads and verifies quotes of Intel TDX guests: DCAP quotes of version 4 and
// 5, with the TD report of TDX 1.0 or 1.5 (TDX DCAP Quoting Library API, appendix A.3).
//
// [Verify] checks signatures up to a pinned root, [Verified.Standing] what Intel says of
// machine and module. What the guest runs is for policies to judge; it trusts the pinned
// roots and nothing else.
package tdx

import (
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/internal/dcap"
)

// Quote is a DCAP quote with a TD report. Byte strings alias the input.
type Quote struct {
	TCBSVN         []byte // TEE_TCB_SVN, 16
	MRSeam         []byte // 48
	MRSignerSeam   []byte // 48; zeros: Intel's
	SeamAttributes []byte // 8
	Attributes     uint64 // TDATTRIBUTES
	MRTD           []byte // 48
	MRConfigID     []byte // 48
	MROwner        []byte // 48
	RTMR           [4][]byte
	ReportData     []byte // 64

	quote *dcap.Quote
}

// Bits of TDATTRIBUTES.
const (
	attributesTUD = 0xFF    // debug and what else makes a TD untrusted
	migratable    = 1 << 29 // a migration TD may take it away
)

// Parse reads a quote. It fails with a *keystead.FormatError.
func Parse(raw []byte) (*Quote, error) {
	d, err := dcap.Parse(raw)
	if err != nil {
		return nil, err
	}
	if d.TEE != dcap.TEETDX {
		return nil, &keystead.FormatError{Format: "tdx-quote", Offset: 4, Field: "TEE type", Problem: "is that of SGX"}
	}
	c := cursor.New("td-report", binary.LittleEndian, d.Body)
	q := &Quote{quote: d, TCBSVN: c.Bytes(16, "TEE_TCB_SVN"), MRSeam: c.Bytes(48, "MRSEAM"), MRSignerSeam: c.Bytes(48, "MRSIGNERSEAM"),
		SeamAttributes: c.Bytes(8, "SEAMATTRIBUTES"), Attributes: c.U64("TDATTRIBUTES")}
	c.Bytes(8, "XFAM")
	q.MRTD, q.MRConfigID, q.MROwner = c.Bytes(48, "MRTD"), c.Bytes(48, "MRCONFIGID"), c.Bytes(48, "MROWNER")
	c.Bytes(48, "MROWNERCONFIG")
	for i := range q.RTMR {
		q.RTMR[i] = c.Bytes(48, "RTMR")
	}
	q.ReportData = c.Bytes(64, "REPORTDATA")
	if len(d.Body) == dcap.TD15Size {
		c.Bytes(16+48, "TEE_TCB_SVN_2 and MRSERVICETD")
	}
	c.End()
	return q, c.Err()
}

// Debuggable reports whether somebody outside may read the guest's memory: a debugger,
// or a migration TD.
func (q *Quote) Debuggable() bool { return q.Attributes&(attributesTUD|migratable) != 0 }

// Machine says which collateral the quote needs; nothing of it is verified.
func (q *Quote) Machine() (fmspc, authority string, err error) { return q.quote.Machine() }

// PPID is the machine's identity, 16 bytes; nothing of it is verified.
func (q *Quote) PPID() ([]byte, error) { return q.quote.PPID() }

// Verified is a quote whose signature leads to a pinned root.
type Verified struct {
	*Quote
	*dcap.Verified
}

// Verify checks the signatures; see dcap.Verify for the refusals.
func Verify(raw []byte, roots evidence.VendorRoots, at time.Time) (*Verified, error) {
	q, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	v, err := dcap.Verify(q.quote, roots, at)
	if err != nil {
		return nil, err
	}
	return &Verified{q, v}, nil
}

// Standing looks machine and module up in the collateral.
func (v *Verified) Standing(collateral *evidence.Collateral, roots evidence.VendorRoots, at time.Time) (*dcap.Standing, error) {
	return v.Verified.Standing(v.module(), collateral, roots, at)
}

// Spared checks what holds of them whatever the collateral's age, and without any.
func (v *Verified) Spared(collateral *evidence.Collateral, roots evidence.VendorRoots, at time.Time) error {
	return v.Verified.Spared(v.module(), collateral, roots, at)
}

func (v *Verified) module() *dcap.TDX {
	return &dcap.TDX{SVN: v.TCBSVN, Signer: v.MRSignerSeam, Attributes: v.SeamAttributes}
}

// Claims returns what quote and certificate say, for policies.
func (v *Verified) Claims() evidence.TEEClaims {
	c := v.PCK.Claims(evidence.KindTDX, v.Root)
	c.Launch, c.HostData, c.Debug = "sha384:"+hex.EncodeToString(v.MRTD), hex.EncodeToString(v.MRConfigID), v.Debuggable()
	for _, r := range v.RTMR {
		c.Registers = append(c.Registers, "sha384:"+hex.EncodeToString(r))
	}
	for _, svn := range v.TCBSVN {
		c.TCBCommitted = append(c.TCBCommitted, int64(svn))
	}
	return c
}

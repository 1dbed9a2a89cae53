package foundry

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"slices"
	"time"

	"github.com/keystead/keystead/evidence"
)

// AMD is a made-up AMD with one chip, a Milan at one level.
type AMD struct {
	ark, ask, vcek *authority
	ChipID         []byte
	TCB            uint64
}

// NewAMD makes one. The chip's id consists of one byte.
func NewAMD(chip byte) *AMD {
	ark := (*authority)(nil).issue(elliptic.P384(), "ARK-Milan", true)
	a := &AMD{ark: ark, ask: ark.issue(elliptic.P384(), "SEV-Milan", true)}
	a.NewChip(chip)
	return a
}

// NewChip gives the vendor another chip.
func (a *AMD) NewChip(chip byte) {
	a.ChipID, a.TCB = bytes.Repeat([]byte{chip}, 64), 0xDB18000000000004 // microcode 219, SNP 24, TEE 0, boot loader 4
	id := func(tail ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, tail...)
	}
	ext := []pkix.Extension{
		{Id: id(2), Value: must(asn1.MarshalWithParams("Milan-B0", "ia5"))},
		{Id: id(4), Value: a.ChipID},
	}
	for n, level := range map[int]int{1: 4, 2: 0, 3: 0x18, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0xDB} {
		ext = append(ext, pkix.Extension{Id: id(3, n), Value: must(asn1.Marshal(level))})
	}
	a.vcek = a.ask.issue(elliptic.P384(), "SEV-VCEK", false, ext...)
}

// Certificates are what the machine sends beside its report.
func (a *AMD) Certificates() [][]byte { return [][]byte{a.vcek.cert.Raw} }

// Roots pin the vendor's root.
func (a *AMD) Roots() evidence.VendorRoots { return a.ark.roots() }

// Pieces are the vendor's collateral; with revoked its list names the ASK.
func (a *AMD) Pieces(revoked bool) []evidence.Piece { return a.PiecesOf(Now, revoked) }

// PiecesOf are those of another day.
func (a *AMD) PiecesOf(day time.Time, revoked bool) []evidence.Piece {
	crl := a.ark.crlOf(day)
	if revoked {
		crl = a.ark.crlOf(day, a.ask.cert)
	}
	return []evidence.Piece{
		{Kind: evidence.CollateralAMDChain, Name: "vcek/Milan", Data: chainPEM(a.ask, a.ark)},
		{Kind: evidence.CollateralAMDCRL, Name: "vcek/Milan", Data: crl},
	}
}

// Offsets into a report, for edits.
const (
	SNPPolicy      = 0x08
	SNPVMPL        = 0x30
	SNPFlags       = 0x48
	SNPReportData  = 0x50
	SNPMeasurement = 0x90
	SNPReportedTCB = 0x180
	SNPChipID      = 0x1A0
	SNPCommitted   = 0x1E0
	SNPSignature   = 0x2A0
)

// Report makes a signed report of version 2; edit alters it before it is signed.
func (a *AMD) Report(data [64]byte, edit func(report []byte)) []byte {
	b := make([]byte, 1184)
	le := binary.LittleEndian
	le.PutUint32(b, 2)
	le.PutUint64(b[SNPPolicy:], 0x30000)
	le.PutUint32(b[0x34:], 1)
	copy(b[SNPReportData:], data[:])
	copy(b[SNPMeasurement:], bytes.Repeat([]byte{0xAB}, 48))
	copy(b[0x160:], bytes.Repeat([]byte{0xFF}, 32))
	copy(b[SNPChipID:], a.ChipID)
	for _, at := range []int{0x38, SNPReportedTCB, SNPCommitted, 0x1F0} {
		le.PutUint64(b[at:], a.TCB)
	}
	if edit != nil {
		edit(b)
	}
	sig := a.vcek.sign384(b[:SNPSignature])
	r, s := sig[:48], sig[48:]
	slices.Reverse(r)
	slices.Reverse(s)
	copy(b[SNPSignature:], r)
	copy(b[SNPSignature+72:], s)
	return b
}

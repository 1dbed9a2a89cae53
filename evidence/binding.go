package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// The purposes that evidence can be made for. What is made for one is never
// accepted for another.
const (
	// PurposeVerify is evidence for a person or a program that asked for it by a nonce.
	PurposeVerify = "verify"
	// PurposeConnection is evidence for the peer of one connection, and for as long as
	// that connection stands (docs/spec/attest.md).
	PurposeConnection = "connection"
	// PurposeRaw is evidence that another tool took: the qualifying data is the nonce
	// itself. This project judges such evidence on request and never makes it.
	PurposeRaw = "raw"
	// PurposeNodeKey is a TPM's certification of a node's key in a roster change.
	PurposeNodeKey = "node-key"
	// PurposeShutdown is a TPM's certification of a node's record of a clean shutdown.
	PurposeShutdown = "shutdown"
	// PurposeAdmission is evidence for the ledger, by a ledger nonce, to be admitted.
	PurposeAdmission = "admission"
	// PurposeRenewal is likewise, to keep a lease.
	PurposeRenewal = "renewal"
)

// A Binding ties evidence to the question that it answers: what for, which
// challenge, and which key of the subject speaks afterwards.
type Binding struct {
	Purpose    string `cbor:"1,keyasint" json:"purpose"`
	Nonce      []byte `cbor:"2,keyasint" json:"nonce"`
	SubjectKey []byte `cbor:"3,keyasint,omitempty" json:"subject_key,omitempty"` // PKIX DER, or as the purpose has it; empty when no key is bound
}

// QualifyingData returns what the quote must carry in TPMS_ATTEST.extraData:
// SHA-256 over a label and the length-prefixed fields (docs/spec/bundle.md), or
// for PurposeRaw the nonce.
func (b Binding) QualifyingData() []byte {
	if b.Purpose == PurposeRaw {
		return slices.Clone(b.Nonce)
	}
	h := sha256.New()
	h.Write([]byte("keystead/binding/1\x00"))
	for _, field := range [][]byte{[]byte(b.Purpose), b.Nonce, b.SubjectKey} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(field)))
		h.Write(n[:])
		h.Write(field)
	}
	return h.Sum(nil)
}

// ReportDataSize is that of REPORTDATA in reports of SEV-SNP, TDX and SGX, in bytes.
const ReportDataSize = 64

// ReportData returns what a TEE's report must carry: the qualifying data, and behind
// it the SHA-256 of the attestation key (TPMT_PUBLIC) of a TPM that speaks in the
// same bundle, or zeros. So a guest says which TPM is its own.
func (b Binding) ReportData(akPublic []byte) (out [ReportDataSize]byte) {
	n := copy(out[:], b.QualifyingData())
	if len(akPublic) > 0 && b.Purpose != PurposeRaw {
		d := sha256.Sum256(akPublic)
		copy(out[n:], d[:])
	}
	return out
}

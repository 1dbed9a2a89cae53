package tpm2

import (
	"bytes"
	"encoding/binary"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// Constants of TPMS_ATTEST (Part 2, 6.2 and 6.9).
const (
	attestMagic = 0xFF544347 // TPM_GENERATED_VALUE: only the TPM signs structures that open so
	attestQuote = 0x8018     // TPM_ST_ATTEST_QUOTE
)

// Bounds of TPMS_ATTEST.
const (
	maxName       = 2 + maxDigest        // bytes of TPM2B_NAME
	maxData       = 2 + maxDigest        // bytes of TPM2B_DATA, which is sized for a TPMT_HA
	maxSelections = 16                   // TPML_PCR_SELECTION
	selectSize    = evidence.NumPCRs / 8 // bytes of a PC Client TPM's PCR bitmap
)

// Quote is what a TPM signed in answer to TPM2_Quote: TPMS_ATTEST with
// TPMS_QUOTE_INFO. It is made by [VerifyQuote] only. The values of a TPM's clock
// and counters are plain when Endorsement is true; for keys elsewhere the TPM may
// add a constant of its own to Firmware, ResetCount and RestartCount (Part 1,
// "Timing Components").
type Quote struct {
	ExtraData    []byte // the caller's qualifying data, aliasing the attest bytes
	Clock        uint64 // milliseconds powered on since the last TPM2_Clear
	ResetCount   uint32 // TPM resets since the last TPM2_Clear: grows with each boot
	RestartCount uint32 // resumes since the last reset
	Safe         bool   // Clock did not go backwards over an unorderly shutdown
	Firmware     uint64 // vendor's number of the TPM's firmware
	Endorsement  bool   // the key is a primary key of the endorsement hierarchy

	selections []selection
	pcrDigest  []byte
	hash       alg // of pcrDigest: that of the signature's scheme
}

// selection is TPMS_PCR_SELECTION: the quoted registers of one bank, at least one.
type selection struct {
	bank evidence.Bank
	pcrs [selectSize]byte // bit i%8 of byte i/8 is register i
}

func (s selection) has(i int) bool { return s.pcrs[i/8]&(1<<(i%8)) != 0 }

// VerifyQuote checks that ak is fit to attest, that attest (TPMS_ATTEST) is a
// quote, and that signature (TPMT_SIGNATURE) is ak's over it. It fails with a
// *keystead.FormatError or with key-unsuitable or signature-invalid. That ak
// belongs to a certain TPM, and that ExtraData is the expected binding, is the
// caller's to check.
func VerifyQuote(ak *Public, attest, signature []byte) (*Quote, error) {
	if err := ak.CheckAttestationKey(); err != nil {
		return nil, err
	}
	q := &Quote{hash: ak.schemeHash}
	qualifiedSigner, err := q.parse(attest)
	if err != nil {
		return nil, err
	}
	sig, err := parseSignature(signature)
	if err != nil {
		return nil, err
	}
	if err := ak.verify(sig, attest); err != nil {
		return nil, err
	}
	q.Endorsement = bytes.Equal(qualifiedSigner, ak.endorsementName())
	return q, nil
}

// parse reads TPMS_ATTEST and returns its qualifiedSigner.
func (q *Quote) parse(attest []byte) (qualifiedSigner []byte, err error) {
	c := cursor.New("tpms-attest", binary.BigEndian, attest)
	if magic := c.U32("magic"); magic != attestMagic {
		c.Fail("magic", "is 0x%08x, want 0x%08x (TPM_GENERATED_VALUE)", magic, uint32(attestMagic))
	}
	if kind := c.U16("type"); kind != attestQuote {
		c.Fail("type", "is 0x%04x, want 0x%04x (TPM_ST_ATTEST_QUOTE)", kind, attestQuote)
	}
	qualifiedSigner = c.Sized16(maxName, "qualifiedSigner")
	q.ExtraData = c.Sized16(maxData, "extraData")
	q.Clock = c.U64("clock")
	q.ResetCount = c.U32("resetCount")
	q.RestartCount = c.U32("restartCount")
	safe := c.U8("safe")
	if safe > 1 {
		c.Fail("safe", "is %d, want 0 or 1", safe)
	}
	q.Safe = safe == 1
	q.Firmware = c.U64("firmwareVersion")
	q.parseSelections(c)
	q.pcrDigest = c.Sized16(maxDigest, "pcrDigest")
	if want := q.hash.hash().Size(); len(q.pcrDigest) != want {
		c.Fail("pcrDigest", "is %d bytes long, want %d for %v", len(q.pcrDigest), want, q.hash)
	}
	c.End()
	return qualifiedSigner, c.Err()
}

// parseSelections reads TPML_PCR_SELECTION. A bank may come once, and must select
// something: a register is either quoted, in one place, or not.
func (q *Quote) parseSelections(c *cursor.Cursor) {
	n := int(c.U32("pcrSelect count"))
	if n < 1 || n > maxSelections {
		c.Fail("pcrSelect count", "is %d, want 1 to %d", n, maxSelections)
		return
	}
	q.selections = make([]selection, 0, n)
	for range n {
		s := selection{bank: evidence.Bank(c.U16("pcrSelect hash"))}
		if size := c.U8("pcrSelect size"); size != selectSize {
			c.Fail("pcrSelect size", "is %d bytes, want %d", size, selectSize)
		}
		copy(s.pcrs[:], c.Bytes(selectSize, "pcrSelect"))
		if s.pcrs == [selectSize]byte{} {
			c.Fail("pcrSelect", "selects no register of bank %v", s.bank)
		}
		for _, o := range q.selections {
			if o.bank == s.bank {
				c.Fail("pcrSelect", "selects bank %v twice", s.bank)
			}
		}
		if c.Err() != nil {
			return
		}
		q.selections = append(q.selections, s)
	}
}

// endorsementName returns the qualified name of p as a primary key of the
// endorsement hierarchy: its name hashed with the hierarchy's (Part 1, 16).
func (p *Public) endorsementName() []byte {
	h := p.nameAlg.hash().New()
	h.Write([]byte{0x40, 0x00, 0x00, 0x0B}) // TPM_RH_ENDORSEMENT, its own name
	h.Write(p.name)
	return h.Sum(binary.BigEndian.AppendUint16(make([]byte, 0, maxName), uint16(p.nameAlg)))
}

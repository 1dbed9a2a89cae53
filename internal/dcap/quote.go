// Package dcap reads and verifies what quotes of SGX and TDX have in common (Intel SGX
// DCAP: ECDSA Quote Library API, appendix A; TDX DCAP Quoting Library API, appendix A):
// a header, a body, and a signature by a key that a quoting enclave made, which a PCK
// certificate of the machine vouches for.
//
// It trusts the pinned roots alone. TCB info, quoting enclave identity and revocation
// lists come from collateral and count as far as Intel signed them and they are current.
package dcap

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/internal/endorse"
)

// Sizes in bytes.
const (
	headerSize = 48
	ReportSize = 384 // SGX report body
	TD10Size   = 584 // TD report of TDX 1.0
	TD15Size   = 648 // of TDX 1.5
	maxAuth    = 1024
	maxChain   = 32 << 10
)

// The TEE types of a header.
const (
	TEESGX = 0x00
	TEETDX = 0x81
)

// Types of certification data.
const (
	certPEM = 5 // PCK certificate chain
	certQE  = 6 // quoting enclave's report, with certification data of its own
)

// intelQE is Intel's QE vendor id.
var intelQE = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// Quote is a DCAP quote. Byte strings alias the input.
type Quote struct {
	Version uint16
	TEE     uint32
	Body    []byte // SGX or TD report

	signed      []byte // header and body
	signature   []byte // r, s: 32 each, big-endian
	key         []byte // attestation key, x, y
	qeReport    []byte
	qeSignature []byte
	qeAuth      []byte
	chain       []byte // PEM
}

// Parse reads a quote of version 3, 4 or 5. Behind it only zeros may stand, as buffers of
// drivers have them. It fails with a *keystead.FormatError.
func Parse(raw []byte) (*Quote, error) {
	c := cursor.New("dcap-quote", binary.LittleEndian, raw)
	q := &Quote{}
	q.header(c)
	q.body(c)
	q.signed = raw[:c.Offset()]
	size := c.U32("signature length")
	data := c.Bytes(int(size), "signature data")
	if padding := c.Rest(); len(bytes.Trim(padding, "\x00")) > 0 {
		c.Fail("end", "%d bytes are left over", len(padding))
	}
	if err := c.Err(); err != nil {
		return nil, err
	}
	return q, q.signatureData(data)
}

func (q *Quote) header(c *cursor.Cursor) {
	q.Version = c.U16("version")
	if q.Version < 3 || q.Version > 5 {
		c.Fail("version", "is %d, want 3 to 5", q.Version)
	}
	if kind := c.U16("attestation key type"); kind != 2 {
		c.Fail("attestation key type", "is %d, want 2 (ECDSA P-256)", kind)
	}
	q.TEE = c.U32("TEE type") // reserved and zero in version 3, which is SGX's
	if q.TEE != TEESGX && (q.TEE != TEETDX || q.Version == 3) {
		c.Fail("TEE type", "is 0x%x in version %d", q.TEE, q.Version)
	}
	c.Bytes(4, "QE SVN and PCE SVN")
	if id := c.Bytes(16, "QE vendor id"); !bytes.Equal(id, intelQE) {
		c.Fail("QE vendor id", "is %x, want Intel's", id)
	}
	c.Bytes(20, "user data")
}

func (q *Quote) body(c *cursor.Cursor) {
	size := ReportSize
	if q.TEE == TEETDX {
		size = TD10Size
	}
	if q.Version == 5 {
		kind, stated := c.U16("body type"), c.U32("body size")
		switch {
		case kind == 1 && q.TEE == TEESGX, kind == 2 && q.TEE == TEETDX:
		case kind == 3 && q.TEE == TEETDX:
			size = TD15Size
		default:
			c.Fail("body type", "is %d for TEE type 0x%x", kind, q.TEE)
		}
		if stated != uint32(size) {
			c.Fail("body size", "is %d, want %d", stated, size)
		}
	}
	q.Body = c.Bytes(size, "body")
}

func (q *Quote) signatureData(data []byte) error {
	c := cursor.New("dcap-signature", binary.LittleEndian, data)
	q.signature = c.Bytes(64, "signature")
	q.key = c.Bytes(64, "attestation key")
	if q.Version > 3 {
		if kind := c.U16("certification data type"); kind != certQE {
			c.Fail("certification data type", "is %d, want %d (report of the quoting enclave)", kind, certQE)
		}
		inner := c.Sized32(ReportSize+64+2+maxAuth+6+maxChain, "certification data")
		c.End()
		if err := c.Err(); err != nil {
			return err
		}
		c = cursor.New("dcap-certification", binary.LittleEndian, inner)
	}
	q.qeReport = c.Bytes(ReportSize, "report of the quoting enclave")
	q.qeSignature = c.Bytes(64, "its signature")
	q.qeAuth = c.Sized16(maxAuth, "authentication data")
	if kind := c.U16("certification data type"); kind != certPEM {
		c.Fail("certification data type", "is %d, want %d (PCK certificate chain)", kind, certPEM)
	}
	q.chain = c.Sized32(maxChain, "PCK certificate chain")
	c.End()
	return c.Err()
}

// Enclave is an SGX report body (REPORTBODY).
type Enclave struct {
	CPUSVN     []byte // 16
	MiscSelect []byte // 4
	Attributes []byte // 16
	MREnclave  []byte // 32
	MRSigner   []byte // 32
	ConfigID   []byte // 64
	ProductID  uint16
	SVN        uint16
	ReportData []byte // 64
}

// Debug reports whether a debugger may read the enclave's memory.
func (e *Enclave) Debug() bool { return e.Attributes[0]&2 != 0 }

// ParseEnclave reads an SGX report body of ReportSize bytes.
func ParseEnclave(b []byte) (*Enclave, error) {
	c := cursor.New("sgx-report", binary.LittleEndian, b)
	e := &Enclave{CPUSVN: c.Bytes(16, "CPUSVN"), MiscSelect: c.Bytes(4, "MISCSELECT")}
	c.Bytes(12+16, "reserved")
	e.Attributes = c.Bytes(16, "ATTRIBUTES")
	e.MREnclave = c.Bytes(32, "MRENCLAVE")
	c.Bytes(32, "reserved")
	e.MRSigner = c.Bytes(32, "MRSIGNER")
	c.Bytes(32, "reserved")
	e.ConfigID = c.Bytes(64, "CONFIGID")
	e.ProductID, e.SVN = c.U16("ISVPRODID"), c.U16("ISVSVN")
	c.Bytes(2+42+16, "CONFIGSVN, reserved and ISVFAMILYID")
	e.ReportData = c.Bytes(64, "REPORTDATA")
	c.End()
	if c.Err() == nil && e.Attributes[0]&1 == 0 {
		c.Fail("ATTRIBUTES", "are of an enclave that was not initialised")
	}
	return e, c.Err()
}

// Machine says which collateral a quote needs: FMSPC, and which of Intel's authorities
// certified the machine (platform or processor). Nothing of it is verified.
func (q *Quote) Machine() (fmspc, authority string, err error) {
	p, leaf, err := q.pck()
	if err != nil {
		return "", "", err
	}
	return p.FMSPC, authorityName(leaf.Issuer.CommonName), nil
}

// PPID is the machine's identity, as the quote's PCK certificate states it: 16 bytes.
// Nothing of it is verified.
func (q *Quote) PPID() ([]byte, error) {
	p, _, err := q.pck()
	if err != nil {
		return nil, err
	}
	return p.PPID, nil
}

// pck reads the PCK certificate that the quote brings.
func (q *Quote) pck() (*PCK, *x509.Certificate, error) {
	chain, err := endorse.ParsePEM("PCK certificate chain", q.chain)
	if err != nil {
		return nil, nil, err
	}
	p, err := readPCK(chain[0])
	if err != nil {
		return nil, nil, &keystead.FormatError{Format: "pck-certificate", Field: "SGX extension", Problem: err.Error()}
	}
	return p, chain[0], nil
}

// authorityName is Intel's name for a PCK authority in its service.
func authorityName(commonName string) string {
	if strings.Contains(commonName, "Processor") {
		return "processor"
	}
	return "platform"
}

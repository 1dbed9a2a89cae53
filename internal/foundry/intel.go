package foundry

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead/evidence"
)

// Intel is a made-up Intel with one machine.
type Intel struct {
	root, platform, pck, tcb, key *authority
	PPID                          []byte
	FMSPC                         string
	stranger                      *authority // a key that the quoting enclave does not name
}

// NewIntel makes one.
func NewIntel() *Intel {
	p256 := elliptic.P256()
	root := (*authority)(nil).issue(p256, "Intel SGX Root CA", true)
	i := &Intel{root: root, platform: root.issue(p256, "Intel SGX PCK Platform CA", true), tcb: root.issue(p256, "Intel SGX TCB Signing", false),
		key: root.issue(p256, "attestation key", false), stranger: root.issue(p256, "another key", false),
		PPID: bytes.Repeat([]byte{0x77}, 16), FMSPC: "50806f000000"}
	i.pck = i.platform.issue(p256, "Intel SGX PCK Certificate", false, pkix.Extension{Id: sgxID(), Value: i.extension()})
	return i
}

func sgxID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, tail...)
}

type entry struct {
	ID    asn1.ObjectIdentifier
	Value any
}

func sequence(entries ...entry) []byte {
	var body []byte
	for _, e := range entries {
		body = append(body, must(asn1.Marshal(struct {
			ID    asn1.ObjectIdentifier
			Value asn1.RawValue
		}{e.ID, asn1.RawValue{FullBytes: encode(e.Value)}}))...)
	}
	return must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: body}))
}

func encode(v any) []byte {
	if raw, ok := v.(asn1.RawValue); ok {
		return raw.FullBytes
	}
	return must(asn1.Marshal(v))
}

func (i *Intel) extension() []byte {
	var tcb []entry
	for n := range 16 {
		tcb = append(tcb, entry{sgxID(2, n+1), 5})
	}
	tcb = append(tcb, entry{sgxID(2, 17), 11}, entry{sgxID(2, 18), bytes.Repeat([]byte{5}, 16)})
	return sequence(
		entry{sgxID(1), i.PPID},
		entry{sgxID(2), asn1.RawValue{FullBytes: sequence(tcb...)}},
		entry{sgxID(3), []byte{0, 0}},
		entry{sgxID(4), must(hex.DecodeString(i.FMSPC))},
		entry{sgxID(5), asn1.Enumerated(1)},
	)
}

// Roots pin the vendor's root.
func (i *Intel) Roots() evidence.VendorRoots { return i.root.roots() }

// A World says in which way the vendor's collateral is not the plain one.
type World struct {
	Status   string // of the machine's level; "": UpToDate
	Floor    int    // components that the only level asks for; 0: 5
	FMSPC    string // that TCB info is of; "": the machine's
	Expired  bool   // TCB info and QE identity
	Revoked  bool   // the machine's PCK
	QESigner byte   // of the quoting enclave's identity
}

// Pieces are the vendor's collateral for SGX and TDX.
func (i *Intel) Pieces(w World) []evidence.Piece {
	from, till := Now.AddDate(0, 0, -1), Now.AddDate(0, 1, 0)
	if w.Expired {
		till = Now.AddDate(0, 0, -1).Add(time.Hour)
	}
	dates := fmt.Sprintf(`"issueDate":%q,"nextUpdate":%q,"tcbEvaluationDataNumber":17`, from.Format(time.RFC3339), till.Format(time.RFC3339))
	status, floor, fmspc, pck := orElse(w.Status, "UpToDate"), max(w.Floor, 5), orElse(w.FMSPC, i.FMSPC), i.platform.crl()
	if w.Revoked {
		pck = i.platform.crl(i.pck.cert)
	}
	components := fmt.Sprintf(`[%s{"svn":%d}]`, string(bytes.Repeat(fmt.Appendf(nil, `{"svn":%d},`, floor), 15)), floor)
	ofModule := strings.Replace(components, fmt.Sprintf(`},{"svn":%d}`, floor), `},{"svn":0}`, 1) // its version, the second one
	level := fmt.Sprintf(`{"tcb":{"sgxtcbcomponents":%[1]s,"pcesvn":11,"tdxtcbcomponents":%[3]s},"tcbDate":"2026-08-01T00:00:00Z","tcbStatus":%[2]q,"advisoryIDs":["INTEL-SA-00001"]}`, components, status, ofModule)
	module := fmt.Sprintf(`"tdxModule":{"mrsigner":%q,"attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF"},`, hex.EncodeToString(make([]byte, 48)))
	pieces := []evidence.Piece{
		{Kind: evidence.CollateralIntelRootCRL, Name: "root", Data: i.root.crl()},
		{Kind: evidence.CollateralIntelPCKCRL, Name: "platform", Data: pck},
	}
	for kind, id := range map[string][3]string{"sgx": {"SGX", "QE", ""}, "tdx": {"TDX", "TD_QE", module}} {
		info := fmt.Sprintf(`{"id":%q,"version":3,%s,"fmspc":%q,"pceId":"0000","tcbType":0,%s"tcbLevels":[%s]}`, id[0], dates, fmspc, id[2], level)
		identity := fmt.Sprintf(`{"id":%q,"version":2,%s,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":%q,"isvprodid":2,"tcbLevels":[{"tcb":{"isvsvn":4},"tcbDate":"2026-08-01T00:00:00Z","tcbStatus":"UpToDate"}]}`,
			id[1], dates, hex.EncodeToString(bytes.Repeat([]byte{w.QESigner}, 32)))
		pieces = append(pieces,
			evidence.Piece{Kind: evidence.CollateralIntelTCBInfo, Name: kind + "/" + i.FMSPC, Data: i.signed("tcbInfo", info), Chain: chainPEM(i.tcb, i.root)},
			evidence.Piece{Kind: evidence.CollateralIntelQEIdentity, Name: kind, Data: i.signed("enclaveIdentity", identity), Chain: chainPEM(i.tcb, i.root)})
	}
	return pieces
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (i *Intel) signed(member, body string) []byte {
	return fmt.Appendf(nil, `{%q:%s,"signature":%q}`, member, body, hex.EncodeToString(i.tcb.sign256([]byte(body))))
}

// Enclave returns an SGX report body.
func (i *Intel) enclave(signer byte, svn uint16, product uint16, data [64]byte) []byte {
	b := make([]byte, 384)
	copy(b, bytes.Repeat([]byte{5}, 16))
	b[48] = 0x11 // INIT, PROVISION_KEY
	copy(b[64:], bytes.Repeat([]byte{0xEC}, 32))
	copy(b[128:], bytes.Repeat([]byte{signer}, 32))
	binary.LittleEndian.PutUint16(b[256:], product)
	binary.LittleEndian.PutUint16(b[258:], svn)
	copy(b[320:], data[:])
	return b
}

// Offsets into bodies, for edits.
const (
	TDSVN        = 0
	TDAttributes = 120
	TDMRTD       = 136
	TDRTMR       = 328
	TDReportData = 520
	SGXFlags     = 48
	SGXData      = 320
)

// Quoting says how a quote is made.
type Quoting struct {
	Version  uint16            // 3 is SGX's; 4 and 5 are TDX's
	Edit     func(body []byte) // before it is signed
	Stranger bool              // sign with a key that the quoting enclave does not name
	QESigner byte              // of the quoting enclave
}

// Quote makes a signed quote.
func (i *Intel) Quote(data [64]byte, q Quoting) []byte {
	body := i.enclave(0x51, 3, 7, data)
	body[SGXFlags] = 0x05 // INIT, MODE64BIT
	if q.Version > 3 {
		body = make([]byte, 584)
		if q.Version == 5 {
			body = make([]byte, 648)
		}
		for n := range 16 {
			body[TDSVN+n] = 5
		}
		body[TDSVN+1] = 0 // the module's version
		copy(body[TDMRTD:], bytes.Repeat([]byte{0xCD}, 48))
		copy(body[TDReportData:], data[:])
	}
	if q.Edit != nil {
		q.Edit(body)
	}
	return i.wrap(q, body)
}

func (i *Intel) wrap(q Quoting, body []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, q.Version)
	b = le.AppendUint16(b, 2)
	tee := uint32(0)
	if q.Version > 3 {
		tee = 0x81
	}
	b = le.AppendUint32(b, tee)
	b = append(b, make([]byte, 4)...)
	b = append(b, 0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07)
	b = append(b, make([]byte, 20)...)
	if q.Version == 5 {
		b = le.AppendUint16(b, 3)
		b = le.AppendUint32(b, uint32(len(body)))
	}
	b = append(b, body...)
	key := i.key
	if q.Stranger {
		key = i.stranger
	}
	point := func(a *authority) []byte { return must(a.key.PublicKey.Bytes())[1:] }
	auth := []byte("authentication data of 32 bytes.")
	var named [64]byte
	bound := sha256.Sum256(slices.Concat(point(i.key), auth))
	copy(named[:], bound[:])
	report := i.enclave(q.QESigner, 4, 2, named)
	inner := append(report, i.pck.sign256(report)...)
	inner = append(le.AppendUint16(inner, uint16(len(auth))), auth...)
	chain := chainPEM(i.pck, i.platform, i.root)
	inner = append(le.AppendUint32(le.AppendUint16(inner, 5), uint32(len(chain))), chain...)
	data := append(key.sign256(b), point(key)...)
	if q.Version > 3 {
		data = le.AppendUint32(le.AppendUint16(data, 6), uint32(len(inner)))
	}
	data = append(data, inner...)
	return append(le.AppendUint32(b, uint32(len(data))), data...)
}

package appraise_test

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/refval"
)

func attestationTemplate() gotpm.TPMTPublic {
	return gotpm.TPMTPublic{
		Type: gotpm.TPMAlgECC, NameAlg: gotpm.TPMAlgSHA256,
		ObjectAttributes: gotpm.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{
			CurveID: gotpm.TPMECCNistP256,
			Scheme: gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDSA,
				Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: gotpm.TPMAlgSHA256})},
		}),
	}
}

// A forger is a key outside of any TPM whose owner calls it restricted and fixed,
// and quotes what it likes. Accepted by mistake, or read from a software TPM, it is
// what a host can send at most.
type forger struct {
	key    *ecdsa.PrivateKey
	public []byte
}

func newForger(t testing.TB) forger {
	t.Helper()
	// The same key in each process, so that fuzzing finds its own seeds signed.
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	template := attestationTemplate()
	template.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
		X: gotpm.TPM2BECCParameter{Buffer: point[1:33]}, Y: gotpm.TPM2BECCParameter{Buffer: point[33:]}})
	return forger{key, gotpm.Marshal(template)}
}

func (f forger) accepted(t testing.TB) appraise.AcceptedKey {
	t.Helper()
	p, err := tpm2.ParsePublic(f.public)
	if err != nil {
		t.Fatal(err)
	}
	return appraise.AcceptedKey{Name: p.Name()}
}

// madeUp is TPMS_ATTEST over registers of the forger's choice.
func madeUp(extra []byte, banks []evidence.PCRs) []byte {
	var selections gotpm.TPMLPCRSelection
	h := sha256.New()
	for _, p := range banks {
		bits := make([]byte, evidence.NumPCRs/8)
		for i, v := range p.Value {
			if v != nil {
				bits[i/8] |= 1 << (i % 8)
				h.Write(v)
			}
		}
		selections.PCRSelections = append(selections.PCRSelections, gotpm.TPMSPCRSelection{Hash: gotpm.TPMIAlgHash(p.Bank), PCRSelect: bits})
	}
	return gotpm.Marshal(gotpm.TPMSAttest{
		Magic: gotpm.TPMGeneratedValue, Type: gotpm.TPMSTAttestQuote,
		ExtraData: gotpm.TPM2BData{Buffer: extra},
		Attested:  gotpm.NewTPMUAttest(gotpm.TPMSTAttestQuote, &gotpm.TPMSQuoteInfo{PCRSelect: selections, PCRDigest: gotpm.TPM2BDigest{Buffer: h.Sum(nil)}}),
	})
}

func (f forger) quote(t testing.TB, extra []byte, banks ...evidence.PCRs) *evidence.TPM {
	t.Helper()
	attest := madeUp(extra, banks)
	digest := sha256.Sum256(attest)
	r, s, err := ecdsa.Sign(rand.Reader, f.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	out := &evidence.TPM{AKPublic: f.public, Attest: attest, Signature: gotpm.Marshal(gotpm.TPMTSignature{SigAlg: gotpm.TPMAlgECDSA,
		Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgECDSA, &gotpm.TPMSSignatureECC{Hash: gotpm.TPMAlgSHA256,
			SignatureR: gotpm.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: gotpm.TPM2BECCParameter{Buffer: s.Bytes()}})})}
	for _, p := range banks {
		out.PCRs = append(out.PCRs, evidence.WireValues(p))
	}
	return out
}

// A machine is what a forger's registers say: logs that lead to them.
type machine struct {
	eventLog []byte
	ima      [][]byte      // records after boot_aggregate
	bank     evidence.Bank // that is quoted; 0: SHA-256
}

// registers replays the machine's logs into registers of its bank, with a
// boot_aggregate that fits.
func (m machine) registers(t testing.TB) (imaLog []byte, p evidence.PCRs) {
	t.Helper()
	p.Bank = cmp.Or(m.bank, evidence.SHA256)
	for i := range 16 {
		p.Value[i] = make([]byte, p.Bank.Size())
	}
	extend := func(pcr int, d map[evidence.Bank][]byte) error { p.Extend(pcr, d[p.Bank]); return nil }
	r := recording.Recording{EventLog: m.eventLog, Phases: make([]recording.Phase, 1)}
	if err := r.Replay(0, extend); err != nil {
		t.Fatal(err)
	}
	aggregate := p.Bank.Hash().New()
	aggregate.Write(slices.Concat(p.Value[:10]...))
	imaLog = slices.Concat(append([][]byte{measured(p.Bank.String(), aggregate.Sum(nil), "boot_aggregate")}, m.ima...)...)
	r = recording.Recording{EventLog: record().EventLog[:len(header(t))], Phases: []recording.Phase{{IMALog: imaLog}}}
	if err := r.Replay(0, extend); err != nil {
		t.Fatal(err)
	}
	return imaLog, p
}

// header is the first record of the recorded event log, which measures nothing.
func header(t testing.TB) []byte { return events(t, record().EventLog)[0] }

// input is the machine's evidence, signed by the forger, whose key is accepted by name.
func (f forger) input(t testing.TB, m machine) appraise.Input {
	t.Helper()
	if m.eventLog == nil {
		m.eventLog = record().EventLog
	}
	imaLog, registers := m.registers(t)
	parts := evidence.Parts{Binding: question, TPM: f.quote(t, question.QualifyingData(), registers), EventLog: m.eventLog, IMALog: imaLog,
		Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: record().Status}}
	return appraise.Input{Bundle: bundle(t, parts), Expect: question, Key: f.accepted(t), References: []*refval.Set{record().set},
		CodeSets: []*refval.CodeSet{record().codes}, Policy: compile(t, named), Time: time.Unix(1_800_000_000, 0)}
}

// named is a policy for keys that are accepted by name.
const named = "keystead-policy/1\nname named\nminimum-assurance test\nsoftware every-entry\nboot accepted\nrules none\n"

// entry is a record of binary_runtime_measurements.
func entry(template string, fields ...[]byte) []byte {
	var data []byte
	for _, f := range fields {
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(f))), f...)
	}
	sum := sha1.Sum(data)
	b := append([]byte{10, 0, 0, 0}, sum[:]...)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(template))), template...)
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(data))), data...)
}

// measured is the record of a file.
func measured(alg string, digest []byte, path string) []byte {
	return entry("ima-sig", append([]byte(alg+":\x00"), digest...), append([]byte(path), 0), nil)
}

// violated marks a record as a violation.
func violated(record []byte) []byte {
	out := bytes.Clone(record)
	clear(out[4:24])
	return out
}

// events splits an event log into its records.
func events(t testing.TB, raw []byte) (out [][]byte) {
	t.Helper()
	le := binary.LittleEndian
	n := 32 + int(le.Uint32(raw[28:]))
	for len(raw) > 0 {
		out = append(out, raw[:n:n])
		if raw = raw[n:]; len(raw) == 0 {
			break
		}
		n = 12
		for range le.Uint32(raw[8:]) {
			n += 2 + evidence.Bank(le.Uint16(raw[n:])).Size()
		}
		n += 4 + int(le.Uint32(raw[n:]))
	}
	return out
}

// event is a record of an event log with the digests of both banks.
func event(pcr, kind uint32, measured, data []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, pcr), kind), 2)
	for _, bank := range []evidence.Bank{evidence.SHA256, evidence.SHA384} {
		h := bank.Hash().New()
		h.Write(measured)
		b = append(le.AppendUint16(b, uint16(bank)), h.Sum(nil)...)
	}
	return append(le.AppendUint32(b, uint32(len(data))), data...)
}

// entries splits an IMA log into its records.
func entries(t testing.TB, raw []byte) (out [][]byte) {
	t.Helper()
	for len(raw) > 0 {
		n, err := recording.PrefixSize(raw, 1)
		if err != nil {
			t.Fatal(err)
		}
		out, raw = append(out, raw[:n:n]), raw[n:]
	}
	return out
}

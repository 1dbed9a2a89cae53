package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/endorse"
)

// A Verified quote is one whose signature leads to a pinned root of Intel.
type Verified struct {
	*Quote
	PCK  *PCK
	Root endorse.Root

	chain []*x509.Certificate // PCK, its authority, root
	qe    *Enclave
}

// Verify checks the signatures: the machine's PCK certificate leads to a pinned root, it
// signed the quoting enclave's report, that names the attestation key, and that signed
// the quote. Refusals are vendor-untrusted, signature-invalid and qe-unbound, or a
// *keystead.FormatError.
func Verify(q *Quote, roots evidence.VendorRoots, at time.Time) (*Verified, error) {
	v := &Verified{Quote: q}
	var err error
	if v.chain, err = endorse.ParsePEM("PCK certificate chain", q.chain); err != nil {
		return nil, err
	}
	if v.Root, err = endorse.Verify("PCK certificate chain", v.chain, roots, at); err != nil {
		return nil, err
	}
	if len(v.chain) != 3 {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonVendorUntrusted, Where: "PCK certificate chain", Want: "PCK, its authority and the root", Got: fmt.Sprintf("%d certificates", len(v.chain))})
	}
	if v.PCK, err = readPCK(v.chain[0]); err != nil {
		return nil, &keystead.FormatError{Format: "pck-certificate", Field: "SGX extension", Problem: err.Error()}
	}
	invalid := func(where, by string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: where, Want: "a signature by " + by, Got: "one that does not verify"})
	}
	if !verifyP256(v.chain[0].PublicKey, q.qeReport, q.qeSignature) {
		return nil, invalid("report of the quoting enclave", "the machine's PCK")
	}
	if v.qe, err = ParseEnclave(q.qeReport); err != nil {
		return nil, err
	}
	bound := sha256.Sum256(slices.Concat(q.key, q.qeAuth))
	if want := append(bound[:], make([]byte, 32)...); !bytes.Equal(v.qe.ReportData, want) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonQEUnbound, Where: "report of the quoting enclave",
			Want: hex.EncodeToString(want), Got: hex.EncodeToString(v.qe.ReportData)})
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.key...))
	if err != nil || !verifyP256(key, q.signed, q.signature) {
		return nil, invalid("quote", "the attestation key that the quoting enclave names")
	}
	return v, nil
}

// verifier holds what collateral is judged by.
type verifier struct {
	collateral *evidence.Collateral
	roots      evidence.VendorRoots
	root       endorse.Root
	at         time.Time
	anytime    bool // what was good once counts
	signers    []*x509.Certificate
}

func (w *verifier) current(where string, from, till time.Time) error {
	if w.anytime {
		return nil
	}
	return endorse.Current(where, from, till, w.at)
}

// within is the time as of which a chain is verified: the nearest at which all of it is
// valid, if what was good once counts.
func (w *verifier) within(chain []*x509.Certificate) time.Time {
	at := w.at
	if !w.anytime {
		return at
	}
	for _, c := range chain {
		if at.Before(c.NotBefore) {
			at = c.NotBefore
		}
	}
	for _, c := range chain {
		if at.After(c.NotAfter) {
			at = c.NotAfter
		}
	}
	return at
}

// A Standing is what Intel says of a machine's firmware and quoting enclave.
type Standing struct {
	Status
	Number int64 // tcbEvaluationDataNumber, the lower of TCB info's and QE identity's

	info    tcbInfo
	signers []*x509.Certificate
}

// A TDX is what of a TD report TCB info speaks of; nil for SGX.
type TDX struct {
	SVN        []byte // TEE_TCB_SVN, 16
	Signer     []byte // MRSIGNERSEAM, 48
	Attributes []byte // SEAMATTRIBUTES, 8
}

// Standing looks up the machine in the collateral. Refusals are those of collateral;
// machine-mismatch for TCB info of another machine; qe-unaccepted for a quoting enclave
// or a TDX module that is not Intel's; tcb-outdated if no level fits. That a level is not
// up to date is the caller's to judge.
func (v *Verified) Standing(td *TDX, collateral *evidence.Collateral, roots evidence.VendorRoots, at time.Time) (*Standing, error) {
	return v.standing(td, &verifier{collateral: collateral, roots: roots, root: v.Root, at: at})
}

// Spared checks what holds whatever the collateral's age, and without any, for those who
// take a machine of no known level: a quoting enclave, or a TDX module, that is not the
// vendor's signs anything, and a level that was revoked stays so. Refusals are qe-unaccepted,
// tcb-revoked and those of collateral that was altered or is another machine's.
func (v *Verified) Spared(td *TDX, collateral *evidence.Collateral, roots evidence.VendorRoots, at time.Time) error {
	w := &verifier{collateral: collateral, roots: roots, root: v.Root, at: at, anytime: true}
	s, err := v.standing(td, w)
	switch {
	case errors.Is(err, keystead.ReasonCollateralMissing):
		_, id, _ := names(td)
		if qe := new(qeIdentity); w.qeIdentity(td, qe) == nil {
			_, err = qe.judge(v.qe)
		} else {
			_, err = shippedQE[id].judge(v.qe)
		}
		if err != nil && !errors.Is(err, keystead.ReasonTCBOutdated) {
			return err
		}
		return shippedModule.signed(td)
	case errors.Is(err, keystead.ReasonTCBOutdated):
		return nil
	case err != nil:
		return err
	case s.Word == "Revoked":
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTCBRevoked, Where: "tee", Want: "a level that the vendor did not revoke", Got: fmt.Sprintf("%s of %s, advisories %v", s.Word, s.Date, s.Advisories)})
	}
	return nil
}

// shippedQE are Intel's quoting enclaves, of any version, for where no collateral names
// them: signer, product and that they are not debugged (Intel's enclave identities).
var shippedQE = map[string]*qeIdentity{
	"SGX": {MiscSelect: "00000000", MiscSelectMask: "ffffffff", Attributes: "11000000000000000000000000000000", AttributesMask: "fbffffffffffffff0000000000000000",
		MRSigner: "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", ProductID: 1},
	"TDX": {MiscSelect: "00000000", MiscSelectMask: "ffffffff", Attributes: "11000000000000000000000000000000", AttributesMask: "fbffffffffffffff0000000000000000",
		MRSigner: "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", ProductID: 2},
}

// shippedModule is Intel's TDX module, of any version, likewise.
var shippedModule = &module{MRSigner: strings.Repeat("0", 96), Attributes: "0000000000000000", AttributesMask: "ffffffffffffffff"}

// names are those of a kind of machine in collateral: in the names of pieces, of TCB info
// and of the quoting enclave.
func names(td *TDX) (kind, id, qe string) {
	if td != nil {
		return "tdx", "TDX", "TD_QE"
	}
	return "sgx", "SGX", "QE"
}

func (w *verifier) qeIdentity(td *TDX, into *qeIdentity) error {
	kind, _, id := names(td)
	return w.openSigned(evidence.CollateralIntelQEIdentity, kind, "enclaveIdentity", id, 2, into, &into.dated)
}

func (v *Verified) standing(td *TDX, w *verifier) (*Standing, error) {
	kind, id, _ := names(td)
	s := &Standing{}
	if err := w.openSigned(evidence.CollateralIntelTCBInfo, kind+"/"+v.PCK.FMSPC, "tcbInfo", id, 3, &s.info, &s.info.dated); err != nil {
		return nil, err
	}
	var qe qeIdentity
	if err := w.qeIdentity(td, &qe); err != nil {
		return nil, err
	}
	s.Number, s.signers = min(s.info.Number, qe.Number), w.signers
	if !strings.EqualFold(s.info.FMSPC, v.PCK.FMSPC) || !strings.EqualFold(s.info.PCEID, v.PCK.PCEID) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonMachineMismatch, Where: "TCB info",
			Want: "FMSPC " + v.PCK.FMSPC + ", PCE " + v.PCK.PCEID, Got: "FMSPC " + s.info.FMSPC + ", PCE " + s.info.PCEID})
	}
	status, old := qe.judge(v.qe)
	if old != nil && !errors.Is(old, keystead.ReasonTCBOutdated) {
		return nil, old
	}
	var svn []byte
	if td != nil {
		svn = td.SVN
		module, err := s.info.judgeModule(td)
		if err != nil { // also where the enclave is merely old: whose the module is comes first
			return nil, err
		}
		status = status.worse(module)
	}
	if old != nil {
		return nil, old
	}
	level, ok := s.info.level(v.PCK, svn)
	if !ok {
		return nil, outdated("platform", fmt.Sprintf("components %v, PCESVN %d, TDX components %v", v.PCK.Components, v.PCK.PCESVN, svn))
	}
	s.Status = status.worse(level.status())
	return s, nil
}

func outdated(where, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTCBOutdated, Where: where, Want: "a level that the vendor lists", Got: got})
}

// judge holds a quoting enclave against Intel's identity of it.
func (q *qeIdentity) judge(e *Enclave) (Status, error) {
	switch {
	case !masked(e.MiscSelect, q.MiscSelect, q.MiscSelectMask), !masked(e.Attributes, q.Attributes, q.AttributesMask), !isHex(q.MRSigner, e.MRSigner), q.ProductID != int64(e.ProductID):
		return Status{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonQEUnaccepted, Where: "quoting enclave",
			Want: fmt.Sprintf("signer %s, product %d, attributes %s under %s", q.MRSigner, q.ProductID, q.Attributes, q.AttributesMask),
			Got:  fmt.Sprintf("signer %x, product %d, attributes %x, MISCSELECT %x", e.MRSigner, e.ProductID, e.Attributes, e.MiscSelect)})
	}
	for _, l := range q.Levels {
		if int64(e.SVN) >= l.TCB.ISVSVN {
			return l.status(), nil
		}
	}
	return Status{}, outdated("quoting enclave", fmt.Sprintf("SVN %d", e.SVN))
}

// judgeModule holds the TDX module against Intel's identity of its version: TDX_01 and
// so on, or the first module's for version 0.
func (t *tcbInfo) judgeModule(td *TDX) (Status, error) {
	m := t.Module
	if version := td.SVN[1]; version > 0 {
		i := slices.IndexFunc(t.Modules, func(m module) bool { return strings.EqualFold(m.ID, fmt.Sprintf("TDX_%02X", version)) })
		if i < 0 {
			return Status{}, outdated("TDX module", fmt.Sprintf("version %d, which the TCB info does not know", version))
		}
		m = &t.Modules[i]
	}
	if err := m.signed(td); err != nil {
		return Status{}, err
	}
	if m == t.Module {
		return Status{Word: statuses[0]}, nil // its level is among the platform's
	}
	for _, l := range m.Levels {
		if int64(td.SVN[0]) >= l.TCB.ISVSVN {
			return l.status(), nil
		}
	}
	return Status{}, outdated("TDX module", fmt.Sprintf("version %d, SVN %d", td.SVN[1], td.SVN[0]))
}

// signed checks whose the TDX module is; there is none on a machine without TDX.
func (m *module) signed(td *TDX) error {
	if td == nil || m != nil && isHex(m.MRSigner, td.Signer) && masked(td.Attributes, m.Attributes, m.AttributesMask) {
		return nil
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonQEUnaccepted, Where: "TDX module",
		Want: "the vendor's, not debugged", Got: fmt.Sprintf("version %d, signer %x, attributes %x", td.SVN[1], td.Signer, td.Attributes)})
}

// CheckRevocation checks that none of the certificates was revoked: the machine's by its
// authority, that and the signers of collateral (of a Standing, if not nil) by the root.
// Refusals are collateral-missing, collateral-invalid, collateral-expired and key-revoked.
func (v *Verified) CheckRevocation(s *Standing, collateral *evidence.Collateral, at time.Time) error {
	authority, root := v.chain[1], v.chain[len(v.chain)-1]
	var errs []error
	check := func(where, kind, name string, issuer *x509.Certificate, certs ...*x509.Certificate) {
		list, err := collateral.Find(kind, name)
		for _, c := range certs {
			if err == nil {
				errs = append(errs, endorse.CheckRevoked(where, list.Data, issuer, c, at))
			}
		}
		errs = append(errs, err)
	}
	byRoot := slices.Clone(v.chain[1 : len(v.chain)-1])
	if s != nil {
		byRoot = append(byRoot, s.signers...)
	}
	check("PCK revocation list", evidence.CollateralIntelPCKCRL, authorityName(authority.Subject.CommonName), authority, v.chain[0])
	check("root revocation list", evidence.CollateralIntelRootCRL, "root", root, byRoot...)
	return endorse.Worst(errs)
}

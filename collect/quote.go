package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	evtpm2 "github.com/keystead/keystead/evidence/tpm2"
)

// AKType is a kind of attestation key.
type AKType int

// The attestation keys. Both are restricted signing keys in the endorsement
// hierarchy, the same ones each time for one TPM.
const (
	AKECC AKType = iota // ECDSA on P-256 with SHA-256
	AKRSA               // RSASSA-PKCS1-v1_5 with 2048 bits and SHA-256, for TPMs without ECC; slow to make
)

// template returns what the TPM makes the key from. Another template is another
// key: it must never change.
func (k AKType) template() tpm2.TPMTPublic {
	t := tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true,
			NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
	if k == AKRSA {
		t.Type = tpm2.TPMAlgRSA
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			KeyBits: 2048,
			Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})},
		})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	}
	return t
}

// AK returns the TPM's attestation key as TPMT_PUBLIC.
func (t *TPM) AK(ctx context.Context, kind AKType) (public []byte, err error) {
	err = t.with(ctx, func(l link) error { public, err = l.publicOf(kind.template()); return err })
	return public, err
}

// QuoteRequest says what a quote is wanted over.
type QuoteRequest struct {
	QualifyingData []byte          // evidence.Binding.QualifyingData
	Banks          []evidence.Bank // none: each of sha256 and sha384 that is active
	PCRs           []int           // none: 0 to 15
	AK             AKType
}

// defaultPCRs are the registers that only a reset clears.
var defaultPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// maxAttempts bounds how often a quote is taken anew because registers changed
// between quote and reading, as PCR 10 does while programs start.
const maxAttempts = 16

// Quote takes a quote with the register values that belong to it, checked against
// each other. EKPublic and EKCertificate are left empty; see [TPM.EK].
func (t *TPM) Quote(ctx context.Context, r QuoteRequest) (out *evidence.TPM, err error) {
	if len(r.PCRs) == 0 {
		r.PCRs = defaultPCRs
	}
	for _, i := range r.PCRs {
		if i < 0 || i >= evidence.NumPCRs {
			return nil, fmt.Errorf("PCR %d is none of 0 to %d", i, evidence.NumPCRs-1)
		}
	}
	err = t.with(ctx, func(l link) error { out, err = l.quote(r); return err })
	return out, err
}

func (l link) quote(r QuoteRequest) (out *evidence.TPM, err error) {
	if r.Banks, err = l.chooseBanks(r.Banks); err != nil {
		return nil, err
	}
	ak, err := l.primary(r.AK.template())
	if err != nil {
		return nil, err
	}
	defer l.flush(ak.ObjectHandle, &err)
	public, err := evtpm2.ParsePublic(ak.OutPublic.Bytes())
	if err != nil {
		return nil, err
	}
	cmd := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: r.QualifyingData},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}
	for _, bank := range r.Banks {
		cmd.PCRSelect.PCRSelections = append(cmd.PCRSelect.PCRSelections, selection(bank, r.PCRs))
	}
	for range maxAttempts {
		rsp, err := cmd.Execute(l)
		if err != nil {
			return nil, err
		}
		out := &evidence.TPM{AKPublic: ak.OutPublic.Bytes(), Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}
		var stated []evidence.PCRs
		for _, bank := range r.Banks {
			values, err := l.readPCRs(bank, r.PCRs)
			if err != nil {
				return nil, err
			}
			stated = append(stated, values)
			out.PCRs = append(out.PCRs, evidence.WireValues(values))
		}
		quote, err := evtpm2.VerifyQuote(public, out.Attest, out.Signature)
		if err != nil {
			return nil, fmt.Errorf("the TPM's quote does not hold: %w", err)
		}
		_, err = quote.CheckPCRs(stated)
		if err == nil {
			return out, nil
		}
		if !errors.Is(err, keystead.ReasonPCRMismatch) {
			return nil, err
		}
	}
	return nil, &Error{Found: fmt.Sprintf("TPM %s: registers changed during each of %d quotes", l.tpm.path, maxAttempts),
		Hint: "quote again when fewer programs are being started, or leave PCR 10 out"}
}

func selection(bank evidence.Bank, pcrs []int) tpm2.TPMSPCRSelection {
	bits := make([]byte, evidence.NumPCRs/8)
	for _, i := range pcrs {
		bits[i/8] |= 1 << (i % 8)
	}
	return tpm2.TPMSPCRSelection{Hash: tpm2.TPMIAlgHash(bank), PCRSelect: bits}
}

// Banks returns the banks that are active in the TPM.
func (t *TPM) Banks(ctx context.Context) (banks []evidence.Bank, err error) {
	err = t.with(ctx, func(l link) error { banks, err = l.banks(); return err })
	return banks, err
}

func (l link) banks() ([]evidence.Bank, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(l)
	if err != nil {
		return nil, err
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, err
	}
	var out []evidence.Bank
	for _, s := range assigned.PCRSelections {
		if slices.ContainsFunc(s.PCRSelect, func(b byte) bool { return b != 0 }) {
			out = append(out, evidence.Bank(s.Hash))
		}
	}
	return out, nil
}

// chooseBanks returns the wanted banks if all are active, or with none wanted the
// active ones that verifiers accept.
func (l link) chooseBanks(want []evidence.Bank) ([]evidence.Bank, error) {
	active, err := l.banks()
	if err != nil {
		return nil, err
	}
	if len(want) == 0 {
		want = slices.DeleteFunc(slices.Clone(active), func(b evidence.Bank) bool { return !b.Accepted() })
		if len(want) == 0 {
			return nil, inactive(l.tpm.path, "sha256", active)
		}
	}
	for _, b := range want {
		if !slices.Contains(active, b) {
			return nil, inactive(l.tpm.path, b.String(), active)
		}
	}
	return want, nil
}

func inactive(path, bank string, active []evidence.Bank) error {
	var names []string
	for _, b := range active {
		names = append(names, b.String())
	}
	return &Error{Found: fmt.Sprintf("TPM %s: PCR bank %s is not active (active: %s)", path, bank, strings.Join(names, ", ")),
		Hint: "activate it in the firmware's setup, or as root with tpm2_pcrallocate " + bank + ":all and a reboot"}
}

// ReadPCRs returns the values of registers of one bank, as the TPM states them
// without a signature.
func (t *TPM) ReadPCRs(ctx context.Context, bank evidence.Bank, pcrs []int) (values evidence.PCRs, err error) {
	err = t.with(ctx, func(l link) error {
		if _, err := l.chooseBanks([]evidence.Bank{bank}); err != nil {
			return err
		}
		values, err = l.readPCRs(bank, pcrs)
		return err
	})
	return values, err
}

// readPCRs asks until all are read: a TPM returns eight values at a time at most.
func (l link) readPCRs(bank evidence.Bank, pcrs []int) (evidence.PCRs, error) {
	out := evidence.PCRs{Bank: bank}
	left := slices.Clone(pcrs)
	for len(left) > 0 {
		want := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{selection(bank, left)}}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: want}.Execute(l)
		if err != nil {
			return out, err
		}
		digests := rsp.PCRValues.Digests
		for _, s := range rsp.PCRSelectionOut.PCRSelections {
			for i := range evidence.NumPCRs {
				if i/8 < len(s.PCRSelect) && s.PCRSelect[i/8]&(1<<(i%8)) != 0 && len(digests) > 0 {
					out.Value[i], digests = digests[0].Buffer, digests[1:]
				}
			}
		}
		n := len(left)
		left = slices.DeleteFunc(left, func(i int) bool { return out.Value[i] != nil })
		if len(left) == n {
			return out, fmt.Errorf("the TPM gives no value for PCR %v of bank %v", left, bank)
		}
	}
	return out, nil
}

// Extend extends a register in the given banks, to replay a recorded boot into a
// software TPM. A TPM of the machine is never extended.
func (t *TPM) Extend(ctx context.Context, pcr int, digests map[evidence.Bank][]byte) error {
	if !t.Socket() {
		return &Error{Found: "TPM " + t.path + " is this machine's own", Hint: "replay recordings into a software TPM's socket"}
	}
	cmd := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}}
	for bank, digest := range digests {
		if len(digest) != bank.Size() {
			return fmt.Errorf("a digest of bank %v has %d bytes, not %d", bank, bank.Size(), len(digest))
		}
		cmd.Digests.Digests = append(cmd.Digests.Digests, tpm2.TPMTHA{HashAlg: tpm2.TPMIAlgHash(bank), Digest: digest})
	}
	return t.with(ctx, func(l link) error { _, err := cmd.Execute(l); return err })
}

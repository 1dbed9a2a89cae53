package collect

import (
	"context"
	"errors"
	"fmt"

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
	if err := checkPCRs(r.PCRs...); err != nil {
		return nil, err
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

// Package forger makes what a TPM would make, without one: attestation keys whose
// owner calls them restricted and fixed, and quotes over what it likes. Tests use it
// where a certification must be well-formed, and where it must be just so much
// wrong. A key of it is worth nothing until somebody pins it by mistake.
package forger

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"slices"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/key"
)

// A Forger is an attestation key outside of any TPM.
type Forger struct {
	secret *ecdsa.PrivateKey
	public []byte
}

// New returns a forger. The same seed, which is not 0, gives the same key, and all that
// it signs is deterministic.
func New(seed byte) *Forger { return with(seed, true) }

// Unrestricted returns a forger who does not even claim that its key is restricted.
func Unrestricted(seed byte) *Forger { return with(seed, false) }

func with(seed byte, restricted bool) *Forger {
	secret, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		panic(err) // the seed is 0 or 255
	}
	point, err := secret.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return &Forger{secret, gotpm.Marshal(gotpm.TPMTPublic{
		Type: gotpm.TPMAlgECC, NameAlg: gotpm.TPMAlgSHA256,
		ObjectAttributes: gotpm.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true,
			NoDA: true, Restricted: restricted, SignEncrypt: true},
		Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{CurveID: gotpm.TPMECCNistP256,
			Scheme: gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDSA,
				Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: gotpm.TPMAlgSHA256})}}),
		Unique: gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
			X: gotpm.TPM2BECCParameter{Buffer: point[1:33]}, Y: gotpm.TPM2BECCParameter{Buffer: point[33:]}}),
	})}
}

// AK returns the digest of the key.
func (f *Forger) AK() key.AKDigest { return key.DigestAK(f.public) }

// Certify makes up a quote over eight registers that are zero.
func (f *Forger) Certify(b evidence.Binding) *tpm2.Certification {
	registers := sha256.Sum256(make([]byte, 8*sha256.Size))
	attest := gotpm.Marshal(gotpm.TPMSAttest{
		Magic: gotpm.TPMGeneratedValue, Type: gotpm.TPMSTAttestQuote,
		ExtraData: gotpm.TPM2BData{Buffer: b.QualifyingData()},
		Attested: gotpm.NewTPMUAttest(gotpm.TPMSTAttestQuote, &gotpm.TPMSQuoteInfo{
			PCRSelect: gotpm.TPMLPCRSelection{PCRSelections: []gotpm.TPMSPCRSelection{{Hash: gotpm.TPMAlgSHA256, PCRSelect: []byte{0xFF, 0, 0}}}},
			PCRDigest: gotpm.TPM2BDigest{Buffer: registers[:]}}),
	})
	return &tpm2.Certification{AKPublic: f.public, Attest: attest, Signature: f.Sign(attest)}
}

// Sign returns a TPMT_SIGNATURE over message.
func (f *Forger) Sign(message []byte) []byte {
	digest := sha256.Sum256(message)
	der, err := f.secret.Sign(nil, digest[:], crypto.SHA256) // without randomness: deterministic (RFC 6979)
	if err != nil {
		panic(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		panic(err)
	}
	return gotpm.Marshal(gotpm.TPMTSignature{SigAlg: gotpm.TPMAlgECDSA,
		Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgECDSA, &gotpm.TPMSSignatureECC{Hash: gotpm.TPMAlgSHA256,
			SignatureR: gotpm.TPM2BECCParameter{Buffer: rs.R.Bytes()}, SignatureS: gotpm.TPM2BECCParameter{Buffer: rs.S.Bytes()}})})
}

// Public returns the key's TPMT_PUBLIC.
func (f *Forger) Public() []byte { return f.public }

// Quote makes up a quote over registers that it is given: those that have a value.
func (f *Forger) Quote(b evidence.Binding, banks ...evidence.PCRs) *evidence.TPM {
	return f.quote(gotpm.TPMSAttest{ExtraData: gotpm.TPM2BData{Buffer: b.QualifyingData()}}, banks)
}

// Time is what a quote says of the TPM's counters, clock in milliseconds and firmware.
type Time struct {
	Resets, Restarts uint32
	Clock, Firmware  uint64
	Unsafe           bool
}

// QuoteAt is Quote at a time, as a primary key of the endorsement hierarchy states it.
func (f *Forger) QuoteAt(b evidence.Binding, t Time, banks ...evidence.PCRs) *evidence.TPM {
	name := sha256.Sum256(f.public)
	parent := []byte{0x40, 0, 0, 0x0B} // TPM_RH_ENDORSEMENT
	qualified := sha256.Sum256(slices.Concat(parent, []byte{0, byte(gotpm.TPMAlgSHA256)}, name[:]))
	return f.quote(gotpm.TPMSAttest{ExtraData: gotpm.TPM2BData{Buffer: b.QualifyingData()},
		QualifiedSigner: gotpm.TPM2BName{Buffer: append([]byte{0, byte(gotpm.TPMAlgSHA256)}, qualified[:]...)},
		ClockInfo:       gotpm.TPMSClockInfo{Clock: t.Clock, ResetCount: t.Resets, RestartCount: t.Restarts, Safe: gotpm.TPMIYesNo(!t.Unsafe)}, FirmwareVersion: t.Firmware}, banks)
}

// quote fills in the registers and signs.
func (f *Forger) quote(attest gotpm.TPMSAttest, banks []evidence.PCRs) *evidence.TPM {
	var selections gotpm.TPMLPCRSelection
	out := &evidence.TPM{AKPublic: f.public}
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
		out.PCRs = append(out.PCRs, evidence.WireValues(p))
	}
	attest.Magic, attest.Type = gotpm.TPMGeneratedValue, gotpm.TPMSTAttestQuote
	attest.Attested = gotpm.NewTPMUAttest(gotpm.TPMSTAttestQuote, &gotpm.TPMSQuoteInfo{PCRSelect: selections, PCRDigest: gotpm.TPM2BDigest{Buffer: h.Sum(nil)}})
	out.Attest = gotpm.Marshal(attest)
	out.Signature = f.Sign(out.Attest)
	return out
}

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/recording"
)

// A fakeTPM is keys in memory that do what a TPM would: it answers credential
// activation, and signs well-formed quotes over the recorded registers. The load is so
// not bound by software TPMs. What it shows is synthetic, and its authority is one that
// the bench's domain trusts for it.
type fakeTPM struct {
	keys   evidence.TPMKeys
	ak     *ecdsa.PrivateKey
	ek     *ecdh.PrivateKey
	name   []byte // of the attestation key
	signer []byte // its qualified name: a primary key of the endorsement hierarchy
	banks  []evidence.PCRs
}

// authority certifies endorsement keys.
type authority struct {
	secret *ecdsa.PrivateKey
	cert   *x509.Certificate
}

func newAuthority() (*authority, error) {
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Synthetic TPMs of a benchmark"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{secret, cert}, err
}

// Files of an authority, in the directory of a domain.
const (
	syntheticRoot = "synthetic.pem"
	syntheticKey  = "synthetic.key"
)

func (a *authority) save(dir string) error {
	der, err := x509.MarshalECPrivateKey(a.secret)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, syntheticKey), der, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, syntheticRoot), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o644)
}

func openAuthority(dir string) (*authority, error) {
	der, err := os.ReadFile(filepath.Join(dir, syntheticKey))
	if err != nil {
		return nil, err
	}
	a := &authority{}
	if a.secret, err = x509.ParseECPrivateKey(der); err != nil {
		return nil, err
	}
	a.cert, err = readCertificate(filepath.Join(dir, syntheticRoot))
	return a, err
}

func readCertificate(file string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

// certificate is of an endorsement key (TCG EK Credential Profile for TPM 2.0, 3.2).
func (a *authority) certificate(key *ecdsa.PublicKey, n int64) ([]byte, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: "synthetic"}, KeyUsage: x509.KeyUsageKeyAgreement,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}, BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	return x509.CreateCertificate(rand.Reader, template, a.cert, key, a.secret)
}

func eccPublic(key *ecdsa.PublicKey, attributes gotpm.TPMAObject, parms gotpm.TPMSECCParms) ([]byte, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	parms.CurveID = gotpm.TPMECCNistP256
	return gotpm.Marshal(gotpm.TPMTPublic{Type: gotpm.TPMAlgECC, NameAlg: gotpm.TPMAlgSHA256, ObjectAttributes: attributes,
		Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &parms),
		Unique:     gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{X: gotpm.TPM2BECCParameter{Buffer: point[1:33]}, Y: gotpm.TPM2BECCParameter{Buffer: point[33:]}})}), nil
}

func newFakeTPM(a *authority, n int64, rec *recording.Recording) (*fakeTPM, error) {
	ak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ek, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &fakeTPM{ak: ak}
	fixed := gotpm.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true}
	signs := fixed
	signs.UserWithAuth, signs.NoDA, signs.SignEncrypt = true, true, true
	if t.keys.AKPublic, err = eccPublic(&ak.PublicKey, signs, gotpm.TPMSECCParms{Scheme: gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDSA,
		Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: gotpm.TPMAlgSHA256})}}); err != nil {
		return nil, err
	}
	decrypts := fixed
	decrypts.AdminWithPolicy, decrypts.Decrypt = true, true
	if t.keys.EKPublic, err = eccPublic(&ek.PublicKey, decrypts, gotpm.TPMSECCParms{Symmetric: gotpm.TPMTSymDefObject{Algorithm: gotpm.TPMAlgAES,
		KeyBits: gotpm.NewTPMUSymKeyBits(gotpm.TPMAlgAES, gotpm.TPMKeyBits(128)), Mode: gotpm.NewTPMUSymMode(gotpm.TPMAlgAES, gotpm.TPMAlgCFB)}}); err != nil {
		return nil, err
	}
	cert, err := a.certificate(&ek.PublicKey, n)
	if err != nil {
		return nil, err
	}
	t.keys.EKCertificate = [][]byte{cert}
	if t.ek, err = ek.ECDH(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(t.keys.AKPublic)
	t.name = append([]byte{0, 0x0b}, sum[:]...)                                // TPM_ALG_SHA256 (Part 1, 16)
	sum = sha256.Sum256(append([]byte{0x40, 0, 0, 0x0b}, t.name...))           // TPM_RH_ENDORSEMENT
	t.signer, t.banks = append([]byte{0, 0x0b}, sum[:]...), rec.Phases[0].PCRs // qualified name (Part 1, 26.5)
	return t, nil
}

// Introduce implements attest.Prover.
func (t *fakeTPM) Introduce(context.Context) (evidence.TPMKeys, error) { return t.keys, nil }

// activate answers credential activation (Part 1, 24 and annex C).
func (t *fakeTPM) activate(c *evidence.Credential) ([]byte, error) {
	sized := func(b []byte) (head, tail []byte, err error) {
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
			return nil, nil, errors.New("a credential that is cut short")
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		return b[2:n], b[n:], nil
	}
	x, rest, err := sized(c.Secret)
	if err != nil {
		return nil, err
	}
	y, _, err := sized(rest)
	if err != nil {
		return nil, err
	}
	peer, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, err
	}
	z, err := t.ek.ECDH(peer)
	if err != nil {
		return nil, err
	}
	own := t.ek.PublicKey().Bytes()
	seed := sha256.Sum256(bytes.Join([][]byte{{0, 0, 0, 1}, z, []byte("IDENTITY\x00"), x, own[1:33]}, nil)) // KDFe
	mac := hmac.New(sha256.New, seed[:])                                                                    // KDFa
	mac.Write(bytes.Join([][]byte{{0, 0, 0, 1}, []byte("STORAGE\x00"), t.name, {0, 0, 0, 128}}, nil))
	block, err := aes.NewCipher(mac.Sum(nil)[:16])
	if err != nil {
		return nil, err
	}
	_, sealed, err := sized(c.Blob)
	if err != nil {
		return nil, err
	}
	sealed = bytes.Clone(sealed)
	for feedback, rest := make([]byte, aes.BlockSize), sealed; len(rest) > 0; rest = rest[min(len(rest), aes.BlockSize):] { // CFB
		var next [aes.BlockSize]byte
		n := copy(next[:], rest)
		block.Encrypt(feedback, feedback)
		subtle.XORBytes(rest[:n], rest[:n], feedback)
		feedback = next[:]
	}
	secret, _, err := sized(sealed)
	return secret, err
}

// quote signs the recorded registers with that binding.
func (t *fakeTPM) quote(b evidence.Binding) (*evidence.TPM, error) {
	out := &evidence.TPM{AKPublic: t.keys.AKPublic, EKPublic: t.keys.EKPublic, EKCertificate: t.keys.EKCertificate}
	var selections []gotpm.TPMSPCRSelection
	h := sha256.New()
	for _, bank := range t.banks {
		values := evidence.PCRs{Bank: bank.Bank}
		for i := range 16 {
			values.Value[i] = bank.Value[i]
			h.Write(bank.Value[i])
		}
		out.PCRs = append(out.PCRs, evidence.WireValues(values))
		selections = append(selections, gotpm.TPMSPCRSelection{Hash: gotpm.TPMIAlgHash(bank.Bank), PCRSelect: []byte{0xff, 0xff, 0}})
	}
	out.Attest = gotpm.Marshal(gotpm.TPMSAttest{Magic: gotpm.TPMGeneratedValue, Type: gotpm.TPMSTAttestQuote, QualifiedSigner: gotpm.TPM2BName{Buffer: t.signer},
		ExtraData: gotpm.TPM2BData{Buffer: b.QualifyingData()}, ClockInfo: gotpm.TPMSClockInfo{Clock: 1, ResetCount: 1, Safe: true}, FirmwareVersion: 1,
		Attested: gotpm.NewTPMUAttest(gotpm.TPMSTAttestQuote, &gotpm.TPMSQuoteInfo{PCRSelect: gotpm.TPMLPCRSelection{PCRSelections: selections}, PCRDigest: gotpm.TPM2BDigest{Buffer: h.Sum(nil)}})})
	digest := sha256.Sum256(out.Attest)
	der, err := t.ak.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return nil, err
	}
	out.Signature = gotpm.Marshal(gotpm.TPMTSignature{SigAlg: gotpm.TPMAlgECDSA, Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgECDSA,
		&gotpm.TPMSSignatureECC{Hash: gotpm.TPMAlgSHA256, SignatureR: gotpm.TPM2BECCParameter{Buffer: rs.R.Bytes()}, SignatureS: gotpm.TPM2BECCParameter{Buffer: rs.S.Bytes()}})})
	return out, nil
}

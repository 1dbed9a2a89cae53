package collect

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	evtpm2 "github.com/keystead/keystead/evidence/tpm2"
)

// ekProfile is one of the endorsement keys that the TCG EK Credential Profile for
// TPM 2.0 (2.5, appendix B) defines: a template, and the NV index that the
// manufacturer's certificate lies at.
type ekProfile struct {
	name     string
	index    tpm2.TPMHandle
	template tpm2.TPMTPublic
	policy   bool // use needs PolicySecret(endorsement); the newer profiles take an empty password
}

// ekProfiles are tried in this order: fast keys first.
var ekProfiles = []ekProfile{
	{"L-2 (ECC P-256)", 0x01C0000A, tpm2.ECCEKTemplate, true},
	{"H-3 (ECC P-384)", 0x01C00016, eccP384Template, false},
	{"L-1 (RSA 2048)", 0x01C00002, tpm2.RSAEKTemplate, true},
}

// eccP384Template is H-3 (B.4.6).
var eccP384Template = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA384,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true,
		AdminWithPolicy: true, Restricted: true, Decrypt: true,
	},
	AuthPolicy: tpm2.TPM2BDigest{Buffer: []byte{ // PolicyB for SHA-384
		0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC,
		0xF5, 0xFD, 0x3A, 0x1A, 0x07, 0x41, 0x48, 0xBB, 0x35, 0xD3, 0xB4, 0xE4,
		0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA, 0xCB, 0x47, 0xBA, 0x09,
		0x69, 0x96, 0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
	}},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP384,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
}

// EK is a TPM's endorsement key as [TPM.EK] finds it.
type EK struct {
	Public  []byte   // TPMT_PUBLIC
	Chain   [][]byte // DER, the endorsement certificate first; empty when the TPM holds none for this key
	Profile string   // of the TCG's profile: L-2 (ECC P-256)
}

// EK returns the TPM's endorsement key: the first of ECC P-256, ECC P-384 and
// RSA 2048 that the TPM holds a certificate for, or ECC P-256 without one.
func (t *TPM) EK(ctx context.Context) (ek EK, err error) {
	err = t.with(ctx, func(l link) error { ek, err = l.findEK(); return err })
	return ek, err
}

// findEK chooses the endorsement key and remembers the choice for Activate.
func (l link) findEK() (EK, error) {
	var odd error // why a certificate that is there does not serve
	for _, p := range ekProfiles {
		cert, err := l.readNV(p.index)
		if err != nil {
			return EK{}, err
		}
		if cert == nil {
			continue
		}
		public, err := l.publicOf(p.template)
		if unsupported(err) {
			continue
		}
		if err != nil {
			return EK{}, err
		}
		if odd = certifies(cert, public); odd == nil {
			l.tpm.ek = &p
			return EK{Public: public, Chain: [][]byte{cert}, Profile: p.name}, nil
		}
		odd = fmt.Errorf("certificate at NV index 0x%08x: %w", uint32(p.index), odd)
	}
	if odd != nil {
		return EK{}, &Error{Found: "TPM " + l.tpm.path + " has an EK certificate that does not serve", Err: odd,
			Hint: "the manufacturer may have used a template of its own, which is not supported"}
	}
	return l.uncertifiedEK()
}

// uncertifiedEK takes the first endorsement key that the TPM can make.
func (l link) uncertifiedEK() (EK, error) {
	for _, p := range ekProfiles {
		public, err := l.publicOf(p.template)
		if unsupported(err) {
			continue
		}
		if err != nil {
			return EK{}, err
		}
		l.tpm.ek = &p
		return EK{Public: public, Profile: p.name}, nil
	}
	return EK{}, &Error{Found: "TPM " + l.tpm.path + " makes no endorsement key of ECC P-256, ECC P-384 or RSA 2048",
		Hint: "it may not be a TPM of the PC Client profile"}
}

// unsupported reports whether the TPM said that it does not make such keys.
func unsupported(err error) bool {
	return errors.Is(err, tpm2.TPMRCCurve) || errors.Is(err, tpm2.TPMRCAsymmetric) || errors.Is(err, tpm2.TPMRCValue) ||
		errors.Is(err, tpm2.TPMRCType) || errors.Is(err, tpm2.TPMRCHash) || errors.Is(err, tpm2.TPMRCKeySize)
}

// publicOf makes a primary key, flushes it and returns its TPMT_PUBLIC.
func (l link) publicOf(template tpm2.TPMTPublic) (public []byte, err error) {
	key, err := l.primary(template)
	if err != nil {
		return nil, err
	}
	defer l.flush(key.ObjectHandle, &err)
	return key.OutPublic.Bytes(), nil
}

func certifies(der, public []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	key, err := evtpm2.ParsePublic(public)
	if err != nil {
		return err
	}
	if !key.Certified(cert) {
		return errors.New("is of another key than the TPM makes from the standard template")
	}
	return nil
}

// maxNV bounds an NV index that is read, in bytes; nvChunk is what each TPM gives
// in one piece.
const (
	maxNV   = 16 << 10
	nvChunk = 512
)

// readNV reads a certificate from an NV index, without padding; nil if there is none.
func (l link) readNV(index tpm2.TPMHandle) ([]byte, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(l)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	nv, err := pub.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	size := int(nv.DataSize)
	if size > maxNV {
		return nil, fmt.Errorf("NV index 0x%08x holds %d bytes, at most %d are read", uint32(index), size, maxNV)
	}
	at := tpm2.AuthHandle{Handle: index, Name: pub.NVName, Auth: tpm2.PasswordAuth(nil)}
	var out []byte
	for len(out) < size {
		n := min(nvChunk, size-len(out))
		rsp, err := tpm2.NVRead{AuthHandle: at, NVIndex: tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size: uint16(n), Offset: uint16(len(out))}.Execute(l)
		if errors.Is(err, tpm2.TPMRCNVUninitialized) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) != n {
			return nil, fmt.Errorf("NV index 0x%08x gave %d bytes of %d", uint32(index), len(rsp.Data.Buffer), n)
		}
		out = append(out, rsp.Data.Buffer...)
	}
	var der asn1.RawValue
	if _, err := asn1.Unmarshal(out, &der); err != nil {
		return nil, fmt.Errorf("NV index 0x%08x holds no certificate: %w", uint32(index), err)
	}
	return der.FullBytes, nil
}

// Activate answers a credential made for this TPM's endorsement key and its
// attestation key of that kind: it returns the secret. A credential for other keys
// fails.
func (t *TPM) Activate(ctx context.Context, kind AKType, credentialBlob, encryptedSecret []byte) (secret []byte, err error) {
	err = t.with(ctx, func(l link) error {
		secret, err = l.activate(kind, credentialBlob, encryptedSecret)
		return err
	})
	return secret, err
}

func (l link) activate(kind AKType, blob, encrypted []byte) (secret []byte, err error) {
	if l.tpm.ek == nil {
		if _, err := l.findEK(); err != nil {
			return nil, err
		}
	}
	ek, err := l.primary(l.tpm.ek.template)
	if err != nil {
		return nil, err
	}
	defer l.flush(ek.ObjectHandle, &err)
	ak, err := l.primary(kind.template())
	if err != nil {
		return nil, err
	}
	defer l.flush(ak.ObjectHandle, &err)
	auth := tpm2.PasswordAuth(nil)
	if l.tpm.ek.policy {
		if auth, err = l.endorsementSession(); err != nil {
			return nil, err
		}
		defer l.flush(auth.Handle(), &err)
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: auth},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
	}.Execute(l)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonCredentialInvalid, Where: "challenge",
			Want: "one made for this TPM's endorsement key and this attestation key", Got: "one that the TPM can not open"})
	}
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

// endorsementSession starts a session that satisfies PolicySecret(endorsement),
// the policy of the older endorsement keys. The caller flushes it.
func (l link) endorsementSession() (tpm2.Session, error) {
	session, _, err := tpm2.PolicySession(l, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		return nil, err
	}
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session.Handle(),
		NonceTPM:      session.NonceTPM(),
	}.Execute(l)
	if err != nil {
		l.flush(session.Handle(), &err)
		return nil, err
	}
	return session, nil
}

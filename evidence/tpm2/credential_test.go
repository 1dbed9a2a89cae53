package tpm2_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/tpm2"
)

// activate has the live TPM answer a credential for the ECC or RSA endorsement key
// of the older profile and ak.
func (a attacker) activate(ek gotpm.TPMTPublic, ak ownedKey, blob, encrypted []byte) ([]byte, error) {
	a.t.Helper()
	owned := a.key(func(p *gotpm.TPMTPublic) { *p = ek })
	defer owned.flush()
	session := gotpm.Policy(gotpm.TPMAlgSHA256, 16, gotpm.PolicyCallback(func(tpm transport.TPM, handle gotpm.TPMISHPolicy, nonce gotpm.TPM2BNonce) error {
		_, err := gotpm.PolicySecret{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHEndorsement, Auth: gotpm.PasswordAuth(nil)},
			PolicySession: handle, NonceTPM: nonce}.Execute(tpm)
		return err
	}))
	owned.handle.Auth = session
	rsp, err := gotpm.ActivateCredential{ActivateHandle: ak.handle, KeyHandle: owned.handle,
		CredentialBlob: gotpm.TPM2BIDObject{Buffer: blob}, Secret: gotpm.TPM2BEncryptedSecret{Buffer: encrypted}}.Execute(a.tpm)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

// TestCredential encrypts for a live TPM and has it decrypt, then offers it
// credentials for other keys.
func TestCredential(t *testing.T) {
	a := newAttacker(t)
	ak := a.key(plain)
	other := a.key(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.Restricted = false })
	secret := []byte("exactly 32 bytes, as they may be")
	for name, template := range map[string]gotpm.TPMTPublic{"ecc": gotpm.ECCEKTemplate, "rsa": gotpm.RSAEKTemplate} {
		ek := a.public(func(p *gotpm.TPMTPublic) { *p = template })
		blob, encrypted, err := tpm2.MakeCredential(rand.Reader, ek, ak.handle.Name.Buffer, secret)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := a.activate(template, ak, blob, encrypted)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := tpm2.CheckCredential(secret, answer); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := a.activate(template, other, blob, encrypted); !errors.Is(err, gotpm.TPMRCIntegrity) {
			t.Errorf("%s: a credential for another AK name: want the TPM to refuse its integrity, got %v", name, err)
		}
		// A key said to be restricted, which it is not: its name is that of no key in the TPM.
		lie := parse(t, setAttribute(other.public, 1<<16))
		if blob, encrypted, err = tpm2.MakeCredential(rand.Reader, ek, lie.Name(), secret); err != nil {
			t.Fatal(err)
		}
		if _, err := a.activate(template, other, blob, encrypted); !errors.Is(err, gotpm.TPMRCIntegrity) {
			t.Errorf("%s: a key that lies about its attributes: want the TPM to refuse its integrity, got %v", name, err)
		}
	}
	demand(t, "another secret", tpm2.CheckCredential(secret, flip(secret, 0)), keystead.ReasonCredentialInvalid)
	demand(t, "a shorter secret", tpm2.CheckCredential(secret, secret[:31]), keystead.ReasonCredentialInvalid)
	demand(t, "no secret asked for", tpm2.CheckCredential(nil, nil), keystead.ReasonCredentialInvalid)
}

// TestCredentialIsPure demands the same bytes for the same randomness, and others
// for other randomness.
func TestCredentialIsPure(t *testing.T) {
	ecc, rsa := endorsementKeys(t)
	for name, ek := range map[string]*tpm2.Public{"ecc": ecc, "rsa": rsa} {
		credential := func(seed byte) []byte {
			blob, encrypted, err := tpm2.MakeCredential(bytes.NewReader(bytes.Repeat([]byte{seed}, 256)), ek, ecc.Name(), []byte("secret"))
			if err != nil {
				t.Fatal(err)
			}
			return append(blob, encrypted...)
		}
		if !bytes.Equal(credential(1), credential(1)) || bytes.Equal(credential(1), credential(2)) {
			t.Errorf("%s: the credential must follow from the randomness given", name)
		}
		if _, _, err := tpm2.MakeCredential(bytes.NewReader([]byte("short")), ek, ecc.Name(), []byte("secret")); err == nil {
			t.Errorf("%s: want an error when randomness runs out", name)
		}
	}
	// A source of zeros gives no scalar of a curve: an error, not an endless loop.
	if _, _, err := tpm2.MakeCredential(zeros{}, ecc, ecc.Name(), []byte("secret")); err == nil {
		t.Error("want an error with randomness of zeros")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestCredentialMisuse(t *testing.T) {
	ecc, _ := endorsementKeys(t)
	a := newAttacker(t)
	signing := a.key(plain)
	bare := bytes.Clone(signing.public)
	binary.BigEndian.PutUint32(bare[4:], 1<<16|1<<17) // restricted, decrypt: but without a cipher
	weak := a.public(func(p *gotpm.TPMTPublic) {
		*p = gotpm.ECCEKTemplate
		p.NameAlg = gotpm.TPMAlgSHA1
		p.AuthPolicy.Buffer = nil
	})
	for name, ek := range map[string]*tpm2.Public{"a signing key": parse(t, signing.public), "no cipher": parse(t, bare), "a sha1 name": weak, "no key": nil, "the zero key": {}} {
		_, _, err := tpm2.MakeCredential(rand.Reader, ek, ecc.Name(), []byte("secret"))
		demand(t, name, err, keystead.ReasonKeyUnsuitable)
	}
	for name, tc := range map[string]struct{ akName, secret []byte }{
		"no secret":       {ecc.Name(), nil},
		"a long secret":   {ecc.Name(), make([]byte, 33)},
		"no name":         {nil, []byte("secret")},
		"half a name":     {ecc.Name()[:20], []byte("secret")},
		"an unknown hash": {[]byte{0, 1, 2}, []byte("secret")},
	} {
		if _, _, err := tpm2.MakeCredential(rand.Reader, ecc, tc.akName, tc.secret); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
}

package appraise

import (
	"fmt"
	"io"
	"time"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

// secretSize is that of a credential's secret, in bytes: what every endorsement key
// takes whose name is by SHA-256 or more.
const secretSize = 32

// An Activation is a challenge to show that an attestation key lives in the TPM that
// an endorsement certificate names (TPM 2.0 Part 1, 24, "Credential Protection").
type Activation struct {
	Keys       evidence.TPMKeys    // as the TPM introduced itself
	Credential evidence.Credential // for the TPM to open
	Secret     []byte              // what it holds; the verifier keeps it to itself
}

// Challenge makes the challenge for keys. It refuses keys that no activation would
// make good: an attestation key that is not fit (key-unsuitable), an endorsement key
// without a certificate of one of the roots at that time (ek-untrusted, ek-mismatch);
// bytes that do not parse give a *keystead.FormatError.
func Challenge(random io.Reader, keys evidence.TPMKeys, roots tpm2.Roots, at time.Time) (*Activation, error) {
	ak, err := tpm2.ParsePublic(keys.AKPublic)
	if err != nil {
		return nil, err
	}
	if err := ak.CheckAttestationKey(); err != nil {
		return nil, err
	}
	ek, err := tpm2.ParsePublic(keys.EKPublic)
	if err != nil {
		return nil, err
	}
	if _, err := tpm2.VerifyEK(keys.EKCertificate, ek, roots, at); err != nil {
		return nil, err
	}
	a := &Activation{Keys: keys, Secret: make([]byte, secretSize)}
	if _, err := io.ReadFull(random, a.Secret); err != nil {
		return nil, fmt.Errorf("randomness for a credential: %w", err)
	}
	a.Credential.Blob, a.Credential.Secret, err = tpm2.MakeCredential(random, ek, ak.Name(), a.Secret)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Accept accepts the attestation key if the TPM's answer is the secret, else it
// refuses (credential-invalid). It needs Keys and Secret alone. At is the time of
// activation that the key states, in whole seconds.
func (a *Activation) Accept(answer []byte, at time.Time) (AcceptedKey, error) {
	if err := tpm2.CheckCredential(a.Secret, answer); err != nil {
		return AcceptedKey{}, err
	}
	ak, err := tpm2.ParsePublic(a.Keys.AKPublic)
	if err != nil {
		return AcceptedKey{}, err
	}
	return AcceptedKey{Name: ak.Name(), EKPublic: a.Keys.EKPublic, EKCertificate: a.Keys.EKCertificate, Activated: at.UTC().Truncate(time.Second)}, nil
}

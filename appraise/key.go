package appraise

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/keystead/keystead/evidence/tpm2"
)

const keyFormat = "keystead-ak/1"

// How an attestation key is bound, as claims say it.
const (
	BindingNone      = "none"      // nobody says whose the key is
	BindingNamed     = "named"     // the verifier names the key; where it lives is not known
	BindingActivated = "activated" // credential activation showed that it lives beside a certified EK
)

// AcceptedKey is an attestation key that the verifier accepts, and what it knows of
// the TPM that holds it. The zero value accepts no key. Its file is the verifier's
// own and is believed.
type AcceptedKey struct {
	Name          []byte    // TPM name: algorithm and digest of the public area
	EKPublic      []byte    // TPMT_PUBLIC; nil for a key that is only named
	EKCertificate [][]byte  // DER, leaf first
	Activated     time.Time // when the credential was activated
}

type keyFile struct {
	Format        string    `json:"format"`
	Name          string    `json:"name"`
	EKPublic      []byte    `json:"ek_public,omitempty"`
	EKCertificate [][]byte  `json:"ek_certificate,omitempty"`
	Activated     time.Time `json:"activated,omitzero"`
}

// ParseKey reads an accepted key: the form that MarshalJSON writes, or the bare
// public area (TPM2B_PUBLIC or TPMT_PUBLIC, as tpm2-tools writes it), which names
// a key without saying where it lives.
func ParseKey(b []byte) (AcceptedKey, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		if bytes.HasPrefix(b, []byte("-----BEGIN")) {
			return AcceptedKey{}, errors.New("a PEM key does not say how the TPM may use it; give the TPM's public area or the file that `keystead ak accept` wrote")
		}
		pub, err := tpm2.ParsePublic(b)
		if err != nil {
			return AcceptedKey{}, err
		}
		return AcceptedKey{Name: pub.Name()}, nil
	}
	var k AcceptedKey
	if err := json.Unmarshal(b, &k); err != nil {
		return AcceptedKey{}, fmt.Errorf("accepted key: %w", err)
	}
	return k, nil
}

// MarshalJSON writes the file's form, which names its version.
func (k AcceptedKey) MarshalJSON() ([]byte, error) {
	f := keyFile{keyFormat, hex.EncodeToString(k.Name), k.EKPublic, k.EKCertificate, k.Activated.UTC()}
	return encodeKey(nil, reflect.ValueOf(&f).Elem())
}

var encodeKey = encoderOf(reflect.TypeFor[keyFile]())

// UnmarshalJSON reads it; unknown fields and other versions are refused.
func (k *AcceptedKey) UnmarshalJSON(b []byte) error {
	var f keyFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("text follows the key")
	}
	name, err := hex.DecodeString(f.Name)
	switch {
	case f.Format != keyFormat:
		return fmt.Errorf("format is %q, want %q", f.Format, keyFormat)
	case err != nil || len(name) < 34:
		return errors.New("name is not the hex form of a TPM name")
	case (f.EKPublic == nil) != f.Activated.IsZero():
		return errors.New("an endorsement key and the time of activation come together")
	}
	*k = AcceptedKey{name, f.EKPublic, f.EKCertificate, f.Activated}
	return nil
}

// IsZero reports whether no key is accepted.
func (k AcceptedKey) IsZero() bool { return len(k.Name) == 0 }

func (k AcceptedKey) binding() string {
	switch {
	case k.IsZero():
		return BindingNone
	case k.EKPublic == nil:
		return BindingNamed
	}
	return BindingActivated
}

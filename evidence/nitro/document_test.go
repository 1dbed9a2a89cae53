package nitro_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/nitro"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/internal/samples"
)

// TestVerify: a document by a made-up AWS verifies under its root. Attacks are tests of
// appraise. That signature is made by another library than the one that checks it.
func TestVerify(t *testing.T) {
	aws := foundry.NewAWS()
	v, err := nitro.Verify(aws.Document([]byte("nonce"), []byte("data"), nil), aws.Roots(), foundry.Now)
	if err != nil {
		t.Fatal(err)
	}
	if c := v.Claims(); string(v.Nonce) != "nonce" || string(v.UserData) != "data" || len(c.Registers) != 16 || c.Machine != "i-0abc-enc0123" || c.Signer == "" || c.Debug {
		t.Errorf("%+v", c)
	}
	if _, err := nitro.Verify(aws.Document([]byte("nonce"), nil, nil), aws.Roots(), foundry.Now.AddDate(2, 0, 0)); !errors.Is(err, keystead.ReasonVendorUntrusted) {
		t.Errorf("past the certificate's end: %v", err)
	}
}

// recorded is a document of a real enclave.
func recorded(t testing.TB) []byte {
	return samples.Read(t, samples.Anjuna, "attester/testdata/sample_attestation_doc_full.bin")
}

// TestRealDocument: a document of a real enclave, in debug mode, verifies under AWS's own
// root on its day, and no other.
func TestRealDocument(t *testing.T) {
	at := time.Date(2024, 1, 24, 18, 20, 0, 0, time.UTC)
	v, err := nitro.Verify(recorded(t), evidence.ShippedRoots(), at)
	if err != nil {
		t.Fatal(err)
	}
	if c := v.Claims(); !c.Debug || c.Root != keystead.Digest(evidence.ShippedRoots().Hardware[4]).String() || len(v.Nonce) != 6 || len(v.UserData) != 13 || len(v.PublicKey) != 294 || c.Registers[4] == c.Registers[0] {
		t.Errorf("%+v, nonce %q, user data %q", c, v.Nonce, v.UserData)
	}
	for _, other := range []time.Time{at.AddDate(0, 0, -1), at.Add(4 * time.Hour), time.Now()} {
		if _, err := nitro.Verify(recorded(t), evidence.ShippedRoots(), other); !errors.Is(err, keystead.ReasonVendorUntrusted) {
			t.Errorf("at %v: %v", other, err)
		}
	}
}

// TestRealDocumentAltered: in a real document no byte may differ; one in eleven is tried,
// and each of the first register.
func TestRealDocumentAltered(t *testing.T) {
	raw, at := recorded(t), time.Date(2024, 1, 24, 18, 20, 0, 0, time.UTC)
	register := bytes.Index(raw, make([]byte, 48))
	for i := range raw {
		if i%11 != 0 && (i < register || i >= register+48) {
			continue
		}
		altered := bytes.Clone(raw)
		altered[i] ^= 1 << (i % 8)
		_, err := nitro.Verify(altered, evidence.ShippedRoots(), at)
		var format *keystead.FormatError
		if !errors.Is(err, keystead.ReasonSignatureInvalid) && !errors.Is(err, keystead.ReasonVendorUntrusted) && !errors.As(err, &format) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

// TestIndefiniteLength: newer modules write the payload as a map of indefinite length; the
// COSE_Sign1 around it has none, nor may a key stand twice.
func TestIndefiniteLength(t *testing.T) {
	aws := foundry.NewAWS()
	open := func(more ...byte) []byte {
		m := cbor.RawMessage{}
		aws.Document([]byte("nonce"), []byte("data"), func(payload map[string]any) {
			b, err := cbor.Marshal(payload)
			if err != nil {
				t.Fatal(err)
			}
			m = append(append([]byte{0xbf}, b[1:]...), more...)
		})
		return append(m, 0xff)
	}
	v, err := nitro.Verify(aws.Sign(open()), aws.Roots(), foundry.Now)
	if err != nil || string(v.Nonce) != "nonce" {
		t.Fatal(err)
	}
	twice := append([]byte{0x66}, "digest\x66SHA384"...)
	var format *keystead.FormatError
	if _, err := nitro.Verify(aws.Sign(open(twice...)), aws.Roots(), foundry.Now); !errors.As(err, &format) || format.Field != "payload" {
		t.Errorf("a key twice: %v", err)
	}
	if _, err := nitro.Parse(append(append([]byte{0x9f}, aws.Sign(open())[1:]...), 0xff)); !errors.As(err, &format) || format.Field != "COSE_Sign1" {
		t.Errorf("around the payload: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(recorded(f))
	aws := foundry.NewAWS()
	good := aws.Document([]byte("nonce"), []byte("data"), nil)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(aws.Sign([]byte{0xa0}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := nitro.Parse(raw)
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Errorf("%v is no FormatError", err)
		}
		if err == nil {
			d.Debuggable()
		}
	})
}

package nitro_test

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/nitro"
	"github.com/keystead/keystead/internal/foundry"
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

func FuzzParse(f *testing.F) {
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

package sgx_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/sgx"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/internal/samples"
)

// TestVersions: quotes of another version are of another room.
func TestVersions(t *testing.T) {
	intel := foundry.NewIntel()
	if q, err := sgx.Parse(intel.Quote([64]byte{1}, foundry.Quoting{Version: 3})); err != nil || q.ProductID != 7 || q.SVN != 3 || q.ReportData[0] != 1 {
		t.Errorf("%+v, %v", q, err)
	}
	var format *keystead.FormatError
	if _, err := sgx.Parse(intel.Quote([64]byte{1}, foundry.Quoting{Version: 4})); !errors.As(err, &format) {
		t.Errorf("TDX: %v", err)
	}
}

// recorded is a quote of an enclave on a real machine.
func recorded(t testing.TB) []byte {
	return samples.Read(t, samples.Oasis, "common/sgx/pcs/testdata/quote_v3_ecdsa_p256_pck_chain.bin")
}

// TestRealQuoteAltered: in a real quote no bit before the certificates may differ. The
// certificates' own bits are those of x509 and of PEM, which spells some bytes twice.
func TestRealQuoteAltered(t *testing.T) {
	raw, at := recorded(t), time.Date(2022, 12, 20, 0, 0, 0, 0, time.UTC)
	if _, err := sgx.Verify(raw, evidence.ShippedRoots(), at); err != nil {
		t.Fatal(err)
	}
	certificates := bytes.Index(raw, []byte("-----BEGIN"))
	for i := range certificates {
		altered := bytes.Clone(raw)
		altered[i] ^= 1 << (i % 8)
		_, err := sgx.Verify(altered, evidence.ShippedRoots(), at)
		var format *keystead.FormatError
		if !errors.Is(err, keystead.ReasonSignatureInvalid) && !errors.Is(err, keystead.ReasonQEUnbound) && !errors.As(err, &format) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(recorded(f))
	f.Add(foundry.NewIntel().Quote([64]byte{}, foundry.Quoting{Version: 3}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := sgx.Parse(raw)
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Errorf("%v is no FormatError", err)
		}
		if err == nil {
			q.Machine()
		}
	})
}

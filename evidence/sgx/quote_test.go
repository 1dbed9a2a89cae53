package sgx_test

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/sgx"
	"github.com/keystead/keystead/internal/foundry"
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

func FuzzParse(f *testing.F) {
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

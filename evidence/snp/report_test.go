package snp

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/samples"
)

// recorded is the report of a real machine, from the module whose test data it is.
func recorded(t testing.TB) []byte {
	t.Helper()
	return samples.Read(t, samples.SEVGuest, "verify/testdata/attestation.bin")
}

// TestPeerReadsAlike: Google's library reads the recorded report as this room does.
func TestPeerReadsAlike(t *testing.T) {
	raw := recorded(t)
	r, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	p, err := abi.ReportToProto(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != p.Version || r.GuestSVN != p.GuestSvn || uint64(r.Policy) != p.Policy || r.VMPL != p.Vmpl || r.CurrentTCB != p.CurrentTcb ||
		r.ReportedTCB != p.ReportedTcb || r.Committed != p.CommittedTcb || r.LaunchTCB != p.LaunchTcb ||
		!bytes.Equal(r.ReportData, p.ReportData) || !bytes.Equal(r.Measurement, p.Measurement) || !bytes.Equal(r.HostData, p.HostData) ||
		!bytes.Equal(r.IDKey, p.IdKeyDigest) || !bytes.Equal(r.MigrationID, p.ReportIdMa) || !bytes.Equal(r.ChipID, p.ChipId) {
		t.Errorf("this room reads %+v, the peer %v", r, p)
	}
	if policy, err := abi.ParseSnpPolicy(p.Policy); err != nil || policy.Debug != r.Policy.Debug() || policy.MigrateMA != r.Policy.Migration() {
		t.Errorf("policy: the peer reads %+v, %v", policy, err)
	}
}

// TestRealReportAltered: in a real report no bit that is signed may differ, nor one of the
// signature, nor may what follows that be anything but zero.
func TestRealReportAltered(t *testing.T) {
	raw, vcek, at := recorded(t), samples.Read(t, samples.SEVGuest, "verify/testdata/vcek.testcer"), time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
	collateral, err := evidence.NewCollateral(at, []evidence.Piece{{Kind: evidence.CollateralAMDChain, Name: "vcek/Milan", Data: samples.Read(t, samples.SEVGuest, "verify/testdata/milan.testcer")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(raw, [][]byte{vcek}, evidence.ShippedRoots(), collateral, at); err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		altered := bytes.Clone(raw)
		altered[i] ^= 1 << (i % 8)
		_, err := Verify(altered, [][]byte{vcek}, evidence.ShippedRoots(), collateral, at)
		var format *keystead.FormatError
		if !errors.Is(err, keystead.ReasonSignatureInvalid) && !errors.Is(err, keystead.ReasonMachineMismatch) && !errors.Is(err, keystead.ReasonTEEUnsuitable) &&
			!errors.Is(err, keystead.ReasonCollateralMissing) && !errors.As(err, &format) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

// TestProducts: CPUID's family and model name the product, and an unknown one does not.
func TestProducts(t *testing.T) {
	for _, tc := range []struct {
		version       uint32
		family, model uint8
		want          Product
	}{
		{2, 0x19, 0x01, ""}, {3, 0x19, 0x01, Milan}, {3, 0x19, 0x11, Genoa}, {3, 0x19, 0xA0, Genoa}, {5, 0x1A, 0x02, Turin}, {3, 0x17, 0x31, ""}, {3, 0x19, 0x50, ""},
	} {
		if got := (&Report{Version: tc.version, Family: tc.family, Model: tc.model}).Product(); got != tc.want {
			t.Errorf("%+v: got %q", tc, got)
		}
	}
	if got := Turin.Levels(0x0807060504030201); len(got) != 5 || got[0] != 2 || got[2] != 4 || got[3] != 8 || got[4] != 1 {
		t.Errorf("Turin: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	raw := recorded(f)
	f.Add(raw)
	f.Add(raw[:Size-1])
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Parse(raw)
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Errorf("%v is no FormatError", err)
		}
		if err == nil {
			r.Debuggable()
			_ = r.suitable()
		}
	})
}

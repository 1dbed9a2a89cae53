package snp

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"github.com/keystead/keystead"
)

// recorded is the report of a real machine, from the module whose test data it is.
func recorded(t testing.TB) []byte {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-sev-guest").Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "verify/testdata/attestation.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
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

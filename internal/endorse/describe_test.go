package endorse_test

import (
	"testing"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/endorse"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/internal/samples"
)

// recorded is what vendors served, as modules recorded it.
func recorded(t testing.TB) []evidence.Piece {
	oasis := func(name string) []byte { return samples.Read(t, samples.Oasis, "common/sgx/pcs/testdata/"+name) }
	chain := oasis("tcb_info_v3_fmspc_00606A000000_certs.pem")
	return []evidence.Piece{
		{Kind: evidence.CollateralIntelTCBInfo, Name: "sgx/00606a000000", Data: oasis("tcb_info_v3_fmspc_00606A000000.json"), Chain: chain},
		{Kind: evidence.CollateralIntelQEIdentity, Name: "sgx", Data: oasis("qe_identity_v2.json"), Chain: chain},
		{Kind: evidence.CollateralAMDChain, Name: "vcek/Milan", Data: samples.Read(t, samples.SEVGuest, "verify/testdata/milan.testcer")},
		{Kind: evidence.CollateralIntelRootCRL, Name: "root", Data: samples.Read(t, samples.TDXGuest, "testing/testdata/rootcrl.der")},
	}
}

// TestDescribeRecorded: what real vendors served is told with its dates and its root.
func TestDescribeRecorded(t *testing.T) {
	for i, want := range []string{
		"SGX, 5 levels, number 13, by Intel SGX TCB Signing, Intel SGX Root CA", "QE, 5 levels, number 13, by Intel SGX TCB Signing, Intel SGX Root CA", "SEV-Milan, ARK-Milan", "",
	} {
		p := recorded(t)[i]
		d, err := endorse.Describe(p)
		if err != nil || d.From.IsZero() || !d.Till.After(d.From) || want != "" && d.Text != want {
			t.Errorf("%s: %+v, %v", p.Kind, d, err)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	for _, p := range append(recorded(f), foundry.NewAMD(1).Pieces(false)...) {
		f.Add(p.Kind, p.Data, p.Chain)
	}
	f.Fuzz(func(t *testing.T, kind string, data, chain []byte) {
		d, err := endorse.Describe(evidence.Piece{Kind: kind, Name: "x", Data: data, Chain: chain})
		if err == nil && d.Text == "" {
			t.Errorf("%s is described by nothing", kind)
		}
	})
}

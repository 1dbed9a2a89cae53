package appraise_test

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/internal/samples"
)

// recordedTEE is evidence that another tool took: its report data is the nonce.
func recordedTEE(t testing.TB, item evidence.TEE, data []byte, at time.Time, directives string, pieces ...evidence.Piece) appraise.Input {
	t.Helper()
	p := evidence.Parts{Binding: evidence.Binding{Purpose: evidence.PurposeRaw, Nonce: data}, TEE: &item}
	collateral, err := evidence.NewCollateral(at, pieces)
	if err != nil {
		t.Fatal(err)
	}
	return appraise.Input{Bundle: bundle(t, p), Expect: p.Binding, Collateral: collateral, TEERoots: evidence.ShippedRoots(), Policy: compile(t, teePolicy(directives)), Time: at}
}

// realSNP is a report of a real Milan with the certificates that AMD gave out.
func realSNP(t testing.TB, directives string) appraise.Input {
	report := samples.Read(t, samples.SEVGuest, "verify/testdata/attestation.bin")
	return recordedTEE(t, evidence.TEE{Kind: evidence.KindSNP, Report: report, Certificates: [][]byte{samples.Read(t, samples.SEVGuest, "verify/testdata/vcek.testcer")}},
		report[foundry.SNPReportData:][:64], time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC), directives,
		evidence.Piece{Kind: evidence.CollateralAMDChain, Name: "vcek/Milan", Data: samples.Read(t, samples.SEVGuest, "verify/testdata/milan.testcer")})
}

// TestRealSNP: a real report is judged by AMD's own root. Its guest allowed a debugger,
// and the module has no revocation list: each is refused unless the policy takes it.
func TestRealSNP(t *testing.T) {
	demand(t, "without a list", realSNP(t, "tee-debug allowed\n"), keystead.ReasonCollateralMissing)
	demand(t, "debug", realSNP(t, lenient), keystead.ReasonTEEDebug)
	in := realSNP(t, lenient+"tee-debug allowed\n")
	demand(t, "real", in)
	v := appraise.Appraise(in)
	if c := v.Claims().TEE; v.Assurance() != evidence.AssuranceTest || !c.Debug || c.Platform != "Milan" || len(c.Machine) != 128 || len(c.TCB) != 4 || c.Launch == "" || c.Root != evidence.ShippedRoots().Hardware[0].String() {
		t.Errorf("assurance %v, claims %+v", v.Assurance(), c)
	}
}

// TestRealSNPOfCloud: the report of a guest in a cloud, with what that gives its guests,
// reaches the level of a confidential machine by AMD's own root.
func TestRealSNPOfCloud(t *testing.T) {
	const data = "pkg/attest/test_data/"
	report := samples.Read(t, samples.Azure, data+"snp_report.bin")
	leaf, above := pem.Decode(samples.Read(t, samples.Azure, data+"uvm_host_amd_certificate.pem"))
	in := func(at time.Time, directives string) appraise.Input {
		return recordedTEE(t, evidence.TEE{Kind: evidence.KindSNP, Report: report, Certificates: [][]byte{leaf.Bytes}}, report[foundry.SNPReportData:][:64], at, directives,
			evidence.Piece{Kind: evidence.CollateralAMDChain, Name: "vcek/Milan", Data: above})
	}
	at := time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
	demand(t, "real", in(at, "tee-revocation report\n"))
	v := appraise.Appraise(in(at, "tee-revocation report\n"))
	if c := v.Claims().TEE; v.Assurance() != evidence.AssuranceTEEVM || c.Debug || c.SVN != 2 || !slices.Equal(c.TCB, []int64{3, 0, 8, 115}) || c.Signer == "" || c.HostData == "" {
		t.Errorf("assurance %v, claims %+v", v.Assurance(), c)
	}
	demand(t, "without a list", in(at, ""), keystead.ReasonCollateralMissing)
	demand(t, "past the chip's certificate", in(time.Date(2029, 12, 1, 0, 0, 0, 0, time.UTC), lenient), keystead.ReasonVendorUntrusted)
	of := in(at, lenient)
	demand(t, "with another chip's certificate", withTEE(t, of, func(e *evidence.TEE) {
		e.Certificates[0] = samples.Read(t, samples.SEVGuest, "verify/testdata/vcek.testcer")
	}), keystead.ReasonMachineMismatch)
}

// realTDX is a quote of a real machine, without what its module says follows it.
func realTDX(t testing.TB, name string, at time.Time, directives string, pieces ...evidence.Piece) appraise.Input {
	quote := samples.Read(t, samples.TDXGuest, name)
	body, size := 48, 584
	if binary.LittleEndian.Uint16(quote) == 5 {
		body, size = 54, int(binary.LittleEndian.Uint32(quote[50:]))
	}
	end := body + size + 4 + int(binary.LittleEndian.Uint32(quote[body+size:]))
	return recordedTEE(t, evidence.TEE{Kind: evidence.KindTDX, Report: quote[:end]}, quote[body+foundry.TDReportData:][:64], at, directives, pieces...)
}

// TestRealTDX: quotes of version 4 and 5 of real machines are judged by Intel's own root,
// one of them with its event log.
func TestRealTDX(t *testing.T) {
	for name, at := range map[string]time.Time{
		"testing/testdata/tdx_prod_quote_SPR_E4.dat":  time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC),
		"testing/testdata/ccel/cos-113-tdx-quote.dat": time.Date(2025, 2, 1, 1, 0, 0, 0, time.UTC),
		"testing/testdata/quote_v5_sample.dat":        time.Date(2026, 2, 3, 1, 0, 0, 0, time.UTC),
	} {
		in := realTDX(t, name, at, lenient)
		demand(t, name, in)
		if c := appraise.Appraise(in).Claims(); c.Assurance != "tee-vm" || len(c.TEE.Registers) != 4 || len(c.TEE.Machine) != 32 || len(c.TEE.TCB) != 17 {
			t.Errorf("%s: %+v", name, c.TEE)
		}
		demand(t, name+" without collateral", realTDX(t, name, at, ""), keystead.ReasonCollateralMissing, keystead.ReasonCollateralMissing)
	}
	in := realTDX(t, "testing/testdata/ccel/cos-113-tdx-quote.dat", time.Date(2025, 2, 1, 1, 0, 0, 0, time.UTC), lenient)
	in = withTEE(t, in, func(e *evidence.TEE) {
		e.Log = samples.Read(t, samples.TDXGuest, "testing/testdata/ccel/ccel_data.dat")
	})
	demand(t, "with its log", in)
	c := appraise.Appraise(in).Claims()
	if !c.TEE.LogCovered || c.Boot.Events < 40 || !c.Boot.SeparatorsAll || len(c.TEE.CommandLines) == 0 {
		t.Errorf("log: %+v, %+v", c.Boot, c.TEE)
	}
	demand(t, "with another machine's log", withTEE(t, in, func(e *evidence.TEE) { e.Log = e.Log[:9000] }), keystead.ReasonLogTruncated)
}

// TestRealTDXMachine: the collateral that is asked for is that of the machine, whose FMSPC
// stands in Intel's certificate.
func TestRealTDXMachine(t *testing.T) {
	at := time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC)
	in := realTDX(t, "testing/testdata/tdx_prod_quote_SPR_E4.dat", at, "")
	if got := appraise.Appraise(in).Findings(); len(got) != 2 || !strings.Contains(got[0].Want, "intel-tcb-info tdx/50806f000000") {
		t.Errorf("got %v, want the machine's FMSPC", got)
	}
}

const oasisData = "common/sgx/pcs/testdata/"

// realSGX is a quote of an enclave on a real Ice Lake with the collateral of its days.
func realSGX(t testing.TB, at time.Time, directives string, edit ...func(*evidence.Piece)) appraise.Input {
	file := func(name string) []byte { return samples.Read(t, samples.Oasis, oasisData+name) }
	quote, chain := file("quote_v3_ecdsa_p256_pck_chain.bin"), file("tcb_info_v3_fmspc_00606A000000_certs.pem")
	pieces := []evidence.Piece{
		{Kind: evidence.CollateralIntelTCBInfo, Name: "sgx/00606a000000", Data: file("tcb_info_v3_fmspc_00606A000000.json"), Chain: chain},
		{Kind: evidence.CollateralIntelQEIdentity, Name: "sgx", Data: file("qe_identity_v2.json"), Chain: chain},
	}
	for i, f := range edit {
		f(&pieces[i])
	}
	return recordedTEE(t, evidence.TEE{Kind: evidence.KindSGX, Report: quote}, quote[48+foundry.SGXData:][:64], at, directives, pieces...)
}

// TestRealSGX: a quote of a real enclave and Intel's collateral of its days are judged by
// Intel's own root: the level is one whose software needs hardening. The module has no
// revocation lists.
func TestRealSGX(t *testing.T) {
	const reported = "tee-tcb report\ntee-revocation report\n"
	at := time.Date(2022, 12, 20, 0, 0, 0, 0, time.UTC)
	real := realSGX(t, at, reported)
	demand(t, "real", real)
	v := appraise.Appraise(real)
	if c := v.Claims().TEE; v.Assurance() != evidence.AssuranceTEEProcess || c.TCBStatus != "SWHardeningNeeded" || c.TCBNumber != 13 || c.Platform != "00606a000000" || c.Debug ||
		c.Launch != "sha256:68823bc62f409ee33a32ea270cfe45d4b19a6fb3c8570d7bc186cbe062398e8f" || c.Signer != "sha256:9affcfae47b848ec2caf1c49b4b283531e1cc425f93582b36806e52a43d78d1a" ||
		!slices.Equal(c.Advisories, []string{"INTEL-SA-00615", "INTEL-SA-00657"}) || c.Root != evidence.ShippedRoots().Hardware[3].String() {
		t.Errorf("assurance %v, claims %+v", v.Assurance(), c)
	}
	found := demand(t, "by a policy that asks for UpToDate", realSGX(t, at, "tee-revocation report\n"), keystead.ReasonTCBOutdated)
	if !strings.Contains(first(found).Got, "SWHardeningNeeded") {
		t.Errorf("got %v", found)
	}
	demand(t, "by one that asks for lists", realSGX(t, at, "tee-tcb report\n"), keystead.ReasonCollateralMissing)
	demand(t, "before the collateral", realSGX(t, at.AddDate(0, 0, -4), "tee-revocation report\n"), keystead.ReasonCollateralExpired)
	demand(t, "after the collateral", realSGX(t, time.Date(2023, 2, 1, 0, 0, 0, 0, time.UTC), "tee-revocation report\n"), keystead.ReasonCollateralExpired)
	demand(t, "after its signer", realSGX(t, time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC), "tee-revocation report\n"), keystead.ReasonCollateralExpired)
	demand(t, "after its signer, reported", realSGX(t, time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC), reported))
	without := realSGX(t, at, reported)
	without.Collateral = nil // Intel's quoting enclave is known without it
	demand(t, "without collateral, reported", without)
	demand(t, "after the machine's certificate", realSGX(t, time.Date(2029, 12, 6, 0, 0, 0, 0, time.UTC), reported), keystead.ReasonVendorUntrusted)
	demand(t, "before the machine's certificate", realSGX(t, time.Date(2022, 12, 1, 0, 0, 0, 0, time.UTC), reported), keystead.ReasonVendorUntrusted)
	demand(t, "of another machine", realSGX(t, at, "tee-revocation report\n", func(p *evidence.Piece) { p.Name = "sgx/50806f000000" }), keystead.ReasonCollateralMissing)
	demand(t, "with better levels", realSGX(t, at, reported, func(p *evidence.Piece) {
		p.Data = bytes.ReplaceAll(p.Data, []byte("SWHardeningNeeded"), []byte("UpToDate"))
	}), keystead.ReasonCollateralInvalid)
	demand(t, "with another quoting enclave", realSGX(t, at, reported, func(*evidence.Piece) {}, func(p *evidence.Piece) { p.Data = bytes.Replace(p.Data, []byte("8C4F"), []byte("8D4F"), 1) }), keystead.ReasonCollateralInvalid)
	demand(t, "by another authority of Intel", realSGX(t, at, reported, func(p *evidence.Piece) {
		p.Chain = samples.Read(t, samples.Oasis, oasisData+"tcb_info_v3_fmspc_00606A000000_certs_bad.pem")
	}), keystead.ReasonVendorUntrusted)
	another := real
	another.TEERoots = foundry.NewIntel().Roots()
	demand(t, "by another root", another, keystead.ReasonVendorUntrusted)
	question := real
	question.Expect.Nonce = bytes.Repeat([]byte{1}, 64)
	demand(t, "in answer to another question", question, keystead.ReasonBundleReplayed)
	encrypted := samples.Read(t, samples.Oasis, oasisData+"quote_v3_ecdsa_p256_eppid.bin")
	found = demand(t, "without the machine's certificate", withTEE(t, real, func(e *evidence.TEE) { e.Report = encrypted }), keystead.ReasonMalformed)
	if !strings.Contains(first(found).Got, "certification data type") {
		t.Errorf("got %v", found)
	}
}

// TestRealTDXStanding: of two recorded machines Intel called one UpToDate in its days, and
// listed no level that the other reached.
func TestRealTDXStanding(t *testing.T) {
	for _, tc := range []struct {
		quote, fmspc, info, identity string
		at                           time.Time
		reasons                      []keystead.Reason
	}{
		{"quote_v4_tdx_ecdsa_p256.bin", "c0806f000000", "tcb_info_v3_tdx_fmspc_C0806F000000.json", "qe_identity_v2_tdx2.json", time.Date(2024, 9, 2, 8, 0, 0, 0, time.UTC), nil},
		{"quote_v4_tdx_ecdsa_p256_out_of_date.bin", "50806f000000", "tcb_info_v3_tdx_fmspc_50806F000000.json", "qe_identity_v2_tdx.json", time.Date(2023, 6, 18, 12, 0, 0, 0, time.UTC),
			[]keystead.Reason{keystead.ReasonTCBOutdated}},
	} {
		file := func(name string) []byte { return samples.Read(t, samples.Oasis, oasisData+name) }
		quote, chain := file(tc.quote), file("tcb_info_v3_fmspc_00606A000000_certs.pem")
		in := recordedTEE(t, evidence.TEE{Kind: evidence.KindTDX, Report: quote}, quote[48+foundry.TDReportData:][:64], tc.at, "tee-revocation report\n",
			evidence.Piece{Kind: evidence.CollateralIntelTCBInfo, Name: "tdx/" + tc.fmspc, Data: file(tc.info), Chain: chain},
			evidence.Piece{Kind: evidence.CollateralIntelQEIdentity, Name: "tdx", Data: file(tc.identity), Chain: chain})
		demand(t, tc.quote, in, tc.reasons...)
		if v := appraise.Appraise(in); tc.reasons == nil && (v.Assurance() != evidence.AssuranceTEEVM || v.Claims().TEE.TCBStatus != "UpToDate") {
			t.Errorf("%s: %v, %+v", tc.quote, v.Assurance(), v.Claims().TEE)
		}
		in.Time = tc.at.AddDate(0, 2, 0)
		demand(t, tc.quote+" two months later", in, keystead.ReasonCollateralExpired)
	}
}

// TestRealNitro: documents of real enclaves lead to AWS's own root on their day. None of
// them answers this verifier's question, which is the one thing that is wrong with those
// that are not of an enclave in debug mode.
func TestRealNitro(t *testing.T) {
	for _, tc := range []struct {
		name    string
		at      time.Time
		reasons []keystead.Reason
	}{
		{"attestdoc/testdata/sample_prod_doc.bin", time.Date(2021, 3, 17, 23, 0, 0, 0, time.UTC), nil},
		{"attestdoc/testdata/sample_prod_doc_with_publickey.bin", time.Date(2021, 3, 24, 17, 0, 0, 0, time.UTC), nil},
		{"attester/testdata/sample_prod_doc.bin", time.Date(2023, 9, 22, 0, 0, 0, 0, time.UTC), nil},
		{"attester/testdata/sample_attestation_doc_full.bin", time.Date(2024, 1, 24, 19, 0, 0, 0, time.UTC), []keystead.Reason{keystead.ReasonTEEDebug}},
	} {
		in := recordedTEE(t, evidence.TEE{Kind: evidence.KindNitro, Report: samples.Read(t, samples.Anjuna, tc.name)}, bytes.Repeat([]byte{1}, 64), tc.at, "")
		demand(t, tc.name, in, append([]keystead.Reason{keystead.ReasonNonceMismatch}, tc.reasons...)...)
		in.Time = tc.at.Add(4 * time.Hour)
		demand(t, tc.name+" four hours later", in, keystead.ReasonVendorUntrusted)
		in.Time, in.TEERoots = tc.at, foundry.NewAWS().Roots()
		demand(t, tc.name+" by another root", in, keystead.ReasonVendorUntrusted)
	}
}

package fetch

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	tdxtesting "github.com/google/go-tdx-guest/testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/snp"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/internal/samples"
	"github.com/keystead/keystead/policy"
)

// recordedVendors serves what modules recorded of AMD's and Intel's services, under their
// own paths, and what is not recorded of a made-up AMD's.
func recordedVendors(t *testing.T) Services {
	t.Helper()
	read := func(name string) []byte { return samples.Read(t, samples.SEVGuest, name) }
	report, err := snp.Parse(read("verify/testdata/attestation.bin"))
	if err != nil {
		t.Fatal(err)
	}
	list := foundry.NewAMD(1).Pieces(false)[1].Data
	mux := http.NewServeMux()
	mux.HandleFunc("/vcek/v1/Milan/", func(w http.ResponseWriter, r *http.Request) {
		switch rest := strings.TrimPrefix(r.URL.Path, "/vcek/v1/Milan/"); {
		case rest == "cert_chain":
			w.Write(read("verify/testdata/milan.testcer"))
		case rest == "crl":
			w.Write(list)
		case rest == strings.Split(snp.PieceName(report), "/")[0] && r.URL.RawQuery == "blSPL=2&snpSPL=5&teeSPL=0&ucodeSPL=68":
			w.Write(read("verify/testdata/vcek.testcer"))
		default:
			t.Logf("nobody has %v", r.URL)
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		for _, host := range []string{IntelService, IntelRoot} {
			if rsp, ok := tdxtesting.TestGetter.Responses[host+r.URL.RequestURI()]; ok {
				for k, v := range rsp.Header {
					w.Header()[http.CanonicalHeaderKey(k)] = v
				}
				w.Write(rsp.Body)
				return
			}
		}
		t.Logf("nobody has %v", r.URL)
		http.NotFound(w, r)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return Services{s.URL, s.URL, s.URL, s.URL}
}

// TestCollateralOfRecordedMachines: what is fetched for recorded evidence of real machines
// is what judging it takes, by the vendors' own roots.
func TestCollateralOfRecordedMachines(t *testing.T) {
	services := recordedVendors(t)
	report := samples.Read(t, samples.SEVGuest, "verify/testdata/attestation.bin")
	const tdxData = "testing/testdata/"
	tdx := func(name string) ([]byte, []byte) {
		quote := samples.Read(t, samples.TDXGuest, tdxData+name)
		body, size := 48, 584
		if quote[0] == 5 {
			body, size = 54, int(binary.LittleEndian.Uint32(quote[50:]))
		}
		return quote[:body+size+4+int(binary.LittleEndian.Uint32(quote[body+size:]))], quote[body+foundry.TDReportData:][:64]
	}
	v4, data4 := tdx("tdx_prod_quote_SPR_E4.dat")
	v5, data5 := tdx("quote_v5_sample.dat")
	for name, tc := range map[string]struct {
		item       evidence.TEE
		data       []byte
		at         time.Time
		directives string
		pieces     int
		want       error // nil: allowed
	}{
		"SNP":              {evidence.TEE{Kind: evidence.KindSNP, Report: report}, report[foundry.SNPReportData:][:64], time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC), "tee-debug allowed\ntee-revocation report\n", 3, nil},
		"TDX v4":           {evidence.TEE{Kind: evidence.KindTDX, Report: v4}, data4, time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC), "", 4, keystead.ReasonTCBOutdated}, // no level of the recorded TCB info is as low
		"TDX v4, reported": {evidence.TEE{Kind: evidence.KindTDX, Report: v4}, data4, time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC), "tee-tcb report\n", 4, nil},
		"TDX v5":           {evidence.TEE{Kind: evidence.KindTDX, Report: v5}, data5, time.Date(2026, 2, 3, 1, 0, 0, 0, time.UTC), "tee-revocation report\n", 4, keystead.ReasonCollateralExpired}, // its signer's certificate ended in May 2025
		"TDX v5, reported": {evidence.TEE{Kind: evidence.KindTDX, Report: v5}, data5, time.Date(2026, 2, 3, 1, 0, 0, 0, time.UTC), "tee-tcb report\ntee-revocation report\n", 4, nil},
	} {
		wanted, err := WantedFor(&tc.item, "Milan", services)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Collateral(context.Background(), wanted, tc.at, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := evidence.NewCollateral(tc.at, c.Pieces())
		if err != nil || again.Digest() != c.Digest() || len(c.Pieces()) != tc.pieces {
			t.Errorf("%s: %d pieces, want %d; made again: %v", name, len(c.Pieces()), tc.pieces, err)
		}
		binding := evidence.Binding{Purpose: evidence.PurposeRaw, Nonce: tc.data}
		b, err := evidence.New(evidence.Parts{Binding: binding, TEE: &tc.item})
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Compile([]byte("keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\n"+tc.directives+"rules none\n"), appraise.Vocabulary())
		if err != nil {
			t.Fatal(err)
		}
		verdict := appraise.Appraise(appraise.Input{Bundle: b, Expect: binding, Collateral: c, TEERoots: evidence.ShippedRoots(), Policy: p, Time: tc.at})
		if err := verdict.Err(); tc.want == nil && err != nil || tc.want != nil && (!errors.Is(err, tc.want) || len(verdict.Findings()) != 1) {
			t.Errorf("%s: want %v, got %v", name, tc.want, err)
		}
	}
}

// TestCollateralRefusals: evidence that does not say which machine it is of, and services
// that do not have it.
func TestCollateralRefusals(t *testing.T) {
	services := recordedVendors(t)
	report := samples.Read(t, samples.SEVGuest, "verify/testdata/attestation.bin")
	if _, err := WantedFor(&evidence.TEE{Kind: evidence.KindSNP, Report: report}, "", services); err == nil || !strings.Contains(err.Error(), "name it") {
		t.Errorf("no product: %v", err)
	}
	for _, kind := range []string{evidence.KindSNP, evidence.KindTDX, evidence.KindSGX, evidence.KindNitro} {
		var format *keystead.FormatError
		if _, err := WantedFor(&evidence.TEE{Kind: kind, Report: []byte{1}}, "Milan", services); !errors.As(err, &format) {
			t.Errorf("%s: one byte: %v", kind, err)
		}
	}
	if _, err := WantedFor(nil, "", services); err == nil {
		t.Error("a bundle without a TEE wants nothing")
	}
	wanted, err := WantedFor(&evidence.TEE{Kind: evidence.KindSNP, Report: report}, "Genoa", services)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Collateral(context.Background(), wanted, time.Now(), nil); !errors.Is(err, errAbsent) {
		t.Errorf("another product: %v", err)
	}
	if _, err := unpackRoot([]byte("no archive")); err == nil {
		t.Error("no archive passes")
	}
}

package collect

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/internal/samples"
)

// TestTEEProver: a recorded machine introduces itself by what its report names, which is
// what appraisal makes the claim tee.machine of; evidence is of the TEE alone.
func TestTEEProver(t *testing.T) {
	report := samples.Read(t, samples.SEVGuest, "verify/testdata/attestation.bin")
	quote := samples.Read(t, samples.TDXGuest, "testing/testdata/ccel/cos-113-tdx-quote.dat")
	for provider, out := range map[string][]byte{"sev_guest": report, "tdx_guest": quote} {
		client, asked := recordedTSM(provider, out, nil)
		p := NewTEEProver(Machine{Root: teeTree(t, nil), TSM: client}, "a recording")
		keys, err := p.Introduce(t.Context())
		if err != nil || len(keys.TEE.Machine) != map[string]int{"sev_guest": 128, "tdx_guest": 32}[provider] || keys.AKPublic != nil {
			t.Errorf("%s: %+v, %v", provider, keys, err)
		}
		hidden := bytes.Clone(*asked)
		binding := evidence.Binding{Purpose: evidence.PurposeAdmission, Nonce: []byte("nonce"), SubjectKey: []byte("key")}
		b, answer, err := p.Prove(t.Context(), binding, nil)
		if err != nil || answer != nil {
			t.Fatal(err)
		}
		want := binding.ReportData(nil)
		if parts := b.Parts(); !bytes.Equal(*asked, want[:]) || bytes.Equal(hidden, want[:]) || parts.TPM != nil || parts.IMALog != nil || parts.TEE.Kind != keys.TEE.Kind || parts.Origin.Note != "a recording" {
			t.Errorf("%s: asked for %x, made %+v", provider, *asked, parts)
		}
		for what, b := range map[string]evidence.Binding{"raw": {Purpose: evidence.PurposeRaw, Nonce: []byte("n")}, "none": {Nonce: []byte("n")}} {
			if _, _, err := p.Prove(t.Context(), b, nil); err == nil {
				t.Errorf("%s: evidence for purpose %s", provider, what)
			}
		}
		if _, _, err := p.Prove(t.Context(), binding, &evidence.Credential{}); err == nil {
			t.Errorf("%s: it opens a challenge", provider)
		}
	}
	// What can be no host.
	masked := bytes.Clone(report)
	clear(masked[foundry.SNPChipID:][:64])
	for what, out := range map[string][]byte{"the chip's identity": masked, "snp-report": report[1:]} {
		client, _ := recordedTSM("sev_guest", out, nil)
		if _, err := NewTEEProver(Machine{Root: teeTree(t, nil), TSM: client}, "").Introduce(t.Context()); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	aws := foundry.NewAWS()
	if name, err := machineOf(&evidence.TEE{Kind: evidence.KindNitro, Report: aws.Document(nil, nil, nil)}); name != "i-0abc-enc0123" || err != nil {
		t.Errorf("Nitro: %q, %v", name, err)
	}
	if _, err := machineOf(&evidence.TEE{Kind: evidence.KindSGX, Report: []byte{1}}); err == nil {
		t.Error("an enclave is a host")
	}
}

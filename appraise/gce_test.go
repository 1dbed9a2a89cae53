package appraise_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

// bootLog is a policy for evidence that another tool took of a key that is only named.
const bootLog = `keystead-policy/1
name boot-log
minimum-assurance test
software report
boot report

rule secure-boot
  require boot.secure_boot && boot.separators_all
  otherwise turn Secure Boot on
`

// gceInput is what go-tpm-tools recorded of a Google machine: its quote of one bank.
func gceInput(t testing.TB, bank evidence.Bank) appraise.Input {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tpm-tools").Output()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "internal/test/attestations/gce-cos-85-nonce9009.pb"))
	if err != nil {
		t.Fatal(err)
	}
	var a attest.Attestation
	if err := proto.Unmarshal(raw, &a); err != nil {
		t.Fatal(err)
	}
	parts := evidence.Parts{Binding: evidence.Binding{Purpose: evidence.PurposeRaw, Nonce: []byte{0x90, 0x09}}, EventLog: a.EventLog}
	for _, q := range a.Quotes {
		if evidence.Bank(q.Pcrs.Hash) == bank {
			values := evidence.Values{Bank: bank, Value: map[int][]byte{}}
			for i, v := range q.Pcrs.Pcrs {
				values.Value[int(i)] = v
			}
			parts.TPM = &evidence.TPM{AKPublic: a.AkPub, Attest: q.Quote, Signature: q.RawSig, PCRs: []evidence.Values{values}}
		}
	}
	ak, err := tpm2.ParsePublic(a.AkPub)
	if err != nil {
		t.Fatal(err)
	}
	return appraise.Input{Bundle: bundle(t, parts), Expect: parts.Binding, Key: appraise.AcceptedKey{Name: ak.Name()},
		Policy: compile(t, bootLog), Time: time.Unix(1_800_000_000, 0)}
}

// TestRealMachine: a Google machine's quote and log, taken by another tool.
func TestRealMachine(t *testing.T) {
	in := gceInput(t, evidence.SHA256)
	demand(t, "sha256", in)
	v := appraise.Appraise(in)
	if c := v.Claims(); v.Assurance() != evidence.AssuranceTest || c.Key.Binding != appraise.BindingNamed || c.Boot.Firmware != "GCE Virtual Firmware v1" || !c.Boot.SecureBoot {
		t.Errorf("assurance %v, claims %+v", v.Assurance(), c)
	}
	demand(t, "sha1", gceInput(t, evidence.SHA1), keystead.ReasonBankUnaccepted)
	in.Expect.Nonce = []byte{0x90, 0x0a}
	demand(t, "another nonce", in, keystead.ReasonBundleReplayed)
	in = gceInput(t, evidence.SHA256)
	in.Expect.Purpose = evidence.PurposeVerify
	demand(t, "raw evidence for a question of our own", in, keystead.ReasonBundleReplayed)
	in = gceInput(t, evidence.SHA256)
	in.Policy = compile(t, named)
	demand(t, "a policy that asks for more", in, keystead.ReasonEvidenceMissing)
}

package collect

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
	"github.com/google/go-sev-guest/abi"
	"github.com/google/uuid"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/samples"
)

// recordedTSM is configfs-tsm as the module imitates it, with a recorded report.
func recordedTSM(provider string, out, aux []byte) (configfsi.Client, *[]byte) {
	asked := new([]byte)
	sub := faketsm.ReportV7(0)
	read := sub.ReadAttr
	sub.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		switch attr {
		case "provider":
			return []byte(provider + "\n"), nil
		case "outblob":
			if _, err := read(e, attr); err != nil {
				return nil, err
			}
			*asked = e.InAttrs["inblob"].Value
			return out, nil
		case "auxblob":
			return aux, nil
		}
		return read(e, attr)
	}
	sub.Random = rand.Reader
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": sub}}, asked
}

func teeTree(t *testing.T, files map[string][]byte) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func sightOf(sights []Sight, what string) Sight {
	for _, s := range sights {
		if s.What == what {
			return s
		}
	}
	return Sight{}
}

// TestTEEOfRecordedTrees: what is found is asked, and each other one is told with why not.
func TestTEEOfRecordedTrees(t *testing.T) {
	report := samples.Read(t, samples.SEVGuest, "verify/testdata/attestation.bin")
	vcek := samples.Read(t, samples.SEVGuest, "verify/testdata/vcek.testcer")
	quote := samples.Read(t, samples.TDXGuest, "testing/testdata/ccel/cos-113-tdx-quote.dat")
	ccel := samples.Read(t, samples.TDXGuest, "testing/testdata/ccel/ccel_data.dat")
	table := (&abi.CertTable{Entries: []abi.CertTableEntry{{GUID: uuid.MustParse(abi.VcekGUID), RawCert: vcek}}}).Marshal()
	binding := evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: []byte("0123456789abcdef")}
	want := binding.ReportData([]byte("key"))

	client, asked := recordedTSM("sev_guest", report, table)
	out, sights, err := Machine{Root: teeTree(t, nil), TSM: client}.TEE(binding, []byte("key"))
	if err != nil || out == nil || out.Kind != evidence.KindSNP || !bytes.Equal(out.Report, report) || len(out.Certificates) != 1 || !bytes.Equal(out.Certificates[0], vcek) {
		t.Errorf("SNP: %v, %+v, %+v", err, out, sights)
	}
	if !bytes.Equal(*asked, want[:]) {
		t.Errorf("asked for %x, want %x", *asked, want)
	}
	if s := sightOf(sights, "configfs-tsm"); !s.Found || s.Detail != "sev_guest, sev-snp" {
		t.Errorf("%+v", s)
	}
	for _, other := range []string{"Nitro NSM", "SGX", "CC event log"} {
		if s := sightOf(sights, other); s.Found || s.Detail != "is not there" || s.Hint == "" {
			t.Errorf("%+v", s)
		}
	}

	client, _ = recordedTSM("tdx_guest", quote, nil)
	out, sights, err = Machine{Root: teeTree(t, map[string][]byte{ccelPath: ccel, sgxPath: nil}), TSM: client}.TEE(binding, nil)
	if err != nil || out == nil || out.Kind != evidence.KindTDX || out.Certificates != nil || !bytes.Equal(out.Log, ccel) {
		t.Errorf("TDX: %v, %+v", err, sights)
	}
	if s := sightOf(sights, "SGX"); s.Found || !strings.Contains(s.Detail, "no enclave") {
		t.Errorf("%+v", s)
	}

	client, _ = recordedTSM("other_guest", quote, nil)
	out, sights, err = Machine{Root: teeTree(t, nil), TSM: client}.TEE(binding, nil)
	if s := sightOf(sights, "configfs-tsm"); err != nil || out != nil || s.Found || !strings.Contains(s.Detail, "other_guest") {
		t.Errorf("unknown provider: %v, %+v, %+v", err, out, s)
	}

	out, sights, err = Machine{Root: teeTree(t, nil)}.TEE(binding, nil)
	if err != nil || out != nil || len(sights) != 4 {
		t.Errorf("no TEE: %v, %+v, %+v", err, out, sights)
	}
	// A tree of plain files has the directory, and no kernel behind it.
	out, sights, err = Machine{Root: teeTree(t, map[string][]byte{tsmPath + "/x": nil})}.TEE(binding, nil)
	if s := sightOf(sights, "configfs-tsm"); err == nil || out != nil || s.Found || s.Hint == "" {
		t.Errorf("no kernel: %v, %+v", err, s)
	}
	// Likewise for the module's device.
	out, sights, err = Machine{Root: teeTree(t, map[string][]byte{nsmPath: nil})}.TEE(binding, nil)
	if s := sightOf(sights, "Nitro NSM"); err == nil || out != nil || s.Found || s.Hint == "" {
		t.Errorf("no module: %v, %+v", err, s)
	}
	if got := (Machine{Root: teeTree(t, map[string][]byte{nsmPath: nil})}).Surroundings(); len(got) != 4 || !sightOf(got, "Nitro NSM").Found {
		t.Errorf("%+v", got)
	}
}

// TestNSMMessages: request and answers in the module's form.
func TestNSMMessages(t *testing.T) {
	raw, err := nsmRequest([]byte("data"), []byte("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	var request map[string]map[string]any
	if err := cbor.Unmarshal(raw, &request); err != nil {
		t.Fatal(err)
	}
	if a := request["Attestation"]; len(a) != 3 || !bytes.Equal(a["user_data"].([]byte), []byte("data")) || !bytes.Equal(a["nonce"].([]byte), []byte("nonce")) || a["public_key"] != nil {
		t.Errorf("request %v", request)
	}
	for _, tc := range []struct {
		answer any
		want   string
	}{
		{map[string]any{"Attestation": map[string]any{"document": []byte("doc")}}, ""},
		{map[string]any{"Error": "InvalidOperation"}, "InvalidOperation"},
		{map[string]any{"GetRandom": 1}, "no document"},
		{"text", "answer"},
	} {
		raw, err := cbor.Marshal(tc.answer)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := nsmDocument(raw)
		if tc.want == "" && (err != nil || string(doc) != "doc") || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%v: %q, %v", tc.answer, doc, err)
		}
	}
}

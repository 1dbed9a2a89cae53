package collect

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	evtpm2 "github.com/keystead/keystead/evidence/tpm2"
)

// TestProver: keys that do not change, evidence with the binding asked for and the
// machine's logs, and the answer to a challenge.
func TestProver(t *testing.T) {
	root := t.TempDir()
	log := filepath.Join(root, eventLogPath)
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, []byte("a log"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := NewProver(open(t, shared.Socket), Machine{Root: root}, AKECC, "of a test")
	keys, err := p.Introduce(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.Introduce(ctx); err != nil || !reflect.DeepEqual(keys, again) {
		t.Errorf("introduced anew: %v, %v", again, err)
	}
	asked, err := appraise.Challenge(rand.Reader, keys, evtpm2.Roots{Test: []*x509.Certificate{authority.Root}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	binding := evidence.Binding{Purpose: evidence.PurposeConnection, Nonce: []byte("a nonce"), SubjectKey: []byte("a key")}
	bundle, answer, err := p.Prove(ctx, binding, &asked.Credential)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asked.Accept(answer, time.Now()); err != nil {
		t.Error(err)
	}
	parts := bundle.Parts()
	if !reflect.DeepEqual(parts.Binding, binding) || string(parts.EventLog) != "a log" || parts.Origin.Note != "of a test" || !bytes.Equal(parts.TPM.AKPublic, keys.AKPublic) {
		t.Errorf("the bundle is %+v", parts)
	}
	ak, err := evtpm2.ParsePublic(parts.TPM.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	if q, err := evtpm2.VerifyQuote(ak, parts.TPM.Attest, parts.TPM.Signature); err != nil || !bytes.Equal(q.ExtraData, binding.QualifyingData()) {
		t.Errorf("the quote: %+v, %v", q, err)
	}
	if _, answer, err := p.Prove(ctx, binding, nil); err != nil || answer != nil {
		t.Errorf("without a challenge: answer %x, %v", answer, err)
	}
	for _, purpose := range []string{evidence.PurposeRaw, ""} {
		if b, _, err := p.Prove(ctx, evidence.Binding{Purpose: purpose, Nonce: []byte("n")}, nil); err == nil || b.Bytes() != nil {
			t.Errorf("purpose %q: want an error", purpose)
		}
	}
}

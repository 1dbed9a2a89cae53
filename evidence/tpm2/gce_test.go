package tpm2_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

// gceFile reads one of go-tpm-tools' recorded attestations of real machines from
// the module cache.
func gceFile(t testing.TB, name string) *attest.Attestation {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tpm-tools").Output()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "internal/test/attestations", name))
	if err != nil {
		t.Fatal(err)
	}
	a := &attest.Attestation{}
	if err := proto.Unmarshal(raw, a); err != nil {
		t.Fatal(err)
	}
	return a
}

// gceStated returns the values that come with the n-th quote.
func gceStated(a *attest.Attestation, n int) []evidence.PCRs {
	p := evidence.PCRs{Bank: evidence.Bank(a.Quotes[n].Pcrs.Hash)}
	for i, v := range a.Quotes[n].Pcrs.Pcrs {
		p.Value[i] = v
	}
	return []evidence.PCRs{p}
}

// TestRealQuotes verifies quotes of two Google machines, one quote a bank: sha1 is
// refused whatever its signature, sha256 holds in every register.
func TestRealQuotes(t *testing.T) {
	for _, tc := range []struct {
		file  string
		nonce []byte
	}{
		{"gce-cos-85-no-nonce.pb", nil},
		{"gce-cos-85-nonce9009.pb", []byte{0x90, 0x09}},
	} {
		a := gceFile(t, tc.file)
		ak := parse(t, a.AkPub)
		accepted := 0
		for n, quote := range a.Quotes {
			q, err := tpm2.VerifyQuote(ak, quote.Quote, quote.RawSig)
			if err != nil {
				t.Fatalf("%s: quote %d: %v", tc.file, n, err)
			}
			if !bytes.Equal(q.ExtraData, tc.nonce) {
				t.Errorf("%s: quote %d: want nonce %x, got %x", tc.file, n, tc.nonce, q.ExtraData)
			}
			covered, err := q.CheckPCRs(gceStated(a, n))
			if q.Banks()[0] == evidence.SHA1 {
				if !errors.Is(err, keystead.ReasonBankUnaccepted) {
					t.Errorf("%s: sha1: want bank-unaccepted, got %v", tc.file, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: quote %d: %v", tc.file, n, err)
			}
			accepted++
			if got := len(q.PCRs()); got != 24 || covered[0].Value[23] == nil {
				t.Errorf("%s: want 24 registers, got %d", tc.file, got)
			}
		}
		if accepted == 0 {
			t.Errorf("%s: no quote over an accepted bank among %d", tc.file, len(a.Quotes))
		}
	}
}

func parse(t testing.TB, b []byte) *tpm2.Public {
	t.Helper()
	p, err := tpm2.ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

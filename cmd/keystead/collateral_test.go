package main

import (
	"bytes"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
)

// TestCollateralCommands: fetch from a made-up vendor's service, show, and judge by it.
func TestCollateralCommands(t *testing.T) {
	amd, dir := foundry.NewAMD(1), t.TempDir()
	pieces := amd.Pieces(false)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/cert_chain"):
			w.Write(pieces[0].Data)
		case strings.HasSuffix(r.URL.Path, "/crl"):
			w.Write(pieces[1].Data)
		default:
			w.Write(amd.Certificates()[0])
		}
	}))
	defer server.Close()
	binding := evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: []byte("0123456789abcdef")}
	b, err := evidence.New(evidence.Parts{Binding: binding, TEE: &evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(binding.ReportData(nil), nil)}})
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, content string) string {
		if err := os.WriteFile(file(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file(name)
	}
	bundle := write("bundle", string(b.Bytes()))
	policy := write("policy", "keystead-policy/1\nname tee\nminimum-assurance tee-vm\nsoftware report\nboot report\ntee accepted\nrules none\n")
	command := func(status int, want string, args ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(args, &out, &errs); got != status || !strings.Contains(out.String()+errs.String(), want) {
			t.Errorf("%q: status %d, want %d with %q: %s%s", args, got, status, want, &out, &errs)
		}
	}
	command(0, "ops", "member", "create", "ops", "--out", file("ops.key"))
	var signed, errs bytes.Buffer
	if status := run([]string{"policy", "sign", "--key", file("ops.key"), policy}, &signed, &errs); status != 0 {
		t.Fatal(errs.String())
	}
	policy = write("policy.signed", signed.String())
	command(1, "name it", "collateral", "fetch", "--for", bundle, "--out", file("c"), "--amd-service", server.URL)
	command(0, "3 pieces", "collateral", "fetch", "--for", bundle, "--out", file("c"), "--amd-service", server.URL, "--product", "Milan")
	command(0, "0 revoked by ARK-Milan", "collateral", "show", "--at", "2026-11-02T00:00:00Z", file("c"))
	command(0, "not good", "collateral", "show", "--at", "2036-11-02T00:00:00Z", file("c"))
	command(1, "keystead collateral fetch", "collateral", "show", bundle)
	command(6, "is not there", "collateral", "fetch", "--for", bundle, "--out", file("d"), "--amd-service", "file://"+dir, "--product", "Milan")
	verify := []string{"evidence", "verify", "--nonce", hex.EncodeToString(binding.Nonce), "--policy", policy, "--signer", file("ops.key.pub"), "--at", "2026-11-02T00:00:00Z"}
	root := amd.Roots().Hardware[0].String()
	command(0, "sev-snp", append(verify, "--json", "--collateral", file("c"), "--tee-root", root, bundle)...)
	command(3, "vendor-untrusted", append(verify, "--collateral", file("c"), bundle)...)
	command(3, "collateral-missing", append(verify, "--tee-root", root, bundle)...)
	command(5, "assurance-low", append(verify, "--collateral", file("c"), "--test-tee-root", root, bundle)...)
	command(1, "sha256:HEX", append(verify, "--tee-root", "md5:00", bundle)...)
}

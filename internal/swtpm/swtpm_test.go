package swtpm

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestNothingIsLeft starts, restarts and stops a TPM, and demands that process and
// files are gone.
func TestNothingIsLeft(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ca, err := NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tpm, err := ca.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	first := tpm.cmd
	if err := tpm.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	second := tpm.cmd
	if first.ProcessState == nil || second.ProcessState != nil {
		t.Fatalf("after Restart: want the first process ended and the second running, got %v and %v", first.ProcessState, second.ProcessState)
	}
	for range 2 {
		if err := tpm.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if second.ProcessState == nil {
		t.Error("after Stop: the process was not reaped")
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("after Stop: left behind: %v", left)
	}
}

// TestStartFails demands the program's own words when it can not manufacture.
func TestStartFails(t *testing.T) {
	ca, err := NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ca.path("key.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca.path("setup.conf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if tpm, err := ca.Start(context.Background()); err == nil {
		tpm.Stop()
		t.Error("want an error of swtpm_setup, got a TPM")
	}
}

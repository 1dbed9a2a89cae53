package collect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead/internal/swtpm"
)

// The tests share one authority and one software TPM; those that change a TPM for
// good start their own.
var (
	authority *swtpm.CA
	shared    *swtpm.TPM
)

func TestMain(m *testing.M) {
	if playPeer() {
		return
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "ca-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if authority, err = swtpm.NewCA(dir); err != nil {
		return 0, err
	}
	if shared, err = authority.Start(context.Background()); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, shared.Stop()) }()
	return m.Run(), nil
}

// ownTPM starts a software TPM for one test.
func ownTPM(t *testing.T) *swtpm.TPM {
	t.Helper()
	s, err := authority.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// open opens the TPM and demands at the test's end that no key or session is left in it.
func open(t *testing.T, socket string) *TPM {
	t.Helper()
	tpm, err := OpenTPM(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} { // transient objects, loaded and saved sessions
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 8}.Execute(raw(tpm))
			if err != nil {
				t.Fatal(err)
			}
			handles, err := rsp.CapabilityData.Data.Handles()
			if err != nil {
				t.Fatal(err)
			}
			if len(handles.Handle) > 0 {
				t.Errorf("handles left in the TPM: %x", handles.Handle)
			}
		}
		if err := tpm.Close(); err != nil {
			t.Error(err)
		}
	})
	return tpm
}

// raw gives commands to the TPM that collect itself never sends.
func raw(tpm *TPM) link { return link{context.Background(), tpm} }

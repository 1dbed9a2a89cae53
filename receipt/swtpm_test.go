package receipt_test

import (
	"context"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// TestRekeyBySoftwareTPM certifies a node's next key by a TPM of its own process, with
// each kind of attestation key, also after a reboot.
func TestRekeyBySoftwareTPM(t *testing.T) {
	ctx := context.Background()
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	machine, err := ca.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Stop()
	tpm, err := collect.OpenTPM(machine.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	for name, kind := range map[string]collect.AKType{"ecc": collect.AKECC, "rsa": collect.AKRSA} {
		t.Run(name, func(t *testing.T) {
			public, err := tpm.AK(ctx, kind)
			if err != nil {
				t.Fatal(err)
			}
			h := newHouse(t, nil, key.DigestAK(public), forger.New(2).AK(), forger.New(3).AK())
			if err := machine.Restart(ctx); err != nil { // with the boot comes the next key
				t.Fatal(err)
			}
			certify := func(b evidence.Binding) *receipt.Change {
				t.Helper()
				cert, err := tpm.Certify(ctx, b, kind, collect.BootPCRs())
				if err != nil {
					t.Fatal(err)
				}
				return certified(h.rekey(9), "n1", cert)
			}
			next := nodeKey(t, 9).Public()
			if err := h.verify(certify(receipt.KeyBinding(h.id, h.id, "n1", next))); err != nil {
				t.Error(err)
			}
			wants(t, h.verify(certify(receipt.KeyBinding(h.id, h.id, "n2", next))), keystead.ReasonNonceMismatch, "node n1")
		})
	}
}

package collect_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/swtpm"
)

// A software TPM is manufactured, and its endorsement key shown to whoever accepts
// the authority that certified it.
func Example() {
	dir, err := os.MkdirTemp("", "ca-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ca, err := swtpm.NewCA(dir)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	machine, err := ca.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer machine.Stop()

	tpm, err := collect.OpenTPM(machine.Socket)
	if err != nil {
		log.Fatal(err)
	}
	defer tpm.Close()
	banks, err := tpm.Banks(ctx)
	if err != nil {
		log.Fatal(err)
	}
	ek, err := tpm.EK(ctx)
	if err != nil {
		log.Fatal(err)
	}
	public, err := tpm2.ParsePublic(ek.Public)
	if err != nil {
		log.Fatal(err)
	}
	id, err := tpm2.VerifyEK(ek.Chain, public, tpm2.Roots{Test: []*x509.Certificate{ca.Root}}, time.Now())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(banks, ek.Profile, id.Model, id.Software)
	// Output: [sha256 sha384] H-3 (ECC P-384) swtpm true
}

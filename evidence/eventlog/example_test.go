package eventlog_test

import (
	"errors"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
)

// The log and the register values come with a bundle; tpm2.Quote.CheckPCRs returns
// the values that the quote covers.
func ExampleOpen() {
	var raw []byte
	covered := []evidence.PCRs{{Bank: evidence.SHA256}}

	log, err := eventlog.Open(raw, covered)
	if errors.Is(err, keystead.ReasonEvidenceMissing) {
		fmt.Println(err)
		return
	}
	fmt.Println(log.Boot().SecureBoot)
	// Output: denied: evidence-missing: event log: want an event log, got none
}

func ExampleLoadOptions() {
	_, bare := eventlog.LoadOptions(evidence.SHA256, "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro")
	fmt.Println(bare)
	// Output: sha256:b65d049b476907bb18eda98e2409256fc6481345d35762e168d81c3e493827f9
}

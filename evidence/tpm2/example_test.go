package tpm2_test

import (
	"context"
	"fmt"
	"log"

	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence/tpm2"
)

// A host quotes its registers over a verifier's nonce, and the verifier learns
// which values it may believe.
func Example() {
	socket, err := live() // of a software TPM; "" is this machine's own TPM
	if err != nil {
		log.Fatal(err)
	}
	host, err := collect.OpenTPM(socket)
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	sent, err := host.Quote(context.Background(), collect.QuoteRequest{QualifyingData: []byte("a nonce"), PCRs: []int{0, 4, 7}})
	if err != nil {
		log.Fatal(err)
	}

	ak, err := tpm2.ParsePublic(sent.AKPublic)
	if err != nil {
		log.Fatal(err)
	}
	quote, err := tpm2.VerifyQuote(ak, sent.Attest, sent.Signature)
	if err != nil {
		log.Fatal(err)
	}
	stated, err := sent.PCRBanks()
	if err != nil {
		log.Fatal(err)
	}
	covered, err := quote.CheckPCRs(stated)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s signed %q over registers %v\n", ak.Algorithm(), quote.ExtraData, quote.PCRs())
	for _, bank := range covered {
		fmt.Printf("%v: register 0 has %d bytes, register 1 was not quoted: %t\n", bank.Bank, len(bank.Value[0]), bank.Value[1] == nil)
	}
	// Output:
	// ecdsa-p256 signed "a nonce" over registers [0 4 7]
	// sha256: register 0 has 32 bytes, register 1 was not quoted: true
	// sha384: register 0 has 48 bytes, register 1 was not quoted: true
}

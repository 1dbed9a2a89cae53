package process_test

import (
	"crypto/hpke"
	"fmt"
	"log"

	"github.com/keystead/keystead/evidence/process"
)

// An application answers a challenge, and a key comes back that only it can open.
func Example() {
	var challenge [process.ChallengeSize]byte // from the agent
	boot, err := process.ParseBootID("8f1b3c52-0a6d-4f0e-9f57-2d3c4b5a6978")
	if err != nil {
		log.Fatal(err)
	}
	wrapping, err := process.KEMs()[0].GenerateKey()
	if err != nil {
		log.Fatal(err)
	}
	report, err := process.Report{Challenge: challenge, Boot: boot, Key: "billing", Wrapping: wrapping.PublicKey()}.Encode()
	if err != nil {
		log.Fatal(err)
	}

	r, err := process.Verify(report, challenge, boot) // the agent's side
	if err != nil {
		log.Fatal(err)
	}
	kdf, aead := process.Suite()
	answer, err := hpke.Seal(r.Wrapping, kdf, aead, process.Info(report), []byte("a key"))
	if err != nil {
		log.Fatal(err)
	}

	key, err := hpke.Open(wrapping, kdf, aead, process.Info(report), answer)
	fmt.Println(r.Key, string(key), err)
	// Output: billing a key <nil>
}

package client_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
)

// A write, and its receipt, which is verified before Receipt returns it. The digest
// says which domain it is to be, and comes another way than the file.
func Example() {
	raw, err := os.ReadFile("domain.json")
	if err != nil {
		log.Fatal(err)
	}
	file, err := client.ParseDomain(raw)
	if err != nil {
		log.Fatal(err)
	}
	digest, err := keystead.ParseDigest("sha256:48a2684e0e27f568b87e9960a5c6de233e1006b0f0ca0585b24d9de7ee337404")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.Open(file, digest, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	outcome, err := c.Put(context.Background(), "kv/colour", []byte("blue"))
	if err != nil {
		log.Fatal(err)
	}
	_, proven, err := c.Receipt(context.Background(), outcome.GetLeaf())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(proven.ID)
}

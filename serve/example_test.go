package serve_test

import (
	"log"
	"net/http"
	"time"

	"github.com/keystead/keystead/serve"
)

// The handler of a node's API, from what package node makes of a replica.
func ExampleNew() {
	var node interface {
		serve.Ledger
		serve.Domain
	}
	opts := serve.Options{InFlight: 1024, Timeout: 10 * time.Second}
	api := serve.New(append(serve.LedgerProcedures(node, &opts), serve.DomainProcedures(node)...), opts)
	log.Fatal(http.ListenAndServe("127.0.0.1:7200", api))
}

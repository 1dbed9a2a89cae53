package fetch_test

import (
	"context"
	"fmt"
	"log"

	"github.com/keystead/keystead/fetch"
)

// The reference set of this machine's packages, by apt's own sources and keys. It
// needs the network where apt's lists and the cache do not suffice.
func ExampleBuild() {
	packages, err := fetch.Installed("")
	if err != nil {
		log.Fatal(err)
	}
	r, err := fetch.Build(context.Background(), fetch.Options{Packages: packages})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range r.Set.Header().Missing {
		fmt.Println(m.Finding())
	}
	fmt.Println(r.Set.Digest(), r.Set.Len())
}

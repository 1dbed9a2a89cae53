package node_test

import (
	"fmt"

	"github.com/keystead/keystead/node"
)

func ExampleParseConfig() {
	_, err := node.ParseConfig([]byte("dir = \"/var/lib/keystead\"\nlisten = \":7200\"\n"))
	fmt.Println(err)
	// Output: line 2: listen is not a field; keystead node run --example-config lists them
}

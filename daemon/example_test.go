package daemon_test

import (
	"fmt"

	"github.com/keystead/keystead/daemon"
)

func ExampleParseConfig() {
	_, err := daemon.ParseConfig([]byte("dir = \"/var/lib/keystead\"\nlisten = \":7200\"\n"))
	fmt.Println(err)
	// Output: line 2: listen is not a field; keystead node run --example-config lists them
}

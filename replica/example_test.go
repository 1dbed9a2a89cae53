package replica_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"net"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
)

// A group of one, in memory. Three are the same, with three members for founders.
func Example() {
	key, err := replica.GenerateNodeKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	node, err := replica.Start(ctx, replica.Options{
		Store:    replica.StoreOptions{FS: vfs.NewMem(), Dir: "data", Machine: &sim.KV{}},
		Key:      key.Digest(),
		Founders: []replica.Member{{Key: key.Digest(), Address: listener.Addr().String()}},
		Connect:  replica.ListenTLS(replica.TLSOptions{Guard: key, Listener: listener}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()

	result, err := node.Propose(ctx, sim.Command{ID: 1, Op: sim.Put, Key: "colour", New: "red"}.Encode())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", result)

	if err := node.Read(ctx); err != nil {
		log.Fatal(err)
	}
	err = node.View(func(v replica.View) error {
		colour, err := sim.Value(v, "colour")
		fmt.Println(colour)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// ok
	// red
}

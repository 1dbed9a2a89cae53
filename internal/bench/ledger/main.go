// Command ledger measures the ledger of three node processes on this machine:
// one table of figures, each with its limit and a peer.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	program := flag.String("program", "build/keystead", "the keystead program")
	dir := flag.String("dir", "build", "where to put the stores: on a disk, for fsync to mean something")
	seconds := flag.Int("seconds", 5, "length of each load")
	streams := flag.Int("streams", 2, "")
	clients := flag.Int("clients", 512, "puts under way per stream")
	size := flag.Int("size", 100, "")
	only := flag.Bool("leader", false, "")
	flag.Parse()
	d, err := startDomain(*program, *dir, 17101)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer d.stop()
	name := ""
	if *only {
		name, _ = d.leader(context.Background())
	}
	f, err := d.puts(putLoad{streams: *streams, clients: *clients, value: bytes.Repeat([]byte{'x'}, *size), duration: time.Duration(*seconds) * time.Second, only: name})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Printf("%.0f puts/s, p50 %v p99 %v, failed %d (%v)\n", f.rate(), f.quantile(0.5), f.quantile(0.99), f.failed, f.firstErr)
}

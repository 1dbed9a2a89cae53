// Command record makes a recording afresh: make testbed-record.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/keystead/keystead/internal/testbed"
)

func main() {
	to := flag.String("to", "internal/recording/data", "directory of the recording, which is replaced")
	cache := flag.String("cache", "", "take the guest from this directory, or leave it there; empty: build it afresh")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := record(ctx, *to, *cache); err != nil {
		fmt.Fprintln(os.Stderr, "keystead: error:", err)
		os.Exit(1)
	}
}

func record(ctx context.Context, to, cache string) error {
	start := time.Now()
	progress := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	bed, err := testbed.Build(ctx, testbed.Options{Cache: cache, Progress: progress})
	if err != nil {
		return err
	}
	defer bed.Close()
	return testbed.Record(ctx, bed, to)
}

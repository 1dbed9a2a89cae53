package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
)

// Up sets up the demo's domain for a person to play with, until ctx ends: three nodes
// and an admitted host, with a key. Each line of input moves the host to its next
// recorded phase, in which it is bad. It leaves nothing behind.
func Up(ctx context.Context, w io.Writer, rec *recording.Recording, program string, lines <-chan struct{}) (err error) {
	dir, err := os.MkdirTemp("", "keystead-up-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := practice.New(rec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	quiet := &demo{w: io.Discard, rec: rec, stage: s, dir: dir}
	fmt.Fprintln(w, "Three nodes and a host start, each with a software TPM of its own ...")
	began := time.Now()
	x, err := quiet.newDomain(ctx, program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.close()) }()
	for _, step := range []func(context.Context) error{x.found, x.admit, x.agree} {
		if err := step(ctx); err != nil {
			return interrupted(ctx, err)
		}
	}
	fmt.Fprintf(w, `The domain is up after %.1f s. From another terminal:

  export KEYSTEAD_DOMAIN=%[2]s/domain/domain.json KEYSTEAD_AGENT=%[2]s/%[3]s.sock
  keystead host list                        who has a lease
  keystead agent status                     the host's own view of it
  keystead key release %[4]s                an application asks for the key
  keystead key rotate %[4]s --member %[2]s/domain/member.key
  keystead ledger put kv/colour blue        and: ledger tail, receipt get LEAF
  keystead host revoke %[3]s --member %[2]s/domain/member.key
  kill -9 $(pgrep -f %[2]s/domain/n1)       a node; the other two go on

The second machine, %[5]s, runs an altered program and has no agent yet. Logs: %[2]s/*.log
`, time.Since(began).Seconds(), dir, good, theme, filepath.Join(dir, bad))
	for host := x.machines[good]; ; {
		if host.More() {
			fmt.Fprintf(w, "Enter lets %s go bad (its next recorded phase); ctrl-C ends and removes all of it.\n", good)
		} else {
			fmt.Fprintln(w, "ctrl-C ends and removes all of it.")
			lines = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-lines:
			p, err := host.Advance(ctx)
			if err != nil {
				return interrupted(ctx, err)
			}
			fmt.Fprintf(w, "phase %s: %s\n", p.Name, p.About)
		}
	}
}

// interrupted makes a person's ctrl-C no error.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

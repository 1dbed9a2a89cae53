package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
)

// restAfter is how long a process that somebody killed stays away: long enough to see
// that the others go on.
const restAfter = 5 * time.Second

// Up sets up the demo's domain for a person to play with, until ctx ends: three nodes
// and an admitted host, with a key. Each line of input moves the host to its next
// recorded phase, in which it is bad. What the person kills is started again after a
// while. It leaves nothing behind.
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
  keystead ledger put kv/colour blue        and: ledger tail, receipt get LEAF; anybody may write here
  keystead host revoke %[3]s --member %[2]s/domain/member.key
  kill -9 %[6]d                  node n1; the other two go on, and it comes back after %[7]v
%[8]s
The second machine, %[5]s, runs an altered program and has no agent yet. Logs: %[2]s/*.log
`, time.Since(began).Seconds(), dir, good, theme, filepath.Join(dir, bad), x.sh.Process("n1"), restAfter, x.processes())
	gone, back := make(chan string), make(chan string)
	for _, name := range append(slices.Clone(nodes), good) {
		x.watch(ctx, name, gone)
	}
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
		case name := <-gone:
			if ctx.Err() != nil { // the person's ctrl-C reached it first
				return nil
			}
			how, trouble := x.sh.Why(name)
			if trouble { // such as a node that members removed
				fmt.Fprintf(w, "%s ended (%s) and stays away:\n%s\n", name, how, x.sh.Log(name))
				continue
			}
			fmt.Fprintf(w, "%s ended (%s); it is started again in %v.\n", name, how, restAfter)
			time.AfterFunc(restAfter, func() { pass(ctx, back, name) })
		case name := <-back:
			if err := x.sh.Again(name); err != nil {
				return err
			}
			fmt.Fprintf(w, "%s runs again: process %d\n", name, x.sh.Process(name))
			x.watch(ctx, name, gone)
		case <-lines:
			p, err := host.Advance(ctx)
			if err != nil {
				return interrupted(ctx, err)
			}
			fmt.Fprintf(w, "phase %s: %s\n", p.Name, p.About)
		}
	}
}

// processes lists what runs.
func (x *domain) processes() string {
	var b strings.Builder
	for _, name := range append(slices.Clone(nodes), good) {
		fmt.Fprintf(&b, "  %-8s process %d\n", name, x.sh.Process(name))
	}
	return b.String()
}

// watch passes the name on once the command has ended.
func (x *domain) watch(ctx context.Context, name string, gone chan<- string) {
	ended := x.sh.Ended(name)
	go func() {
		select {
		case <-ended:
			pass(ctx, gone, name)
		case <-ctx.Done():
		}
	}()
}

func pass(ctx context.Context, to chan<- string, name string) {
	select {
	case to <- name:
	case <-ctx.Done():
	}
}

// interrupted makes a person's ctrl-C no error.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

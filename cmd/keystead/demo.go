package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/demo"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
)

// demo: the main job on this machine.
func (a *app) demo() *cobra.Command {
	var host, recorded string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on this machine, narrated",
		Long: `First a verifier judges live quotes of a host into whose software TPM a recorded boot was
replayed: one that passes and five that must not. Then three nodes found a domain; a host
is admitted, an application gets a key that the nodes agreed on; an altered host is
denied; the leader is killed, a node evicted; the admitted host goes bad and loses all;
receipts are verified offline. Needs swtpm; leaves nothing behind. The exit status is not
0 if any step comes out otherwise than expected.

With --host it only starts that host, for you to attest with the other commands: DIR, which must not
exist, gets its TPM's socket and its logs. Enter moves it to its next recorded phase; ctrl-C ends it
and removes DIR. docs/guide/attest.md begins with it. With --recording the demo is played over a
recording of your own, such as make testbed-record makes.`,
		Example: `  keystead demo
  keystead demo --host /tmp/host`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&host, "host", "", "only start the host, in the new directory `DIR`")
	c.Flags().StringVar(&recorded, "recording", "", "play a recording in `DIR` in place of the one in this program")
	c.MarkFlagsMutuallyExclusive("host", "recording")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, stop := cli.Interruptible(c.Context())
		defer stop()
		if host != "" {
			return aboutDemo(a.stage(ctx, host, c.InOrStdin()))
		}
		source := recording.Committed()
		if recorded != "" {
			source = os.DirFS(recorded)
		}
		rec, err := recording.Load(source)
		if err != nil {
			return cli.Misuse(err, "make testbed-record writes a recording")
		}
		narration := a.Stdout
		if a.JSON {
			narration = a.Stderr
		}
		program, err := os.Executable()
		if err != nil {
			return err
		}
		outcomes, err := demo.Run(ctx, cli.Escaping(narration), rec, program)
		if err == nil && a.JSON {
			return a.Answer(outcomes, nil)
		}
		return aboutDemo(err)
	}
	return c
}

// aboutDemo says what to install when a program is missing.
func aboutDemo(err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return cli.Unavailable(err, "apt-get install --no-install-recommends swtpm swtpm-tools")
	case errors.Is(err, fs.ErrExist):
		return cli.Misuse(err, "--host names a directory that does not exist yet")
	}
	return err
}

// stage runs a host until the context ends; each line of input moves it on.
func (a *app) stage(ctx context.Context, dir string, input io.Reader) (err error) {
	m, stop, err := practice.Alone(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	say := func(format string, args ...any) { fmt.Fprintf(cli.Escaping(a.Stdout), format+"\n", args...) }
	first := m.Phase()
	say("A host replays a recorded boot. Attest it from another terminal:\n")
	say("  keystead evidence collect --tpm %[1]s/%[2]s --root %[1]s/%[3]s --nonce $NONCE --out host.bundle\n", dir, practice.TPM, practice.Root)
	say("For its verifier: %[1]s/%[2]s (--test-ek-root), %[1]s/%[3]s (--refs), %[1]s/%[4]s (to sign)\n", dir, practice.EKRoot, practice.Reference, practice.CodeSet)
	say("phase %s: %s", first.Name, first.About)
	lines := linesOf(input)
	for {
		if m.More() {
			say("Enter for the next phase, ctrl-C to end.")
		} else {
			say("This is the last phase; ctrl-C to end.")
			lines = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-lines:
			p, err := m.Advance(ctx)
			if err != nil {
				return err
			}
			say("phase %s: %s", p.Name, p.About)
		}
	}
}

// linesOf tells of each line of input.
func linesOf(input io.Reader) chan struct{} {
	lines := make(chan struct{})
	go func() {
		for scanner := bufio.NewScanner(input); scanner.Scan(); {
			lines <- struct{}{}
		}
	}()
	return lines
}

// up: the demo's domain, kept running.
func (a *app) up() *cobra.Command {
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a domain on this machine to play with, until ctrl-C",
		Long: `Starts three nodes and a host, each with a software TPM into which a recorded boot is
replayed; has the host enrolled and admitted and the nodes agree on a key; and says what
to try from another terminal. Enter lets the host go bad; what is killed is started again.
Needs swtpm; ctrl-C ends and removes all of it.`,
		Example: `  keystead up`,
		Args:    cobra.NoArgs,
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, stop := cli.Interruptible(c.Context())
		defer stop()
		rec, err := recording.Load(recording.Committed())
		if err != nil {
			return err
		}
		program, err := os.Executable()
		if err != nil {
			return err
		}
		return aboutDemo(demo.Up(ctx, cli.Escaping(a.Stdout), rec, program, linesOf(c.InOrStdin())))
	}
	return c
}

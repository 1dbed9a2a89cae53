package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// app is what all commands share: where to write, and how.
type app struct {
	stdout, stderr io.Writer
	json           bool
	command        string // whose own code has begun, such as "keystead host list"; errors before that are cobra's
	answered       bool   // the answer stands on stdout

	told func(command string, answer any) // tests see answers by it, text or --json alike; nil else
}

// run executes one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	return (&app{stdout: stdout, stderr: stderr}).run(args)
}

func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(args)
	called, err := root.ExecuteC()
	if err != nil && a.command == "" {
		a.json = slices.Contains(args, "--json") // parsing may not have come that far
		err = misuse(err, fmt.Sprintf("%s --help lists what there is", called.CommandPath()))
	}
	return a.report(err)
}

// helpWidth is the longest line of a help text.
const helpWidth = 100

// root gathers the nouns: one file each, in the order in which help lists them.
func (a *app) root() *cobra.Command {
	root := a.noun("keystead", "Machines earn their keys: evidence of what a machine runs, and its judgement",
		`Keystead collects hardware evidence of what a machine runs, and judges evidence that
it is given by packages, code sets and a policy.

The answer to a command is on stdout, everything else on stderr. Exit status:
0 ok, 1 misuse, 2 signature, 3 collateral, 4 revoked, 5 policy, 6 unavailable, 7 internal,
8 not found, 130 interrupted (docs/spec/cli.md). docs/guide/attest.md goes through all of it.`,
		`  keystead demo
  keystead evidence collect --explain
  keystead policy show strict`,
		a.evidence(),
		a.ak(),
		a.collateral(),
		a.refval(),
		a.codeset(),
		a.policy(),
		a.member(),
		a.domain(),
		a.setting(),
		a.node(),
		a.host(),
		a.agent(),
		a.key(),
		a.ledger(),
		a.receipt(),
		a.demo(), a.up(),
		a.version(),
	)
	var version bool
	root.Flags().BoolVar(&version, "version", false, "print the program's version, commit and digest")
	help := root.RunE
	root.RunE = func(c *cobra.Command, args []string) error {
		if version && len(args) == 0 {
			return a.answerVersion()
		}
		return help(c, args)
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "give the answer as JSON, in a form that stays stable")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages", fmt.Sprintf("Flags.FlagUsagesWrapped %d", helpWidth)))
	a.mark(root)
	return root
}

// mark makes every command note that its own code has begun.
func (a *app) mark(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.command = c.CommandPath()
			return run(c, args)
		}
	}
	for _, verb := range c.Commands() {
		a.mark(verb)
	}
}

// noun makes a command that only holds verbs. Alone it gives its help; a word that
// is no verb is misuse.
func (a *app) noun(name, short, long, example string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short, Long: long, Example: example, Args: cobra.ArbitraryArgs}
	c.AddCommand(verbs...)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		hint := c.CommandPath() + " --help lists what there is"
		c.SuggestionsMinimumDistance = 2
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf("did you mean %s %s?", c.CommandPath(), strings.Join(near, " or "))
		}
		return misuse(fmt.Errorf("%s has no command %q", c.CommandPath(), args[0]), hint)
	}
	return c
}

// interruptible is for work that has something to clean up and obeys its context: an
// interrupt ends the context, and not the program, until stop is called.
func interruptible(ctx context.Context) (_ context.Context, stop func()) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// arguments demands exactly the named ones.
func arguments(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return errors.New(names[len(args)] + " is missing")
		case len(args) > len(names):
			return fmt.Errorf("%.80q is one argument too many", args[len(names)])
		}
		return nil
	}
}

package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/internal/cli"
)

// app has the commands that are not systems' parts.
type app struct{ *cli.App }

func newApp(stdout, stderr io.Writer) *app { return &app{&cli.App{Stdout: stdout, Stderr: stderr}} }

// run executes one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	a := newApp(stdout, stderr)
	return a.Run(a.root(), args)
}

// root gathers the nouns: one file each, in the order in which help lists them.
func (a *app) root() *cobra.Command {
	root := a.Noun("keystead", "Machines earn their keys: evidence of what a machine runs, and its judgement",
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
	return a.Root(root, systems()...)
}

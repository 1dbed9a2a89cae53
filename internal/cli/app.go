// Package cli is the seam of the command line: what all commands share. That is where answers go
// and in which form, what errors, hints and exit statuses are, the flags of commands that talk to a
// domain, and how members' statements are signed and handed in. A system's commands come from a
// package of its own by one function, which the binary's main lists:
//
//	func Commands(a *cli.App) []cli.Placed {
//		return []cli.Placed{{Under: "host", Command: hostWatch(a)}}
//	}
//
// docs/spec/cli.md is what users may build on.
package cli

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
	"time"

	"github.com/spf13/cobra"
)

// App is what all commands share: where to write, and how.
type App struct {
	Stdout, Stderr io.Writer
	JSON           bool // --json was given

	// Told sees answers, text or --json alike; nil but in tests.
	Told func(command string, answer any)

	command  string // whose own code has begun, such as "keystead host list"; errors before that are cobra's
	answered bool   // the answer stands on stdout
}

// A Placed command stands under a noun, or under the program itself.
type Placed struct {
	Under string // name of the noun; "" for the program
	*cobra.Command
}

// Root makes the program's command of its noun, with the commands of systems in their places.
func (a *App) Root(root *cobra.Command, systems ...func(*App) []Placed) *cobra.Command {
	for _, commands := range systems {
		for _, c := range commands(a) {
			a.place(root, c)
		}
	}
	root.PersistentFlags().BoolVar(&a.JSON, "json", false, "give the answer as JSON, in a form that stays stable")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages", fmt.Sprintf("Flags.FlagUsagesWrapped %d", HelpWidth)))
	a.mark(root)
	return root
}

// place puts a command under its noun. That there is none, or that it has such a command, is a
// defect of the program.
func (a *App) place(root *cobra.Command, p Placed) {
	at := root
	if p.Under != "" {
		at = child(root, p.Under)
	}
	if at == nil || child(at, p.Name()) != nil {
		panic(fmt.Sprintf("no place for the command %q under %q", p.Name(), p.Under))
	}
	at.AddCommand(p.Command)
}

func child(of *cobra.Command, name string) *cobra.Command {
	for _, c := range of.Commands() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// Run executes one command line of a root's and returns the exit status.
func (a *App) Run(root *cobra.Command, args []string) int {
	root.SetArgs(args)
	called, err := root.ExecuteC()
	if err != nil && a.command == "" {
		a.JSON = slices.Contains(args, "--json") // parsing may not have come that far
		err = Misuse(err, fmt.Sprintf("%s --help lists what there is", called.CommandPath()))
	}
	return a.Report(err)
}

// HelpWidth is the longest line of a help text.
const HelpWidth = 100

// mark makes every command note that its own code has begun.
func (a *App) mark(c *cobra.Command) {
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

// Noun makes a command that only holds verbs. Alone it gives its help; a word that
// is no verb is misuse.
func (a *App) Noun(name, short, long, example string, verbs ...*cobra.Command) *cobra.Command {
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
		return Misuse(fmt.Errorf("%s has no command %q", c.CommandPath(), args[0]), hint)
	}
	return c
}

// Interruptible is for work that has something to clean up and obeys its context: an
// interrupt ends the context, and not the program, until stop is called.
func Interruptible(ctx context.Context) (_ context.Context, stop func()) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// Arguments demands exactly the named ones.
func Arguments(names ...string) cobra.PositionalArgs {
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

// Must is for what only a defect of a command's own declaration can fail.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Stamp is a time of the ledger, Unix milliseconds, as text has it.
func Stamp(ms uint64) string { return time.UnixMilli(int64(ms)).UTC().Format(time.RFC3339) }

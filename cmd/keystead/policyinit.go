package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/policy"
)

// policyInit drafts a policy from a golden machine's evidence.
func (a *app) policyInit() *cobra.Command {
	var v verification
	var name string
	c := &cobra.Command{
		Use:   "init --name NAME --nonce HEX BUNDLE",
		Short: "Draft a policy from a golden machine's bundle",
		Long: `Appraises the bundle and prints the strictest policy that this machine passes, each line with its
reason, for you to read, edit and sign. Give it the same keys, reference sets and code sets as a
verifier would have: what they do not name, the draft can not demand. What the next update would
break, such as a firmware's version, is left to comments.`,
		Example: `  keystead policy init --name web --nonce $NONCE --ak golden.ak --ek-root vendors.pem \
      --refs golden.refs --codeset boot.signed --signer ops.key.pub golden.bundle > web.txt`,
		Args: cli.Arguments("BUNDLE"),
	}
	v.evidence(c)
	c.Flags().StringVar(&name, "name", "", "`NAME` of the policy")
	cli.Must(c.MarkFlagRequired("name"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		if _, err := policy.Compile([]byte("keystead-policy/1\nname "+name+"\nrules none\n"), appraise.Vocabulary()); err != nil {
			return cli.Misuse(fmt.Errorf("--name: %w", err), "")
		}
		in, err := v.input(args[0])
		if err != nil {
			return err
		}
		p, err := appraise.Draft(name, in)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		answer := struct {
			Name   string          `json:"name"`
			Digest keystead.Digest `json:"digest"`
			Text   string          `json:"text"`
		}{p.Name(), p.Digest(), string(p.Text())}
		return a.Answer(answer, func(w io.Writer) { io.WriteString(w, answer.Text) })
	}
	return c
}

// policyDiff tells what changes from one policy to another.
func (a *app) policyDiff() *cobra.Command {
	c := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Tell what a new policy changes, and whether that is stricter",
		Long: `Compares directives and rules, not their spelling, and says of each change whether it is stricter
or looser. A rule whose expression differs may be either. Signatures are not verified here. The
exit status is 0 where the new policy is at least as strict, and 5 where a change is looser, or
may be.`,
		Example: `  keystead policy diff web.txt web-new.txt`,
		Args:    cli.Arguments("OLD", "NEW"),
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		var p [2]*policy.Policy
		var err error
		for i, file := range args {
			if p[i], _, err = openPolicy(file, nil); err != nil {
				return err
			}
		}
		changes := append([]policy.Change{}, policy.Diff(p[0], p[1])...)
		if err := a.Answer(changes, func(w io.Writer) { printChanges(w, changes) }); err != nil {
			return err
		}
		return loosening(changes)
	}
	return c
}

// loosening names the changes that let machines pass which did not, or may.
func loosening(changes []policy.Change) error {
	var where []string
	for _, c := range changes {
		if c.Effect == policy.Looser || c.Effect == policy.Either {
			where = append(where, c.Where)
		}
	}
	if where == nil {
		return nil
	}
	return &cli.Failure{Err: fmt.Errorf("the new policy is looser, or may be: %s", strings.Join(where, ", ")), Stage: keystead.StagePolicy, Hint: "keystead domain terms set puts a policy in force"}
}

func printChanges(w io.Writer, changes []policy.Change) {
	if len(changes) == 0 {
		fmt.Fprintln(w, "no difference")
	}
	for _, c := range changes {
		fmt.Fprintf(w, "%s: %s\n", c.Where, c.Effect)
		if c.Was != "" {
			fmt.Fprintf(w, "  - %s\n", c.Was)
		}
		if c.Is != "" {
			fmt.Fprintf(w, "  + %s\n", c.Is)
		}
	}
}

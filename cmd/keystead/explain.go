package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/policy"
)

// policyExplain walks every rule of a policy with the claims that it reads.
func (a *app) policyExplain() *cobra.Command {
	var v verification
	c := &cobra.Command{
		Use:   "explain --nonce HEX --policy FILE --signer KEY BUNDLE",
		Short: "Walk a policy's rules over a bundle, with the value of every claim",
		Long: `Appraises the bundle and prints every rule with the claims that it reads, then what the
directives found. Rules are walked only over what is established: a bundle whose root of trust
or logs fail is refused, as evidence verify would. Otherwise the exit status is 0, also when
rules are not met.`,
		Example: `  keystead policy explain --nonce $NONCE --ak host.ak --refs host.refs \
      --codeset boot.signed --policy strict.signed --signer ops.key.pub host.bundle`,
		Args: cli.Arguments("BUNDLE"),
	}
	v.flags(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		in, err := v.input(args[0])
		if err != nil {
			return err
		}
		verdict := appraise.Appraise(in)
		if !verdict.Established() {
			return fmt.Errorf("%s: %w", args[0], verdict.Err())
		}
		e := explained(in.Policy.Eval(verdict.Claims()))
		return a.Answer(e, func(w io.Writer) {
			e.print(w)
			for _, d := range in.Ended {
				fmt.Fprintln(w, cli.Printable(d.String()))
			}
			printVerdict(w, verdict)
		})
	}
	return c
}

// explanation is one rule and what it came to.
type explanation struct {
	policy.Rule
	Met    bool           `json:"met"`
	Error  string         `json:"error,omitempty"`
	Claims []policy.Value `json:"claims"`
}

type explanations []explanation

func explained(results []policy.Result) explanations {
	out := make(explanations, len(results))
	for i, r := range results {
		out[i] = explanation{Rule: r.Rule, Met: r.OK, Claims: r.Values()}
		if r.Err != nil {
			out[i].Error = r.Err.Error()
		}
	}
	return out
}

func (e explanations) print(w io.Writer) {
	for _, r := range e {
		outcome := "met"
		if !r.Met {
			outcome = "NOT MET"
		}
		fmt.Fprintf(w, "rule %s: %s\n  require %s\n", r.Name, outcome, r.Expr)
		for _, v := range r.Claims {
			fmt.Fprintf(w, "    %s\n", cli.Printable(v.String()))
		}
		if r.Error != "" {
			fmt.Fprintf(w, "  no value: %s\n", cli.Printable(r.Error))
		}
		if !r.Met {
			fmt.Fprintf(w, "  otherwise %s\n", r.Advice)
		}
	}
}

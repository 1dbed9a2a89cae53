package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/policy"
)

// evaluate draws the claims from a bundle and evaluates the policy's rules over them.
type evaluate func(bundle []byte, p *policy.Policy) ([]policy.Result, error)

// policyExplain walks every rule of a policy with the claims that it reads. It says
// what each rule came to; whether the bundle is believed is for evidence verify.
func (a *app) policyExplain(eval evaluate) *cobra.Command {
	var file string
	var signers []string
	c := &cobra.Command{
		Use:   "explain --policy FILE BUNDLE",
		Short: "Walk a policy's rules over a bundle, with the value of every claim",
		Long: `Evaluates every rule over what the bundle establishes, and prints the claims that the
rule reads. The exit status is 0 also when rules are not met.`,
		Example: `  keystead policy explain --policy strict.signed --signer ops.key.pub host.bundle`,
		Args:    cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&file, "policy", "", "`FILE` with the policy")
	c.Flags().StringArrayVar(&signers, "signer", nil, "accepted `KEY`: a public key or a file with one; may be repeated")
	must(c.MarkFlagRequired("policy"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		p, _, err := openPolicy(file, signers)
		if err != nil {
			return err
		}
		bundle, err := readFile(args[0], evidence.MaxBundle)
		if err != nil {
			return err
		}
		results, err := eval(bundle, p)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		e := explained(results)
		return a.answer(e, e.print)
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
			fmt.Fprintf(w, "    %s\n", printable(v.String()))
		}
		if r.Error != "" {
			fmt.Fprintf(w, "  no value: %s\n", printable(r.Error))
		}
		if !r.Met {
			fmt.Fprintf(w, "  otherwise %s\n", r.Advice)
		}
	}
}

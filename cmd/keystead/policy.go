package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
)

const maxSigned = policy.MaxText + 32<<10 // bytes of a policy with its signatures

// policy: what evidence has to establish.
func (a *app) policy() *cobra.Command {
	return a.Noun("policy", "Write, check and sign policies",
		`A policy says what evidence has to establish before a machine is trusted: a text of
directives and of rules in CEL, signed by members. docs/spec/policy.md describes it.`,
		`  keystead policy show strict > strict.txt
  keystead policy init --name web --nonce $NONCE --ak golden.ak golden.bundle > web.txt
  keystead policy sign --key ops.key strict.txt > strict.signed
  keystead policy check --signer ops.key.pub strict.signed`,
		a.policyCheck(),
		a.policySign(),
		a.policyShow(),
		a.policyExplain(),
		a.policyInit(),
		a.policyDiff(),
	)
}

func (a *app) policyCheck() *cobra.Command {
	var signers []string
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a policy's text, and its signatures against accepted keys",
		Long: `Compiles the policy and prints what it demands and its digest. With --signer the
policy must carry a signature by one of the keys; without, signatures are only listed.`,
		Example: `  keystead policy check strict.txt
  keystead policy check --signer ops.key.pub strict.signed`,
		Args: cli.Arguments("FILE"),
	}
	c.Flags().StringArrayVar(&signers, "signer", nil, "accepted `KEY`: a public key or a file with one; may be repeated")
	c.RunE = func(_ *cobra.Command, args []string) error {
		p, by, err := openPolicy(args[0], signers)
		if err != nil {
			return err
		}
		d := described(p, by, len(signers) > 0)
		return a.Answer(d, d.print)
	}
	return c
}

// openPolicy reads a policy and the NAME+HASH of its signers: with signer keys the
// accepted ones, whose signatures are verified; without, all that stand there. One that
// comes with the program and is given by its name is accepted by who gives it, unsigned.
func openPolicy(file string, signers []string) (p *policy.Policy, by []string, err error) {
	accepted, err := cli.SignerKeys(signers)
	if err != nil {
		return nil, nil, err
	}
	text, shipped, err := policyText(file)
	if err != nil {
		return nil, nil, err
	}
	if len(accepted) > 0 && !shipped {
		if p, err = policy.Open(text, appraise.Vocabulary(), accepted...); err != nil {
			return nil, nil, aboutPolicy(file, err)
		}
		for _, k := range p.SignedBy() {
			by = append(by, k.ID())
		}
		return p, by, nil
	}
	if key.IsNote(text) {
		if text, by, err = key.Peek(text); err != nil {
			return nil, nil, aboutPolicy(file, err)
		}
	}
	if p, err = policy.Compile(text, appraise.Vocabulary()); err != nil {
		return nil, nil, aboutPolicy(file, err)
	}
	return p, by, nil
}

// policyText reads a policy that comes with the program by its name, and any other from
// its file. A file of such a name has to be meant in so many words.
func policyText(arg string) (text []byte, shipped bool, err error) {
	text, shipped = policy.Shipped(arg)
	if !shipped {
		text, err = cli.ReadFile(arg, maxSigned)
		return text, false, err
	}
	if info, err := os.Stat(arg); err == nil && info.Mode().IsRegular() {
		return nil, false, cli.Misuse(fmt.Errorf("%s is a policy that comes with the program, and a file", arg), "write ./"+arg+" for the file, or give the policy from elsewhere")
	}
	return text, true, nil
}

// aboutPolicy names the file. A policy is the caller's own: its errors of form are misuse.
func aboutPolicy(file string, err error) error {
	err = fmt.Errorf("%s: %w", file, err)
	switch format := (*keystead.FormatError)(nil); {
	case errors.As(err, &format):
		return cli.Misuse(err, "docs/spec/policy.md describes the format; keystead policy show strict prints an example")
	case errors.Is(err, keystead.ReasonNoteUnsigned):
		return cli.Hinted(err, "keystead policy sign signs it; --signer names the keys to accept")
	}
	return err
}

// description is what policy check says of a policy.
type description struct {
	Name             string          `json:"name"`
	Digest           keystead.Digest `json:"digest"`
	MinimumAssurance string          `json:"minimum_assurance"`
	Software         string          `json:"software"`
	Boot             string          `json:"boot"`
	Rules            []policy.Rule   `json:"rules"`
	SignedBy         []string        `json:"signed_by"`
	Verified         bool            `json:"signatures_verified"`
}

func described(p *policy.Policy, by []string, verified bool) description {
	d := description{p.Name(), p.Digest(), p.MinimumAssurance(), "report", "report", p.Rules(), append([]string{}, by...), verified}
	if p.EveryEntry() {
		d.Software = "every-entry"
	}
	if p.BootAccepted() {
		d.Boot = "accepted"
	}
	return d
}

func (d description) print(w io.Writer) {
	signed := "nobody"
	if len(d.SignedBy) > 0 {
		signed = strings.Join(d.SignedBy, ", ")
		if !d.Verified {
			signed += " (not verified: no --signer given)"
		}
	}
	fmt.Fprintf(w, "policy:            %s\ndigest:            %s\nminimum assurance: %s\nsoftware:          %s\nboot:              %s\nsigned by:         %s\nrules:             %d\n",
		d.Name, d.Digest, d.MinimumAssurance, d.Software, d.Boot, cli.Printable(signed), len(d.Rules))
	for _, r := range d.Rules {
		fmt.Fprintf(w, "  %s: %s\n", r.Name, r.Expr)
	}
}

func (a *app) policySign() *cobra.Command {
	var keyFile string
	c := &cobra.Command{
		Use:   "sign --key FILE POLICY",
		Short: "Sign a policy with a member's key",
		Long: `Compiles the policy, signs its text, and prints the signed note. Signatures that the
policy carries already are kept; they are not verified here.`,
		Example: `  keystead policy sign --key ops.key strict.txt > strict.signed`,
		Args:    cli.Arguments("POLICY"),
	}
	c.Flags().StringVar(&keyFile, "key", "", "`FILE` with the member's private key")
	cli.Must(c.MarkFlagRequired("key"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		m, err := cli.ReadMember(keyFile)
		if err != nil {
			return err
		}
		text, err := cli.ReadFile(args[0], maxSigned)
		if err != nil {
			return err
		}
		var p *policy.Policy
		signed, err := cli.SignChecked(m, text, func(bare []byte) (err error) {
			p, err = policy.Compile(bare, appraise.Vocabulary())
			return err
		})
		if err != nil {
			return aboutPolicy(args[0], err)
		}
		answer := struct {
			Digest keystead.Digest `json:"digest"`
			Signer string          `json:"signer"`
			Note   string          `json:"note"`
		}{p.Digest(), m.Public().ID(), string(signed)}
		return a.Answer(answer, func(w io.Writer) { w.Write(signed) })
	}
	return c
}

func (a *app) policyShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Print a policy that comes with the program: " + strings.Join(policy.ShippedNames(), ", "),
		Long: `Prints the text of a policy that comes with the program, unsigned: to accept it is the
act of whoever signs it. There are ` + strings.Join(policy.ShippedNames(), ", ") + `.`,
		Example: `  keystead policy show strict > strict.txt`,
		Args:    cli.Arguments("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			text, ok := policy.Shipped(args[0])
			if !ok {
				return cli.NotFound(fmt.Errorf("no policy %q comes with the program", args[0]), "there are "+strings.Join(policy.ShippedNames(), ", "))
			}
			answer := struct {
				Name   string          `json:"name"`
				Digest keystead.Digest `json:"digest"`
				Text   string          `json:"text"`
			}{args[0], keystead.Sum(text), string(text)}
			return a.Answer(answer, func(w io.Writer) { w.Write(text) })
		},
	}
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/node"
)

// newcomer is a node that is to be added, and whether others will let it in.
type newcomer struct {
	evidence  string // file
	unchecked bool
	shown     []byte
}

func (x *newcomer) add(c *cobra.Command) {
	c.Flags().StringVar(&x.evidence, "evidence", "", "`FILE` with the new machine's evidence (default: the file evidence beside its contact)")
	c.Flags().BoolVar(&x.unchecked, "unchecked", false, "do not ask whether nodes will let the machine in")
}

// toShow is the evidence that goes with the change, for the node that takes it to judge as well.
func (x *newcomer) toShow() []byte {
	if x == nil || len(x.shown) > client.MaxShown {
		return nil
	}
	return x.shown
}

// check judges the machine of a contact as the domain's nodes would, and refuses what they would.
func (x *newcomer) check(f *cli.ClientFlags, contactFile string) error {
	if x.unchecked {
		return nil
	}
	signed, contact, err := readContact(contactFile)
	if err != nil {
		return err
	}
	cl, ctx, done, err := f.Open()
	if err != nil {
		return err
	}
	defer done()
	v, err := cl.Show(ctx)
	if err != nil || !v.Genesis.AsksEvidence() {
		return err
	}
	file := cmp.Or(x.evidence, filepath.Join(filepath.Dir(contactFile), node.EvidenceFile))
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return cli.Misuse(fmt.Errorf("%s: there is no evidence of the machine beside its contact", file), "keystead node init leaves it there, as root; --evidence names another file, --unchecked goes without")
	}
	raw, err := cli.ReadFile(file, evidence.MaxBundle)
	if err != nil {
		return err
	}
	x.shown = raw
	bundle, err := evidence.Parse(raw)
	if err != nil {
		return cli.Misuse(fmt.Errorf("%s: %w", file, err), "")
	}
	if err := judgeNewcomer(ctx, cl, bundle, signed, contact.AK); err != nil {
		return cli.Hinted(fmt.Errorf("node %s would not be let in by the others: %w", contact.Name, err), "mend the machine, or the terms for nodes, and make its directory anew; --unchecked adds it all the same")
	}
	return nil
}

// judgeNewcomer judges evidence by the terms for nodes in force and the deny list.
func judgeNewcomer(ctx context.Context, cl *client.Client, bundle evidence.Bundle, contact []byte, ak key.AKDigest) error {
	text, _, err := termsInForce(ctx, cl, admit.RoleNode)
	if err != nil {
		return err
	}
	rules, err := admit.InForce{Role: admit.RoleNode, Digest: keystead.Sum(text), Text: text}.Open(func(d keystead.Digest) ([]byte, error) { return cl.GetObject(ctx, d) })
	if err != nil {
		return err
	}
	subjects, against := admit.Newcomer(rules, bundle, node.EvidenceBinding(contact), ak, time.Now().UTC())
	if subjects == nil {
		return against
	}
	var findings []keystead.Finding
	if deny := refusal.Deny(against); deny != nil {
		findings = deny.Findings
	}
	keys := make([]string, len(subjects))
	for i, s := range subjects {
		keys[i] = admit.TypeDenial + "/" + s
	}
	state, err := cl.State(ctx, keys, nil)
	if err != nil {
		return err
	}
	for i, denial := range state.GetValues() {
		if denial.GetVersion() > 0 {
			findings = append(findings, keystead.Finding{Reason: keystead.ReasonHardwareDenied, Where: "deny list", Want: "hardware that is on no deny list", Got: subjects[i] + becauseOf(denial.GetValue())})
		}
	}
	if len(findings) > 0 {
		return keystead.Deny(findings...)
	}
	return against
}

// becauseOf is why members denied something, as their statement has it.
func becauseOf(text []byte) string {
	d, err := admit.ParseDenial(text)
	if err != nil {
		return ""
	}
	return ": " + d.Because
}

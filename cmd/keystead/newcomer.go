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

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/node"
)

// newcomer is a node that is to be added, and whether others will let it in.
type newcomer struct {
	evidence  string // file
	unchecked bool
}

// check judges the machine of a contact as the domain's nodes would, and refuses what they would.
func (x *newcomer) check(f *cli.ClientFlags, args []string) error {
	if x.unchecked {
		return nil
	}
	signed, contact, err := readContact(args[0])
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
	file := cmp.Or(x.evidence, filepath.Join(filepath.Dir(args[0]), node.EvidenceFile))
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return cli.Misuse(fmt.Errorf("%s: there is no evidence of the machine beside its contact", file), "keystead node init leaves it there, as root; --evidence names another file, --unchecked goes without")
	}
	raw, err := cli.ReadFile(file, evidence.MaxBundle)
	if err != nil {
		return err
	}
	bundle, err := evidence.Parse(raw)
	if err != nil {
		return cli.Misuse(fmt.Errorf("%s: %w", file, err), "")
	}
	if err := judgeNewcomer(ctx, cl, bundle, signed, contact.AK); err != nil {
		return cli.Hinted(fmt.Errorf("node %s would not be let in by the others: %w", contact.Name, err), "mend the machine, or the terms for nodes, and make its directory anew; --unchecked adds it all the same")
	}
	return nil
}

// judgeNewcomer judges evidence by the terms for nodes in force and the deny list. That the machine's
// TPM would open a challenge is taken for granted: nodes have it do so.
func judgeNewcomer(ctx context.Context, cl *client.Client, bundle evidence.Bundle, contact []byte, ak key.AKDigest) error {
	text, _, err := termsInForce(ctx, cl, admit.RoleNode)
	if err != nil {
		return err
	}
	rules, err := admit.InForce{Role: admit.RoleNode, Digest: keystead.Sum(text), Text: text}.Open(func(d keystead.Digest) ([]byte, error) { return cl.GetObject(ctx, d) })
	if err != nil {
		return err
	}
	tpm := bundle.Parts().TPM
	if tpm == nil || tpm.EKPublic == nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "tpm", Want: "a quote and the endorsement key", Got: "not both"})
	}
	if got := key.DigestAK(tpm.AKPublic); got != ak {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "evidence", Want: "the attestation key of the contact, " + ak.String(), Got: got.String()})
	}
	public, err := tpm2.ParsePublic(tpm.AKPublic)
	if err != nil {
		return err
	}
	ek, err := tpm2.ParsePublic(tpm.EKPublic)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	in := rules.Input(now)
	in.Bundle, in.Expect, in.Time = bundle, node.EvidenceBinding(contact), now
	in.Key = appraise.AcceptedKey{Name: public.Name(), EKPublic: tpm.EKPublic, EKCertificate: tpm.EKCertificate, Activated: now}
	verdict := appraise.Appraise(in)
	claims := verdict.Claims()
	findings := verdict.Findings()
	subjects := admit.Denials(&claims, ek.Fingerprint())
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
			findings = append(findings, keystead.Finding{Reason: keystead.ReasonHardwareDenied, Where: "deny list", Want: "hardware that is on no deny list", Got: subjects[i]})
		}
	}
	if len(findings) > 0 {
		return keystead.Deny(findings...)
	}
	return verdict.Err()
}

package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// verification holds the flags of whatever appraises a bundle.
type verification struct {
	nonce, ak, policy, at      string
	refs, codeSets, signers    []string
	ekRoots, testRoots, helper []string
	raw                        bool
	collateral                 string
	teeRoots, testTEERoots     []string
}

// flags are those of an appraisal by a policy.
func (v *verification) flags(c *cobra.Command) {
	v.evidence(c)
	c.Flags().StringVar(&v.policy, "policy", "", "signed policy `FILE`, or the name of one that comes with the program: "+strings.Join(policy.ShippedNames(), ", "))
	cli.Must(c.MarkFlagRequired("policy"))
}

// evidence adds the flags for all that a verdict is made of but the policy.
func (v *verification) evidence(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&v.nonce, "nonce", "", "the nonce that was asked for, in `HEX`")
	f.BoolVar(&v.raw, "raw-nonce", false, "the quote is another tool's, and carries the nonce itself")
	f.StringVar(&v.ak, "ak", "", "accepted attestation key: `FILE` of keystead ak accept, or a TPM public area")
	f.StringArrayVar(&v.ekRoots, "ek-root", nil, "PEM `FILE` of TPM vendors' roots; may be repeated")
	f.StringArrayVar(&v.testRoots, "test-ek-root", nil, "PEM `FILE` of roots of software TPMs, which reach assurance test; may be repeated")
	f.StringArrayVar(&v.helper, "ek-intermediate", nil, "PEM `FILE` of intermediates that help to build chains; may be repeated")
	f.StringVar(&v.collateral, "collateral", "", "collateral `FILE` of keystead collateral fetch, for evidence of a TEE")
	f.StringArrayVar(&v.teeRoots, "tee-root", nil, "further pinned `DIGEST` of a TEE vendor's root certificate; may be repeated")
	f.StringArrayVar(&v.testTEERoots, "test-tee-root", nil, "`DIGEST` of a root for tests, which reaches assurance test; may be repeated")
	f.StringArrayVar(&v.refs, "refs", nil, "reference set `FILE` of keystead refval build, or FILE,until=TIME for one that counts up to then; may be repeated")
	f.StringArrayVar(&v.codeSets, "codeset", nil, "signed code set `FILE`, or FILE,until=TIME likewise; may be repeated")
	f.StringArrayVar(&v.signers, "signer", nil, "accepted `KEY` of policy and code sets: a public key, or a file with one; may be repeated")
	f.StringVar(&v.at, "at", "", "judge as of this `TIME` (RFC 3339; default now)")
	cli.Must(c.MarkFlagRequired("nonce"))
}

// input reads all that a verdict is made of.
func (v *verification) input(bundle string) (in appraise.Input, err error) {
	raw, err := cli.ReadFile(bundle, evidence.MaxBundle)
	if err != nil {
		return in, err
	}
	if in.Bundle, err = evidence.Parse(raw); err != nil {
		return in, fmt.Errorf("%s: %w", bundle, err)
	}
	in.Expect.Purpose = evidence.PurposeVerify
	if v.raw {
		in.Expect.Purpose = evidence.PurposeRaw
	}
	if in.Expect.Nonce, err = parseNonce(v.nonce); err != nil {
		return in, err
	}
	in.Time = time.Now()
	if v.at != "" {
		if in.Time, err = time.Parse(time.RFC3339, v.at); err != nil {
			return in, cli.Misuse(fmt.Errorf("--at: %w", err), "write it as 2026-01-31T12:00:00Z")
		}
	}
	if _, shipped := policy.Shipped(v.policy); v.policy != "" && !shipped && len(v.signers) == 0 {
		return in, cli.Misuse(fmt.Errorf("--signer is required: nothing says whose signature on %s counts", v.policy), "keystead policy sign signs a policy; "+strings.Join(policy.ShippedNames(), ", ")+" need no signature")
	}
	if v.policy != "" {
		if in.Policy, _, err = openPolicy(v.policy, v.signers); err != nil {
			return in, err
		}
	}
	return in, v.trust(&in)
}

// trust reads what the verifier trusts: key, roots, reference values.
func (v *verification) trust(in *appraise.Input) (err error) {
	if v.ak != "" {
		if in.Key, err = readAcceptedKey(v.ak); err != nil {
			return err
		}
	}
	if in.EKRoots, err = readRoots(v.ekRoots, v.testRoots, v.helper); err != nil {
		return err
	}
	if in.TEERoots, err = vendorRoots(v.teeRoots, v.testTEERoots); err != nil {
		return err
	}
	if v.collateral != "" {
		if in.Collateral, err = readCollateral(v.collateral); err != nil {
			return err
		}
	}
	for _, arg := range v.refs {
		name, until, err := dated(arg)
		if err != nil {
			return err
		}
		s, err := readSet(name)
		if err != nil {
			return err
		}
		in.Add(appraise.Dated{References: s, Until: until}, in.Time)
	}
	accepted, err := cli.SignerKeys(v.signers)
	if err != nil {
		return err
	}
	for _, arg := range v.codeSets {
		name, until, err := dated(arg)
		if err != nil {
			return err
		}
		text, err := cli.ReadFile(name, refval.MaxCodeSet)
		if err != nil {
			return err
		}
		c, err := refval.OpenCodeSet(text, accepted...)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		in.Add(appraise.Dated{CodeSet: c, Until: until}, in.Time)
	}
	return nil
}

func readAcceptedKey(name string) (appraise.AcceptedKey, error) {
	text, err := cli.ReadFile(name, 1<<20)
	if err != nil {
		return appraise.AcceptedKey{}, err
	}
	k, err := appraise.ParseKey(text)
	if err != nil {
		return k, cli.Misuse(fmt.Errorf("%s: %w", name, err), "keystead ak accept writes such a file")
	}
	return k, nil
}

func readSet(name string) (*refval.Set, error) {
	raw, err := cli.ReadFile(name, refval.MaxSet)
	if err != nil {
		return nil, err
	}
	s, err := refval.Parse(raw)
	if err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", name, err), "keystead refval build writes reference sets")
	}
	return s, nil
}

// readRoots reads certificates of hardware TPMs' and software TPMs' authorities.
func readRoots(hardware, test, intermediates []string) (r tpm2.Roots, err error) {
	read := func(names []string) (out []*x509.Certificate) {
		for _, name := range names {
			if err != nil {
				return nil
			}
			var pem []byte
			if pem, err = cli.ReadFile(name, 1<<20); err != nil {
				return nil
			}
			certs, parseErr := tpm2.ParseCertificates(pem)
			if parseErr != nil || len(certs) == 0 {
				err = cli.Misuse(fmt.Errorf("%s: holds no certificate that parses: %v", name, parseErr), "give PEM or DER certificates")
			}
			out = append(out, certs...)
		}
		return out
	}
	r.Hardware, r.Test, r.Intermediates = read(hardware), read(test), read(intermediates)
	return r, err
}

func (a *app) evidenceVerify() *cobra.Command {
	var v verification
	var entries bool
	c := &cobra.Command{
		Use:   "verify --nonce HEX --policy FILE [--signer KEY] BUNDLE",
		Short: "Judge a bundle, offline",
		Long: `Checks the root of trust first: key, signature, nonce, registers; then that both logs lead
to the quoted registers; then that every executed file is one of a package or a code set; then the
policy's rules. Prints the verdict; a refusal gives every finding, and the exit status of the first
stage that failed. Without --ak the verdict says ak-binding=none and proves nothing of any machine.
A policy that comes with the program is named as it is called (--policy strict) and needs no
signature; any other must be signed by a key of --signer, and so must code sets.`,
		Example: `  keystead evidence verify --nonce $NONCE --ak host.ak --ek-root vendors.pem \
      --refs host.refs --codeset boot.signed --policy strict.signed --signer ops.key.pub host.bundle`,
		Args: cli.Arguments("BUNDLE"),
	}
	v.flags(c)
	c.Flags().BoolVar(&entries, "entries", false, "list every covered entry of the IMA log and what names it")
	c.RunE = func(_ *cobra.Command, args []string) error {
		in, err := v.input(args[0])
		if err != nil {
			return err
		}
		a.doubtRoots(in.EKRoots)
		var files []appraise.File
		collect := func(f appraise.File) { files = append(files, f) }
		if !entries {
			collect = nil
		}
		verdict := appraise.Explain(in, collect)
		if err := a.Answer(verdict, func(w io.Writer) { printFiles(w, files); printVerdict(w, verdict) }); err != nil {
			return err
		}
		return v.aboutVerdict(verdict.Err(), args[0])
	}
	return c
}

// aboutVerdict explains a refusal of files where nothing was given that could name them.
func (v *verification) aboutVerdict(err error, bundle string) error {
	if len(v.refs) > 0 || !errors.Is(err, keystead.ReasonFileUnknown) {
		return err
	}
	return &cli.Failure{Err: err, First: "no reference set was given (--refs): nothing says which package a file is of",
		Hint: "keystead refval build --bundle " + bundle + " --out host.refs makes one"}
}

func printFiles(w io.Writer, files []appraise.File) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range files {
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", f.Entry, f.Status, cli.Printable(f.Path), cli.Printable(f.Source))
	}
	tw.Flush()
}

// printVerdict gives the verdict for people: outcome, strength, claims.
func printVerdict(w io.Writer, v appraise.Verdict) {
	in, c := v.Inputs(), v.Claims()
	outcome := "DENIED"
	if v.Allowed() {
		outcome = "allowed"
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-11s %s\n", name+":", cli.Printable(fmt.Sprintf(format, args...)))
	}
	line("verdict", "%s by policy %s (%s)", outcome, in.PolicyName, in.Policy)
	line("assurance", "%s", v.Assurance())
	line("ak-binding", "ak-binding=%s %s %s", c.Key.Binding, c.Key.Algorithm, c.Key.Issuer)
	line("quote", "banks %s, PCRs %s, reset count %d", strings.Join(c.Quote.Banks, " "), ranges(c.Quote.PCRs), c.Quote.ResetCount)
	line("boot", "%d events covered, %d not; secure boot %s; firmware %q", c.Boot.Events, c.Boot.Uncovered, onOff(c.Boot.SecureBoot), c.Boot.Firmware)
	line("kernel", "%s", describeKernel(c.Kernel))
	line("software", "%d entries covered, %d not; %d named, %d unknown, %d altered, %d weak, %d violations (coverage=exec)",
		c.Software.Entries, c.Software.Uncovered, c.Software.Named, c.Software.Unknown, c.Software.Altered, c.Software.Weak, c.Software.Violations)
	line("packages", "%d ran, %d on the host's list", len(c.Software.Packages), c.Packages.Listed)
	line("bundle", "%s", in.Bundle)
	line("digest", "%s", v.Digest())
}

func describeKernel(k evidence.KernelClaims) string {
	if !k.Accepted {
		return "in no code set"
	}
	return fmt.Sprintf("accepted; lockdown=%s; initrd guarantees %s", k.Lockdown, strings.Join(k.Guarantees, ", "))
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "not shown to be on"
}

// ranges writes numbers in ascending order as 0-7,9,14.
func ranges(n []int64) string {
	var parts []string
	for i := 0; i < len(n); {
		j := i
		for j+1 < len(n) && n[j+1] == n[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(n[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", n[i], n[j]))
		}
		i = j + 1
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ",")
}

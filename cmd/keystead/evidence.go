package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cli"
)

// evidence: what a machine shows, and what a verifier makes of it.
func (a *app) evidence() *cobra.Command {
	return a.Noun("evidence", "Collect, show and verify evidence of what a machine runs",
		`A bundle holds a TPM's quote over a fresh nonce, the firmware's and the kernel's logs and
the package list. The verifier gives the nonce, the host collects, the verifier judges;
the two need no connection. docs/guide/attest.md walks through it.`,
		`  keystead evidence nonce
  keystead evidence collect --nonce $NONCE --out host.bundle
  keystead evidence verify --nonce $NONCE --ak host.ak --policy strict.signed host.bundle`,
		a.evidenceNonce(),
		a.evidenceCollect(),
		a.evidenceShow(),
		a.evidenceVerify(),
		a.evidenceExport(),
		a.evidenceRequest(),
		a.evidenceReplay(),
	)
}

func (a *app) evidenceNonce() *cobra.Command {
	return &cobra.Command{
		Use:     "nonce",
		Short:   "Print a fresh nonce, the question that a bundle answers",
		Long:    `Prints 32 random bytes in hex. Whoever will verify makes the nonce, and uses it once.`,
		Example: `  keystead evidence nonce`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			nonce := make([]byte, 32)
			rand.Read(nonce)
			text := hex.EncodeToString(nonce)
			return a.Answer(map[string]string{"nonce": text}, func(w io.Writer) { fmt.Fprintln(w, text) })
		},
	}
}

// parseNonce reads the value of --nonce.
func parseNonce(s string) ([]byte, error) {
	nonce, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil || len(nonce) < 8 || len(nonce) > 64 {
		return nil, cli.Misuse(fmt.Errorf("--nonce is %.40q, want 8 to 64 bytes in hex", s), "keystead evidence nonce makes one")
	}
	return nonce, nil
}

// collected is the answer of evidence collect.
type collected struct {
	Bundle keystead.Digest `json:"bundle"`
	Bytes  int             `json:"bytes"`
	File   string          `json:"file,omitempty"`
	Sights []collect.Sight `json:"sights"`
}

func (a *app) evidenceCollect() *cobra.Command {
	var tpm tpmFlags
	var root, nonceText, out string
	var explain bool
	c := &cobra.Command{
		Use:   "collect --nonce HEX --out FILE",
		Short: "Make a bundle of this machine's evidence",
		Long: `Takes a TPM quote over the nonce, and a report of the trusted execution environment that the
machine is (SEV-SNP or TDX by configfs-tsm, Nitro by its nsm device); then reads the firmware's
event log, the kernel's IMA log and the package list, and writes them as one bundle. One of TPM
and TEE is enough. Reading them needs root.

With --explain it says what was looked for and what came of it; then --nonce and --out may be left
out, and nothing is written. FILE is replaced at the end, whole; only its owner may read it, as only
root may read the logs.`,
		Example: `  keystead evidence collect --nonce $NONCE --out host.bundle
  keystead evidence collect --explain`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&nonceText, "nonce", "", "the verifier's nonce in `HEX`")
	c.Flags().StringVar(&out, "out", "", "`FILE` for the bundle; - is stdout")
	tpm.add(c)
	c.Flags().StringVar(&root, "root", cmp.Or(os.Getenv("KEYSTEAD_ROOT"), "/"), "`DIR` below which logs and package list are read (default: $KEYSTEAD_ROOT, else /)")
	c.Flags().Lookup("root").DefValue = "" // help is the same everywhere
	c.Flags().BoolVar(&explain, "explain", false, "say what was found and what not")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if explain && nonceText == "" && out == "" {
			return a.explainCollection(c.Context(), tpm.path, collect.Machine{Root: root})
		}
		nonce, err := parseNonce(nonceText)
		if err != nil {
			return err
		}
		if out == "" || out == "-" && term.IsTerminal(int(os.Stdout.Fd())) {
			return cli.Misuse(errors.New("a bundle is not for a terminal"), "--out names the file to write")
		}
		ctx, stop := cli.Interruptible(c.Context())
		defer stop()
		var file *cli.Output
		if out != "-" {
			if file, err = cli.OpenOutput(out); err != nil {
				return err
			}
			defer file.Discard()
		}
		b, sights, err := collectBundle(ctx, tpm, collect.Machine{Root: root}, nonce)
		if err != nil {
			return err
		}
		if out == "-" {
			_, err := a.Stdout.Write(b.Bytes())
			return err
		}
		if err := file.Commit(b.Bytes(), 0o600); err != nil {
			return err
		}
		answer := collected{b.Digest(), len(b.Bytes()), out, sights}
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "bundle: %s\nfile:   %s, %d bytes\n", answer.Bundle, out, answer.Bytes)
			if explain {
				printSights(w, sights)
			}
		})
	}
	return c
}

// collectBundle quotes first and reads the logs after it.
func collectBundle(ctx context.Context, flags tpmFlags, m collect.Machine, nonce []byte) (evidence.Bundle, []collect.Sight, error) {
	p := evidence.Parts{Binding: evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: nonce}, Origin: m.Origin(time.Now())}
	tpm, noTPM := collect.OpenTPM(flags.path)
	var ak []byte
	if noTPM == nil {
		defer tpm.Close()
		var err error
		if p.TPM, err = tpm.Quote(ctx, collect.QuoteRequest{QualifyingData: p.Binding.QualifyingData(), AK: flags.ak()}); err != nil {
			return evidence.Bundle{}, nil, aboutMachine(err)
		}
		ak = p.TPM.AKPublic
	}
	tee, found, err := m.TEE(p.Binding, ak)
	if err != nil && noTPM != nil { // beside a TPM's, evidence of a TEE may be missing; the sights say so
		return evidence.Bundle{}, found, cli.Misuse(err, "keystead evidence collect --explain says what was found")
	}
	if p.TEE = tee; tee == nil && noTPM != nil {
		return evidence.Bundle{}, found, aboutMachine(noTPM)
	}
	sights, err := m.Read(&p)
	if sights = append(found, sights...); p.TPM == nil {
		p.EventLog, p.IMALog = nil, nil // no quote leads to them
	}
	if err != nil {
		return evidence.Bundle{}, sights, cli.Misuse(err, "keystead evidence collect --explain says what was found")
	}
	b, err := evidence.New(p)
	return b, sights, err
}

// aboutMachine gives trouble with this machine its own hint.
func aboutMachine(err error) error {
	if e := (*collect.Error)(nil); errors.As(err, &e) {
		return cli.Unavailable(err, e.Hint)
	}
	return err
}

func (a *app) explainCollection(ctx context.Context, tpmPath string, m collect.Machine) error {
	sights := []collect.Sight{sightTPM(ctx, tpmPath)}
	sights = append(sights, m.Surroundings()...)
	var p evidence.Parts
	more, err := m.Read(&p)
	sights = append(sights, more...)
	if err := a.Answer(sights, func(w io.Writer) { printSights(w, sights) }); err != nil {
		return err
	}
	if err != nil {
		return cli.Misuse(err, "run as root")
	}
	return nil
}

// sightTPM says what the TPM can do, or why there is none.
func sightTPM(ctx context.Context, path string) collect.Sight {
	s := collect.Sight{What: "TPM 2.0", Where: path}
	trouble := func(err error) collect.Sight {
		s.Detail = err.Error()
		if e := (*collect.Error)(nil); errors.As(err, &e) {
			s.Hint = e.Hint
		}
		return s
	}
	tpm, err := collect.OpenTPM(path)
	if err != nil {
		return trouble(err)
	}
	defer tpm.Close()
	s.Where = tpm.Path()
	banks, err := tpm.Banks(ctx)
	if err != nil {
		return trouble(err)
	}
	ek, err := tpm.EK(ctx)
	if err != nil {
		return trouble(err)
	}
	s.Found = true
	s.Detail = fmt.Sprintf("banks %v; endorsement key %s", banks, ek.Profile)
	if len(ek.Chain) == 0 {
		s.Detail += " without a certificate"
		s.Hint = "ak challenge will refuse it: nothing says who made this TPM"
	}
	return s
}

func printSights(w io.Writer, sights []collect.Sight) {
	for _, s := range sights {
		mark := "found"
		if !s.Found {
			mark = "missing"
		}
		fmt.Fprintf(w, "%-8s %-14s  %s\n", mark, s.What, cli.Printable(s.Detail))
		for _, more := range []string{s.Where, s.Hint} {
			if more != "" && more != s.Detail {
				fmt.Fprintf(w, "%-8s %-14s  %s\n", "", "", cli.Printable(more))
			}
		}
	}
}

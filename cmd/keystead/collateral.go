package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/fetch"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/endorse"
)

// collateral: what vendors of trusted execution environments say of their machines.
func (a *app) collateral() *cobra.Command {
	return a.Noun("collateral", "Fetch and show what TEE vendors say of their machines",
		`Evidence of SEV-SNP, TDX and SGX is judged offline, by certificates, revocation lists and
firmware levels that AMD and Intel publish and sign. A collateral bundle holds them as of one day;
its digest stands in each verdict. Whoever served it is not trusted: what counts is the vendors'
signature up to a pinned root. docs/spec/collateral.md describes it.`,
		`  keystead collateral fetch --for host.bundle --out host.collateral
  keystead collateral show host.collateral`,
		a.collateralFetch(),
		a.collateralShow(),
	)
}

// fetchedCollateral is the answer of collateral fetch.
type fetchedCollateral struct {
	Digest keystead.Digest  `json:"digest"`
	File   string           `json:"file"`
	Pieces []evidence.Piece `json:"pieces"`
}

func (a *app) collateralFetch() *cobra.Command {
	var bundles []string
	var out, product string
	var services fetch.Services
	c := &cobra.Command{
		Use:   "fetch --for BUNDLE --out FILE",
		Short: "Get what the vendors publish about a bundle's machine",
		Long: `Reads from the bundle which machine it is of, without believing it, and gets the vendor's
certificates, revocation lists, firmware levels and enclave identity. With several bundles all go
into one file, each piece once. A mirror of a vendor's service (such as Intel's PCCS) may be named;
it needs no trust.`,
		Example: `  keystead collateral fetch --for host.bundle --out host.collateral`,
		Args:    cobra.NoArgs,
	}
	f := c.Flags()
	f.StringArrayVar(&bundles, "for", nil, "`BUNDLE` whose machine is asked about; may be repeated")
	f.StringVar(&out, "out", "", "`FILE` for the collateral")
	f.StringVar(&product, "product", "", "`PRODUCT` of SNP reports that do not say: Milan, Genoa, Turin")
	f.StringVar(&services.AMD, "amd-service", "", "`URL` in place of "+fetch.AMDService)
	f.StringVar(&services.Intel, "intel-service", "", "`URL` in place of "+fetch.IntelService)
	f.StringVar(&services.IntelRoot, "intel-root-service", "", "`URL` in place of "+fetch.IntelRoot)
	f.StringVar(&services.AWS, "aws-service", "", "`URL` in place of "+fetch.AWSService)
	cli.Must(c.MarkFlagRequired("for"))
	cli.Must(c.MarkFlagRequired("out"))
	c.RunE = func(c *cobra.Command, _ []string) error {
		var wanted []fetch.Wanted
		for _, name := range bundles {
			w, err := wantedFor(name, product, services)
			if err != nil {
				return err
			}
			wanted = append(wanted, w...)
		}
		ctx, stop := cli.Interruptible(c.Context())
		defer stop()
		file, err := cli.OpenOutput(out)
		if err != nil {
			return err
		}
		defer file.Discard()
		got, err := fetchCollateral(ctx, wanted)
		if err != nil {
			return cli.Unavailable(err, "the vendor's service may be down, or name a mirror")
		}
		if err := file.Commit(got.Bytes(), 0o644); err != nil {
			return err
		}
		answer := fetchedCollateral{got.Digest(), out, got.Pieces()}
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "collateral: %v\nfile:       %s, %d pieces, %d bytes\n", answer.Digest, out, len(answer.Pieces), len(got.Bytes()))
		})
	}
	return c
}

func fetchCollateral(ctx context.Context, wanted []fetch.Wanted) (*evidence.Collateral, error) {
	return fetch.Collateral(ctx, wanted, time.Now(), nil)
}

func wantedFor(name, product string, services fetch.Services) ([]fetch.Wanted, error) {
	raw, err := cli.ReadFile(name, evidence.MaxBundle)
	if err != nil {
		return nil, err
	}
	b, err := evidence.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	w, err := fetch.WantedFor(b.Parts().TEE, product, services)
	if err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", name, err), "keystead evidence show says what a bundle holds")
	}
	return w, nil
}

// shownPiece is one piece in the answer of collateral show.
type shownPiece struct {
	evidence.Piece
	From   cli.Milli `json:"from_ms,omitzero"`
	Till   cli.Milli `json:"till_ms,omitzero"`
	Text   string    `json:"text"`
	Pinned bool      `json:"pinned"` // it leads by its own word to a root that is pinned
	Good   bool      `json:"good"`   // its dates hold
}

type shownCollateral struct {
	Digest keystead.Digest `json:"digest"`
	Dated  cli.Milli       `json:"dated_ms"`
	Pieces []shownPiece    `json:"pieces"`
}

func (a *app) collateralShow() *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a collateral bundle covers, and until when",
		Long: `Lists the pieces with the dates between which each is good. Signatures are not checked here:
that is part of each judgement. With --at it says which are good at that time.`,
		Example: `  keystead collateral show host.collateral`,
		Args:    cli.Arguments("FILE"),
	}
	c.Flags().StringVar(&at, "at", "", "good as of this `TIME` (RFC 3339; default now)")
	c.RunE = func(_ *cobra.Command, args []string) error {
		now := time.Now()
		if at != "" {
			var err error
			if now, err = time.Parse(time.RFC3339, at); err != nil {
				return cli.Misuse(fmt.Errorf("--at: %w", err), "write it as 2026-01-31T12:00:00Z")
			}
		}
		col, err := readCollateral(args[0])
		if err != nil {
			return err
		}
		answer := shownCollateral{Digest: col.Digest(), Dated: cli.Milli{Time: col.Dated()}, Pieces: []shownPiece{}}
		roots := evidence.ShippedRoots().Hardware
		for _, p := range col.Pieces() {
			s := shownPiece{Piece: p}
			d, err := endorse.Describe(p)
			if err != nil {
				s.Text = "does not parse: " + err.Error()
			} else {
				s.From, s.Till, s.Text = cli.Milli{Time: d.From.UTC()}, cli.Milli{Time: d.Till.UTC()}, d.Text
				s.Pinned, s.Good = slices.Contains(roots, d.Root), !now.Before(d.From) && !now.After(d.Till)
			}
			answer.Pieces = append(answer.Pieces, s)
		}
		return a.Answer(answer, func(w io.Writer) { printCollateral(w, answer) })
	}
	return c
}

func printCollateral(w io.Writer, c shownCollateral) {
	fmt.Fprintf(w, "collateral: %v\ndated:      %s\n", c.Digest, c.Dated.Format(time.RFC3339))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range c.Pieces {
		good := "good"
		if !p.Good {
			good = "not good"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s to %s\t%s\t%s\n", p.Kind, cli.Printable(shortened(p.Name)), p.From.Format(time.DateOnly), p.Till.Format(time.DateOnly), good, cli.Printable(p.Text))
	}
	tw.Flush()
}

// shortened cuts a chip's identity to what a person compares.
func shortened(name string) string {
	if len(name) > 40 {
		return name[:16] + "…" + name[len(name)-17:]
	}
	return name
}

func readCollateral(name string) (*evidence.Collateral, error) {
	raw, err := cli.ReadFile(name, evidence.MaxCollateral)
	if err != nil {
		return nil, err
	}
	c, err := evidence.ParseCollateral(raw)
	if err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", name, err), "keystead collateral fetch writes such a file")
	}
	return c, nil
}

// vendorRoots returns the shipped roots and those that the caller pins, by digest.
func vendorRoots(hardware, test []string) (evidence.VendorRoots, error) {
	r := evidence.ShippedRoots()
	for _, list := range []struct {
		from []string
		to   *[]keystead.Digest
	}{{hardware, &r.Hardware}, {test, &r.Test}} {
		for _, s := range list.from {
			d, err := keystead.ParseDigest(s)
			if err != nil || d.IsZero() {
				return r, cli.Misuse(errors.Join(fmt.Errorf("root %.80q", s), err), "give the SHA-256 of the root certificate's DER, as sha256:HEX")
			}
			*list.to = append(*list.to, d)
		}
	}
	return r, nil
}

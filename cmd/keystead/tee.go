package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cli"
)

// tees is whose trusted execution environments count for hosts, and what their vendors say.
type tees struct {
	shipped         bool
	roots, test     []string
	collateralFiles []string
}

func (t *tees) add(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&t.shipped, "tee", false, "accept hosts with a TEE alone, of the vendors whose roots this build ships")
	f.StringArrayVar(&t.roots, "tee-root", nil, "further `DIGEST` of a TEE vendor's root certificate; may be repeated")
	f.StringArrayVar(&t.test, "test-tee-root", nil, "`DIGEST` of a root for tests, which reaches assurance test; may be repeated")
	f.StringArrayVar(&t.collateralFiles, "collateral", nil, "collateral `FILE` of such hosts' machines; may be repeated")
}

func (t *tees) given() bool {
	return t.shipped || len(t.roots)+len(t.test)+len(t.collateralFiles) > 0
}

// parts reads the files; none if nothing is given.
func (t *tees) parts() (parts []part, err error) {
	if !t.given() {
		return nil, nil
	}
	roots, err := vendorRoots(t.roots, t.test)
	if err != nil {
		return nil, err
	}
	if !t.shipped {
		roots.Hardware = roots.Hardware[len(evidence.ShippedRoots().Hardware):]
	}
	text, err := admit.FormatTEERoots(roots)
	if err != nil {
		return nil, cli.Misuse(err, "--tee, --tee-root or --test-tee-root say whose TEEs count")
	}
	parts = append(parts, part{kind: admit.ObjectTEERoots, content: text})
	var all []*evidence.Collateral
	for _, name := range t.collateralFiles {
		c, err := readCollateral(name)
		if err != nil {
			return nil, err
		}
		all, parts = append(all, c), append(parts, part{kind: admit.ObjectCollateral, content: c.Bytes()})
	}
	if _, err := evidence.JoinCollateral(all); err != nil {
		return nil, cli.Misuse(err, "two files of --collateral have a piece for one question; fetch one for all machines")
	}
	return parts, nil
}

// guest is a host with a TEE alone, as flags name it.
type guest struct{ kind, machine, key string }

func (g *guest) add(c *cobra.Command) {
	c.Flags().StringVar(&g.kind, "tee", "", "the host's TEE speaks alone, and is of this `KIND`: sev-snp, tdx or nitro")
	c.Flags().StringVar(&g.machine, "machine", "", "`NAME` of its machine, the claim tee.machine")
	c.Flags().StringVar(&g.key, "key", "", "`DIGEST` of the host's public key, as keystead agent enrolment prints it")
	c.MarkFlagsRequiredTogether("tee", "machine", "key")
	for _, flag := range []string{"ek", "tpm", "ek-cert"} {
		c.MarkFlagsMutuallyExclusive("tee", flag)
	}
}

func (g *guest) host() (h evidence.TEEHost, err error) {
	h = evidence.TEEHost{Kind: g.kind, Machine: g.machine}
	if h.Key, err = keystead.ParseDigest(g.key); err == nil {
		err = h.Check()
	}
	if err != nil {
		return h, cli.Misuse(fmt.Errorf("--tee, --machine, --key: %w", err), "keystead agent enrolment on the host prints the whole command")
	}
	return h, nil
}

// enrolled fetches the enrolment of that name, to be revoked as it stands.
func enrolled(ctx context.Context, cl *client.Client, h *apiv1.Host) (e admit.Enrolment, err error) {
	state, err := cl.State(ctx, []string{admit.EnrolmentPrefix + h.GetName()}, nil)
	if err != nil {
		return e, err
	}
	if len(state.GetValues()) != 1 {
		return e, errors.New("the node answers with other values than it was asked for")
	}
	e, err = admit.ParseEnrolment(state.GetValues()[0].GetValue())
	if identity := e.Identity().String(); err == nil && identity != h.GetEk() {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectChanged, Where: "enrolment of " + h.GetName(), Want: h.GetEk(), Got: identity})
	}
	return e, err
}

func sortDigests(list []keystead.Digest) {
	slices.SortFunc(list, func(a, b keystead.Digest) int { return slices.Compare(a[:], b[:]) })
}

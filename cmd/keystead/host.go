package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/refusal"
)

// host: the machines that members let in.
func (a *app) host() *cobra.Command {
	return a.Noun("host", "Hosts: who may be admitted, who is, and who never",
		`A host is a machine that members enrolled by its hardware identity: the digest of its TPM's
endorsement key. The domain's nodes admit it when its evidence passes, and give it a lease
as long as it does.`,
		`  keystead host enrol web-1 --tpm /dev/tpmrm0 --domain d.json --member m.key
  keystead host list --domain d.json
  keystead host revoke web-1 --domain d.json --member m.key`,
		a.hostEnrol(), a.hostList(), a.hostShow(), a.hostRevoke(), a.hostDeny(), a.hostAllow(),
	)
}

// hardware says which TPM is meant.
type hardware struct{ ek, tpm, certificate string }

func (h *hardware) add(c *cobra.Command) {
	c.Flags().StringVar(&h.ek, "ek", "", "hardware identity: `DIGEST` of the endorsement key's public key")
	c.Flags().StringVar(&h.tpm, "tpm", "", "ask the TPM at `PATH` on this machine")
	c.Flags().StringVar(&h.certificate, "ek-cert", "", "take it from this endorsement certificate `FILE` (PEM or DER)")
	c.MarkFlagsMutuallyExclusive("ek", "tpm", "ek-cert")
}

func (h *hardware) identity() (keystead.Digest, error) {
	switch {
	case h.ek != "":
		d, err := keystead.ParseDigest(h.ek)
		if err != nil {
			return d, cli.Misuse(fmt.Errorf("--ek: %w", err), "keystead evidence verify prints it as key.ek; --tpm asks a TPM")
		}
		return d, nil
	case h.certificate != "":
		raw, err := cli.ReadFile(h.certificate, 64<<10)
		if err != nil {
			return keystead.Digest{}, err
		}
		certs, err := tpm2.ParseCertificates(raw)
		if err != nil || len(certs) == 0 {
			return keystead.Digest{}, cli.Misuse(fmt.Errorf("%s holds no certificate that parses: %v", h.certificate, err), "")
		}
		return keystead.Sum(certs[0].RawSubjectPublicKeyInfo), nil
	case h.tpm != "":
		return endorsementKey(h.tpm)
	}
	return keystead.Digest{}, cli.Misuse(errors.New("--ek, --ek-cert or --tpm is required"), "a host is enrolled by its hardware")
}

// endorsementKey names the endorsement key of the TPM at path.
func endorsementKey(path string) (keystead.Digest, error) {
	tpm, err := collect.OpenTPM(path)
	if err != nil {
		return keystead.Digest{}, aboutMachine(err)
	}
	defer tpm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ek, err := tpm.EK(ctx)
	if err != nil {
		return keystead.Digest{}, aboutMachine(err)
	}
	public, err := tpm2.ParsePublic(ek.Public)
	return public.Fingerprint(), err
}

func (a *app) hostEnrol() *cobra.Command {
	var f cli.StatementFlags
	var h hardware
	var g guest
	var role string
	var replace bool
	c := &cobra.Command{
		Use:   "enrol NAME --domain FILE --ek DIGEST --member FILE",
		Short: "Make a machine a host of the domain",
		Long: `Enrols a machine under a name, by its hardware identity. That a TPM is genuine and runs what
it should lets no machine in by itself. A machine whose TEE speaks alone is named by kind,
machine and key (--tee, --machine, --key), as keystead agent enrolment prints them there.

A name that is enrolled already is refused, and what would change is shown. With --replace the
name is from then on the new machine, and the lease of the one before ends.` + cli.StatementHelp,
		Example: `  keystead host enrol web-1 --domain d.json --member m.key \
      --ek sha256:48a2684e0e27f568b87e9960a5c6de233e1006b0f0ca0585b24d9de7ee337404`,
		Args: cli.Arguments("NAME"),
	}
	f.Add(c)
	h.add(c)
	g.add(c)
	c.Flags().BoolVar(&replace, "replace", false, cli.ReplaceHelp)
	c.Flags().StringVar(&role, "role", admit.RoleHost, "by which terms it is judged: host or node")
	c.RunE = func(_ *cobra.Command, args []string) (err error) {
		e := admit.Enrolment{Host: args[0], Role: role}
		if g.kind != "" {
			e.TEE, err = g.host()
		} else {
			e.EK, err = h.identity()
		}
		if err != nil {
			return err
		}
		return a.DecideOver(&f, admit.TypeEnrolment, args[0], admit.EnrolmentPrefix+args[0], func(domain keystead.Digest, base uint64) ([]byte, error) {
			e.Domain, e.Base = domain, base
			return e.Text()
		}, func(old, text string) error {
			if was, err := admit.ParseEnrolment([]byte(old)); err == nil && was.Revoked {
				return nil
			}
			return a.Overwrite("host "+args[0], old, text, replace)
		})
	}
	return c
}

func (a *app) hostRevoke() *cobra.Command {
	var f cli.StatementFlags
	c := &cobra.Command{
		Use:     "revoke NAME --domain FILE --member FILE",
		Short:   "End a host's enrolment, and its lease with it",
		Long:    `Ends the enrolment: every node refuses the host from then on.` + cli.StatementHelp,
		Example: `  keystead host revoke web-1 --domain d.json --member m.key`,
		Args:    cli.Arguments("NAME"),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		h, err := a.oneHost(&f.ClientFlags, args[0])
		if err != nil {
			return err
		}
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		e, err := enrolled(ctx, cl, h)
		if err != nil {
			return err
		}
		return a.Decide(&f, admit.TypeEnrolment, args[0], func(domain keystead.Digest, base uint64) ([]byte, error) {
			e.Domain, e.Base, e.Revoked = domain, base, true
			return e.Text()
		})
	}
	return c
}

// oneHost fetches the enrolment of that name.
func (a *app) oneHost(f *cli.ClientFlags, name string) (found *apiv1.Host, err error) {
	cl, ctx, done, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer done()
	err = cl.Hosts(ctx, name, func(h *apiv1.Host) bool {
		if h.GetName() == name {
			found = h
		}
		return found == nil
	})
	if err == nil && found == nil {
		deny := keystead.Deny(keystead.Finding{Reason: keystead.ReasonHostUnenrolled, Where: "host " + name, Want: "an enrolled host", Got: "no enrolment"})
		err = cli.NotFound(deny, "keystead host list lists them")
	}
	return found, err
}

func (a *app) hostList() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:     "list [PREFIX] --domain FILE",
		Short:   "List enrolled hosts and their leases",
		Long:    `Lists the enrolments whose names start with PREFIX, in order, with their leases.`,
		Example: `  keystead host list web- --domain d.json`,
		Args:    cobra.MaximumNArgs(1),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		out := &apiv1.ListHostsResponse{}
		err = cl.Hosts(ctx, strings.Join(args, ""), func(h *apiv1.Host) bool { out.Hosts = append(out.Hosts, h); return true })
		if err != nil {
			return err
		}
		return a.AnswerMessage(out, func(w io.Writer) {
			for _, h := range out.GetHosts() {
				fmt.Fprintf(w, "%-24s %-5s %s\n", h.GetName(), h.GetRole(), standing(h))
			}
		})
	}
	return c
}

// standing says in a few words how a host stands.
func standing(h *apiv1.Host) string {
	l := h.GetLease()
	switch {
	case h.GetRevoked():
		return "revoked"
	case l == nil:
		return "never admitted"
	case l.GetSuspended() != nil:
		var reasons []string
		for _, f := range l.GetSuspended().GetFindings() {
			reasons = append(reasons, f.GetReason())
		}
		return strings.Join(reasons, " ")
	}
	return fmt.Sprintf("%s, until %s", l.GetAssurance(), cli.Stamp(l.GetUntilMs()))
}

func (a *app) hostShow() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "show NAME --domain FILE",
		Short: "Show a host's enrolment and lease",
		Long: `Shows a host's enrolment and lease, as the node that answers knows them: by what hardware it
is enrolled, how strong its evidence was, until when the lease lasts, and why it is
suspended if it is.`,
		Example: `  keystead host show web-1 --domain d.json`,
		Args:    cli.Arguments("NAME"),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		h, err := a.oneHost(&f, args[0])
		if err != nil {
			return err
		}
		return a.AnswerMessage(h, func(w io.Writer) {
			fmt.Fprintf(w, "host:       %s (%s)\nhardware:   %s\nstanding:   %s\n", h.GetName(), h.GetRole(), h.GetEk(), standing(h))
			l := h.GetLease()
			if l == nil {
				return
			}
			fmt.Fprintf(w, "lease:      %d, issued %s, until %s\nevidence:   of %s, verdict %s\n", l.GetVersion(), cli.Stamp(l.GetIssuedMs()), cli.Stamp(l.GetUntilMs()), cli.Stamp(l.GetRenewedMs()), l.GetVerdict())
			if deny := refusal.Parse(l.GetSuspended()); deny != nil {
				for _, f := range deny.Findings {
					fmt.Fprintf(w, "because:    %s\n", cli.Printable(f.String()))
				}
			}
		})
	}
	return c
}

// denied says what is to be on the deny list.
type denied struct {
	hardware
	issuer, firmware string
}

func (d *denied) add(c *cobra.Command) {
	d.hardware.add(c)
	c.Flags().StringVar(&d.issuer, "issuer", "", "every TPM whose endorsement certificate the authority in this `FILE` issued")
	c.Flags().StringVar(&d.firmware, "firmware", "", "every machine with this `VERSION` of TPM or machine firmware")
	c.MarkFlagsMutuallyExclusive("ek", "tpm", "ek-cert", "issuer", "firmware")
	c.MarkFlagsOneRequired("ek", "tpm", "ek-cert", "issuer", "firmware")
}

func (d *denied) subject() (string, error) {
	switch {
	case d.firmware != "":
		return admit.DenyFirmware(d.firmware), nil
	case d.issuer != "":
		authority := hardware{certificate: d.issuer}
		digest, err := authority.identity()
		return admit.DenyIssuer(digest), err
	}
	ek, err := d.identity()
	return admit.DenyEK(ek), err
}

func (a *app) hostDeny() *cobra.Command {
	return a.denial("deny", "Put hardware on the deny list", `Denies a TPM, every TPM of an issuer, or every machine with a firmware version. Leases of
such machines end, and nodes on them fall out. Nodes do not endorse that unless --may-exclude says
how many may, which is never a majority.`, false)
}

func (a *app) hostAllow() *cobra.Command {
	return a.denial("allow", "Take hardware off the deny list", `Lifts a denial. A host that it ended has to be admitted again.`, true)
}

func (a *app) denial(verb, short, long string, lifted bool) *cobra.Command {
	var f cli.StatementFlags
	var d denied
	var because string
	var mayExclude uint64
	var replace bool
	c := &cobra.Command{
		Use:     verb + " --firmware VERSION --because TEXT --domain FILE --member FILE",
		Short:   short,
		Long:    long + cli.StatementHelp,
		Example: `  keystead host ` + verb + ` --firmware 7.2.1 --because CVE-2026-1234 --domain d.json --member m.key`,
		Args:    cobra.NoArgs,
	}
	f.Add(c)
	d.add(c)
	c.Flags().StringVar(&because, "because", "", "why, in one `LINE`")
	cli.Must(c.MarkFlagRequired("because"))
	if !lifted {
		addMayExclude(c, &mayExclude)
		c.Flags().BoolVar(&replace, "replace", false, "go on although it is denied already")
	}
	c.RunE = func(*cobra.Command, []string) error {
		subject, err := d.subject()
		if err != nil {
			return err
		}
		return a.DecideOver(&f, admit.TypeDenial, subject, admit.TypeDenial+"/"+subject, func(domain keystead.Digest, base uint64) ([]byte, error) {
			return (&admit.Denial{Domain: domain, Subject: subject, Base: base, Lifted: lifted, Because: because, MayExclude: mayExclude}).Text()
		}, func(old, text string) error {
			if lifted {
				return nil
			}
			return a.Overwrite("denial of "+subject, old, text, replace)
		})
	}
	return c
}

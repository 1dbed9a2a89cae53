package appcmd

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
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
)

// domain is what a domain says of applications.
type domain struct {
	ctx    context.Context
	client *client.Client
	roots  *app.Roots
	digest keystead.Digest // of the object app-roots
}

// openDomain reads the roots that the terms for hosts name.
func openDomain(f *cli.ClientFlags) (d *domain, done func(), err error) {
	cl, ctx, done, err := f.Open()
	if err != nil {
		return nil, nil, err
	}
	d = &domain{ctx: ctx, client: cl, roots: &app.Roots{}}
	if err := d.read(); err != nil {
		done()
		return nil, nil, err
	}
	return d, done, nil
}

func (d *domain) read() error {
	view, err := d.client.Show(d.ctx)
	if err != nil {
		return err
	}
	text, err := d.client.Terms(d.ctx, admit.RoleHost, &view.Genesis)
	if err != nil || text == nil {
		return err
	}
	terms, err := admit.ParseTerms(text)
	if err != nil {
		return err
	}
	if d.digest = terms.System(admit.ObjectAppRoots); d.digest.IsZero() {
		return nil
	}
	content, err := d.client.GetObject(d.ctx, d.digest)
	if err != nil {
		return err
	}
	d.roots, err = app.ParseRoots(content)
	return err
}

// verify holds a program to the domain's roots and denials.
func (d *domain) verify(p *app.Program, m app.Measured) (app.Identity, error) {
	info, err := app.ReadCertificate(p.Note.Certificate)
	if err != nil {
		return app.Identity{}, err
	}
	list := []keystead.Digest{info.Key, p.Note.File}
	denied, err := d.client.Denied(d.ctx, admit.DenyApp(list[0]), admit.DenyApp(list[1]))
	if err != nil {
		return app.Identity{}, err
	}
	return p.Verify(m, d.roots, func(x keystead.Digest) bool { return denied[0] && x == list[0] || denied[1] && x == list[1] }, time.Now())
}

func revoke(a *cli.App) *cobra.Command {
	var f cli.StatementFlags
	var cert, program, because string
	var lift bool
	c := &cobra.Command{
		Use:   "revoke NAME --cert FILE --because TEXT --domain FILE --member FILE",
		Short: "Deny an application's certificate, or one program",
		Long: `Puts the key of an application's certificate on the domain's deny list, and with it every program
that was signed with it; or with --program that one program alone, by the digest of its file before
it was signed. Nodes release no key to it any more. NAME is the application's, and held to the file.
With --lift a denial is taken back.` + cli.StatementHelp,
		Example: `  keystead app revoke billing --cert billing.pem --because 'the key leaked' \
      --domain d.json --member m.key
  keystead app revoke billing --program billing.signed --because CVE-2026-1234 \
      --domain d.json --member m.key`,
		Args: cli.Arguments("NAME"),
	}
	f.Add(c)
	c.Flags().StringVar(&cert, "cert", "", "`FILE` with the application's certificate")
	c.Flags().StringVar(&program, "program", "", "signed program `FILE`")
	c.Flags().StringVar(&because, "because", "", "why, in one `LINE`")
	c.Flags().BoolVar(&lift, "lift", false, "take the denial back")
	c.MarkFlagsMutuallyExclusive("cert", "program")
	c.MarkFlagsOneRequired("cert", "program")
	cli.Must(c.MarkFlagRequired("because"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		d, err := toDeny(args[0], cert, program)
		if err != nil {
			return err
		}
		subject := admit.DenyApp(d)
		return a.Decide(&f, admit.TypeDenial, subject, func(domain keystead.Digest, base uint64) ([]byte, error) {
			return (&admit.Denial{Domain: domain, Subject: subject, Base: base, Lifted: lift, Because: because}).Text()
		})
	}
	return c
}

// toDeny returns the digest to deny, of the file of that application.
func toDeny(name, cert, program string) (d keystead.Digest, err error) {
	got := ""
	if cert != "" {
		der, err := readCertificate(cert)
		if err != nil {
			return d, err
		}
		info, err := app.ReadCertificate(der)
		if err != nil {
			return d, err
		}
		got, d = info.Name, info.Key
	} else {
		f, size, err := openProgram(program)
		if err != nil {
			return d, err
		}
		defer f.Close()
		p, err := app.Parse(f, size)
		if err != nil {
			return d, err
		}
		got = p.Note.Name
		if d, err = p.FileDigest(); err != nil {
			return d, err
		}
	}
	if got != name {
		return d, cli.Misuse(fmt.Errorf("the file is of application %s, and not of %s", got, name), "")
	}
	return d, nil
}

func list(a *cli.App) *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "list --domain FILE",
		Short: "List who may vouch for which applications",
		Long: `Lists the roots that the terms for hosts name: for which names, from which level on, on which hosts
and under which users, and until when.`,
		Example: `  keystead app list --domain d.json`,
		Args:    cobra.NoArgs,
	}
	f.Add(c)
	c.RunE = func(*cobra.Command, []string) error {
		d, done, err := openDomain(&f)
		if err != nil {
			return err
		}
		defer done()
		return answerRoots(a, d)
	}
	return c
}

// listed is a root in an answer.
type listed struct {
	Prefix string          `json:"prefix"`
	Level  string          `json:"level"`
	Hosts  []string        `json:"hosts"`
	Users  []listedUsers   `json:"users"`
	Name   string          `json:"name"`
	Key    keystead.Digest `json:"key"`
	Until  int64           `json:"until_ms"`
}

type listedUsers struct {
	First uint32 `json:"first"`
	Last  uint32 `json:"last"`
}

func answerRoots(a *cli.App, d *domain) error {
	all := []listed{}
	for _, r := range d.roots.List() {
		info, err := app.ReadCertificate(r.Certificate)
		if err != nil {
			return errors.Join(err, errors.New("a root of the domain's terms"))
		}
		l := listed{Prefix: r.Prefix, Level: r.Least.String(), Hosts: r.Hosts, Name: info.Name, Key: info.Key, Until: info.Until.UnixMilli()}
		for _, u := range r.Users {
			l.Users = append(l.Users, listedUsers{u.First, u.Last})
		}
		all = append(all, l)
	}
	answer := struct {
		Object string   `json:"object"` // digest; empty without roots
		Roots  []listed `json:"roots"`
	}{Roots: all}
	if !d.digest.IsZero() {
		answer.Object = d.digest.String()
	}
	return a.Answer(answer, func(w io.Writer) {
		for _, l := range all {
			var users []string
			for _, u := range l.Users {
				users = append(users, app.Users(u).String())
			}
			fmt.Fprintf(w, "%-24s %-9s hosts %s, users %s, by %s until %s\n", l.Prefix, l.Level, strings.Join(l.Hosts, " "), strings.Join(users, " "), cli.Printable(l.Name), cli.Stamp(uint64(l.Until)))
		}
	})
}

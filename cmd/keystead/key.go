package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/policy"
)

// key: secrets that a domain's nodes agree on.
func (a *app) key() *cobra.Command {
	return a.Noun("key", "Keys that a domain's nodes agree on",
		`A key of a domain is 32 bytes that all its nodes contributed to, so that nobody alone
chose them. Members specify it: its name, its release policy, how many versions there are
to be. Nodes make the versions, keep them wrapped on the ledger, and release one to a
host whose lease and evidence the policy accepts. docs/spec/keys.md describes all of it.`,
		`  keystead key create storage --policy release.txt --member ops.key --domain demo/domain.json
  keystead key list --domain demo/domain.json
  keystead key rotate storage --member ops.key --domain demo/domain.json
  keystead key release storage --out storage.key`,
		a.keyCreate(), a.keyRotate(), a.keySubmit(), a.keyList(), a.keyShow(), a.keyRelease(),
	)
}

// specFlags say how a specification is signed.
type specFlags struct {
	cli.ClientFlags
	members []string
	out     string
	creates bool // a key that there is already is not meant,
	replace bool // unless this says so
}

func (f *specFlags) add(c *cobra.Command) {
	f.wait(c)
	c.Flags().StringArrayVar(&f.members, "member", nil, "`FILE` with a member's private key; may be repeated")
	c.Flags().StringVar(&f.out, "out", "", "write the specification to `FILE`, for other members to sign, and hand nothing in")
}

// wait adds the client's flags, with the time that a round may take when a node is down.
func (f *specFlags) wait(c *cobra.Command) {
	f.ClientFlags.Add(c)
	f.Timeout = time.Minute
	c.Flags().Lookup("timeout").DefValue = f.Timeout.String()
}

func (a *app) keyCreate() *cobra.Command {
	var f specFlags
	var policyFile, level, algorithm, use, application string
	var hold, evidence time.Duration
	c := &cobra.Command{
		Use:   "create NAME --policy FILE --domain FILE [--member FILE]... [--out FILE]",
		Short: "Specify a key, or change how it is released",
		Long: `Specifies a key: whom it is released to, by a policy over the host's claims and release.*
(docs/spec/keys.md). With as many --member as the domain's threshold the specification is
handed in, and the command waits until the nodes have agreed on the first version. With
--out it is written to a file instead, for keystead member sign and then keystead key
submit.

A name that is taken is refused, and what would change is shown. --replace changes the policy of
that key, and what else is given; what is not given stays as it is.`,
		Example: `  keystead key create storage --policy release.txt --member ops.key --domain demo/domain.json
  keystead key create storage --policy release.txt --level peer --hold 30s --out storage.txt
  keystead key create orders --policy release.txt --application billing --level measured \
      --algorithm ed25519 --member ops.key --domain demo/domain.json`,
		Args: cli.Arguments("NAME"),
	}
	f.add(c)
	f.creates = true
	c.Flags().BoolVar(&f.replace, "replace", false, cli.ReplaceHelp)
	c.Flags().StringVar(&policyFile, "policy", "", "`FILE` with the release policy")
	c.Flags().StringVar(&level, "level", keyring.LevelPeer, "least `LEVEL` of an application: none, peer, measured or launched")
	c.Flags().DurationVar(&hold, "hold", 0, "how long a holder may go on when the domain can not be reached (default: not beyond its lease)")
	c.Flags().DurationVar(&evidence, "evidence", 0, "how old the host's evidence may be (default: as old as its lease)")
	c.Flags().StringVar(&application, "application", "", "`NAME` of the application that it is for, and of those below it: billing is for billing/eu, too")
	c.Flags().StringVar(&algorithm, "algorithm", "", "what it is for: secret, x25519, mlkem768-x25519, secp256k1 or ed25519 (default: secret)")
	c.Flags().StringVar(&use, "use", "", "release, or derive for a key that nodes derive from and release to nobody (default: release)")
	cli.Must(c.MarkFlagRequired("policy"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		text, err := releasePolicy(policyFile)
		if err != nil {
			return err
		}
		return a.specify(&f, args[0], func(s *keyring.Spec, k *apiv1.Key) error {
			s.Version = max(1, k.GetWanted())
			s.Level, s.Hold, s.Evidence, s.Policy = level, uint64(hold/time.Second), uint64(evidence/time.Second), text
			service := keyring.Service{Algorithm: keyring.AlgorithmSecret, Use: keyring.UseRelease, Application: "*"}
			if k.GetSpecVersion() > 0 {
				old, err := keyring.ParseSpec([]byte(k.GetSpecification()))
				if err != nil {
					return err
				}
				given := c.Flags().Changed
				if !given("level") {
					s.Level = old.Level
				}
				if !given("hold") {
					s.Hold = old.Hold
				}
				if !given("evidence") {
					s.Evidence = old.Evidence
				}
				if s.Service = old.Service; old.Service != nil {
					service = *old.Service
				}
			}
			if application+algorithm+use != "" {
				s.Service = &keyring.Service{Algorithm: cmp.Or(keyring.Algorithm(algorithm), service.Algorithm),
					Use: cmp.Or(keyring.Use(use), service.Use), Application: cmp.Or(application, service.Application)}
			}
			return nil
		})
	}
	return c
}

// releasePolicy reads a policy and checks it against what release policies speak of.
func releasePolicy(file string) ([]byte, error) {
	text, err := cli.ReadFile(file, maxSigned)
	if err != nil {
		return nil, err
	}
	if key.IsNote(text) {
		if text, _, err = key.Peek(text); err != nil {
			return nil, cli.Misuse(fmt.Errorf("%s: %w", file, err), "")
		}
	}
	if _, err := policy.Compile(text, keyring.Vocabulary()); err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", file, err), "")
	}
	return text, nil
}

func (a *app) keyRotate() *cobra.Command {
	var f specFlags
	c := &cobra.Command{
		Use:   "rotate NAME --domain FILE [--member FILE]... [--out FILE]",
		Short: "Have the nodes agree on a new version of a key",
		Long: `Specifies one version more than there is. Older versions stay, for what was encrypted
under them. Nodes rotate by themselves when one of them was removed that could read.`,
		Example: `  keystead key rotate storage --member ops.key --domain demo/domain.json`,
		Args:    cli.Arguments("NAME"),
	}
	f.add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		return a.specify(&f, args[0], func(s *keyring.Spec, k *apiv1.Key) error {
			if k == nil {
				return cli.NotFound(fmt.Errorf("no key is named %q", args[0]), "keystead key list lists them")
			}
			old, err := keyring.ParseSpec([]byte(k.GetSpecification()))
			if err != nil {
				return err
			}
			s.Level, s.Hold, s.Evidence, s.Service, s.Policy = old.Level, old.Hold, old.Evidence, old.Service, old.Policy
			s.Version = max(k.GetVersion(), k.GetWanted()) + 1
			if k.GetVersion() < k.GetWanted() {
				s.Version = k.GetWanted() // under way already
			}
			return nil
		})
	}
	return c
}

// specify makes a specification upon the one of now, and signs it, or writes it.
func (a *app) specify(f *specFlags, name string, fill func(*keyring.Spec, *apiv1.Key) error) error {
	if !keyring.ValidName(name) {
		return cli.Misuse(fmt.Errorf("%q is not a key's name: 1 to %d of a-z, 0-9, dot and dash", name, keyring.MaxName), "")
	}
	if (f.out == "") == (len(f.members) == 0) {
		return cli.Misuse(errors.New("a specification is signed with --member or written with --out, one of them"), "")
	}
	cl, ctx, done, err := f.Open()
	if err != nil {
		return err
	}
	defer done()
	k, err := cl.Key(ctx, name)
	if err != nil {
		return err
	}
	if v := k.GetSpecVersion(); v > 0 { // what is not given stays as it is there
		if err := cl.Wrote(ctx, keyring.KeyspecType+"/"+name, []byte(k.GetSpecification()), v); err != nil {
			return err
		}
	}
	s := keyring.Spec{Domain: cl.Domain(), Name: name, Base: k.GetSpecVersion()}
	if err := fill(&s, k); err != nil {
		return err
	}
	text, err := s.Text()
	if err != nil {
		return cli.Misuse(err, "")
	}
	if f.creates && k.GetSpecVersion() > 0 {
		if err := a.Overwrite("key "+name, k.GetSpecification(), string(text), f.replace); err != nil {
			return err
		}
	}
	if f.out != "" {
		if err := cli.CreateFile(f.out, text, 0o644); err != nil {
			return err
		}
		return a.Answer(map[string]string{"file": f.out, "text": string(text)}, func(w io.Writer) { fmt.Fprintf(w, "%s", text) })
	}
	signed, err := cli.SignWith(text, f.members)
	if err != nil {
		return err
	}
	return a.handIn(ctx, cl, &s, signed)
}

// handIn hands in a signed specification and waits for the version that it wants.
func (a *app) handIn(ctx context.Context, cl *client.Client, s *keyring.Spec, signed []byte) error {
	if _, err := cl.Specify(ctx, signed); err != nil {
		return err
	}
	k, err := cl.AwaitKey(ctx, s.Name, s.Version)
	if err != nil {
		return err
	}
	return a.AnswerMessage(k, func(w io.Writer) { printKey(w, k) })
}

func (a *app) keySubmit() *cobra.Command {
	var f specFlags
	c := &cobra.Command{
		Use:   "submit FILE --domain FILE",
		Short: "Hand in a key's specification that members signed",
		Long: `Hands in the specification of a key (key create or key rotate with --out) once as many
members as the domain's threshold have signed it (keystead member sign), and waits for
the version that it wants.`,
		Example: `  keystead key submit storage.txt --domain demo/domain.json`,
		Args:    cli.Arguments("FILE"),
	}
	f.wait(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		signed, err := cli.ReadFile(args[0], maxSigned)
		if err != nil {
			return err
		}
		text, _, err := key.Peek(signed)
		if err != nil {
			return cli.Misuse(fmt.Errorf("%s: %w", args[0], err), "keystead member sign signs it")
		}
		s, err := keyring.ParseSpec(text)
		if err != nil {
			return cli.Misuse(fmt.Errorf("%s: %w", args[0], err), "")
		}
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		return a.handIn(ctx, cl, &s, signed)
	}
	return c
}

func (a *app) keyList() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "list [PREFIX] --domain FILE",
		Short: "List keys, without their content",
		Long: `Lists keys with the version that there is and the one that members want, and the epoch
of now.`,
		Example: `  keystead key list --domain demo/domain.json`,
		Args:    cobra.MaximumNArgs(1),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		list, err := cl.ListKeys(ctx, strings.Join(args, ""))
		if err != nil {
			return err
		}
		return a.AnswerMessage(list, func(w io.Writer) {
			fmt.Fprintf(w, "epoch %d of nodes %v\n", list.GetEpoch(), list.GetEpochNodes())
			for _, k := range list.GetKeys() {
				fmt.Fprintf(w, "%s: version %d of %d wanted\n", k.GetName(), k.GetVersion(), k.GetWanted())
			}
		})
	}
	return c
}

func (a *app) keyShow() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "show NAME --domain FILE",
		Short: "Show a key's versions and whom it is released to",
		Long: `Shows a key's specification and versions. A version's leaf is what to ask a receipt for
(keystead receipt get).`,
		Example: `  keystead key show storage --domain demo/domain.json`,
		Args:    cli.Arguments("NAME"),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		k, err := cl.Key(ctx, args[0])
		if err != nil {
			return err
		}
		if k == nil {
			return cli.NotFound(fmt.Errorf("no key is named %q", args[0]), "keystead key list lists them")
		}
		return a.AnswerMessage(k, func(w io.Writer) {
			printKey(w, k)
			fmt.Fprintf(w, "\n%s", k.GetSpecification())
		})
	}
	return c
}

func printKey(w io.Writer, k *apiv1.Key) {
	fmt.Fprintf(w, "key %s: version %d of %d wanted\n", k.GetName(), k.GetVersion(), k.GetWanted())
	for _, v := range k.GetVersions() {
		fmt.Fprintf(w, "version %d: epoch %d, leaf %d, confirmed by %s\n", v.GetVersion(), v.GetEpoch(), v.GetLeaf(), v.GetConfirm())
		if p := v.GetPublic(); len(p) > 0 {
			fmt.Fprintf(w, "  public half %x\n", p)
		}
	}
}

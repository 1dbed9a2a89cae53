package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
)

// member: keys of the organisations that answer for policies and code sets.
func (a *app) member() *cobra.Command {
	return a.Noun("member", "Keys of members, who sign policies and code sets",
		`A member is an organisation that answers for policies and code sets. Its key is an
Ed25519 key that signs notes in the C2SP signed-note format.`,
		`  keystead member create example.org/ops --out ops.key`,
		a.memberCreate(),
		a.memberSign(),
	)
}

func (a *app) memberCreate() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "create NAME --out FILE",
		Short: "Make a member's signing key",
		Long: `Makes a signing key. FILE gets the private key, readable by its owner only; FILE.pub gets
the public key, one line of text, which is printed too. Neither is written over a file
that exists. NAME stands beside every signature; only the key counts.`,
		Example: `  keystead member create example.org/ops --out ops.key
  keystead policy sign --key ops.key strict.txt > strict.signed`,
		Args: cli.Arguments("NAME"),
	}
	c.Flags().StringVar(&out, "out", "", "file for the private key")
	cli.Must(c.MarkFlagRequired("out"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		m, err := key.NewMember(rand.Reader, args[0])
		if err != nil {
			return cli.Misuse(err, "")
		}
		public := m.Public().String()
		if err := cli.CreateFile(out, m.Encode(), 0o600); err != nil {
			return err
		}
		if err := cli.CreateFile(out+".pub", []byte(public+"\n"), 0o644); err != nil {
			return errors.Join(err, os.Remove(out))
		}
		answer := struct {
			Name        string `json:"name"`
			Public      string `json:"public"`
			PrivateFile string `json:"private_file"`
			PublicFile  string `json:"public_file"`
		}{m.Public().Name(), public, out, out + ".pub"}
		return a.Answer(answer, func(w io.Writer) { fmt.Fprintln(w, public) })
	}
	return c
}

func (a *app) memberSign() *cobra.Command {
	var keyFile string
	c := &cobra.Command{
		Use:   "sign --key FILE FILE",
		Short: "Sign a domain file, roster change, recovery or statement",
		Long: `Signs what members govern by: the genesis entry in a domain file, a roster change, a
recovery, and statements: settings, enrolments, terms, keys and the like. The signature is
added to FILE in place, beside those that are there. What is signed is printed: read it.`,
		Example: `  keystead member sign --key ops.key domain.json`,
		Args:    cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&keyFile, "key", "", "`FILE` with the member's private key")
	cli.Must(c.MarkFlagRequired("key"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		m, err := cli.ReadMember(keyFile)
		if err != nil {
			return err
		}
		raw, err := cli.ReadFile(args[0], 1<<20)
		if err != nil {
			return err
		}
		text, signed := raw, []byte(nil)
		if d, derr := client.ParseDomain(raw); derr == nil {
			text = d.Genesis
			if d.Genesis, err = cli.SignNote(m, d.Genesis); err == nil {
				signed = d.Encode()
			}
		} else {
			signed, err = cli.SignNote(m, raw)
		}
		if err != nil {
			return cli.Misuse(fmt.Errorf("%s: %w", args[0], err), "")
		}
		out, err := cli.OpenOutput(args[0])
		if err != nil {
			return err
		}
		defer out.Discard()
		if err := out.Commit(signed, 0o644); err != nil {
			return err
		}
		answer := map[string]string{"file": args[0], "signed_by": m.Public().ID(), "text": string(text)}
		return a.Answer(answer, func(w io.Writer) { fmt.Fprintf(w, "%s", text) })
	}
	return c
}

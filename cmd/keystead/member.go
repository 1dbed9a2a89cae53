package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
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
	var unchecked bool
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "sign --key FILE FILE [--domain FILE]",
		Short: "Sign a domain file, roster change, recovery or statement",
		Long: `Signs what members govern by: the genesis entry in a domain file, a roster change, a
recovery, and statements: settings, enrolments, terms, keys and the like. The signature is
added to FILE in place, beside those that are there. What is signed is printed: read it.

A key that is no member's is refused, for its signature counts for nothing. A domain file names
its members itself. For all else --domain says whose members are meant: those of the roster that
a node shows, or, where none answers, the founding ones. --unchecked signs without asking.`,
		Example: `  keystead member sign --key ops.key domain.json
  keystead member sign --key ops.key statement.txt --domain domain.json`,
		Args: cobra.ExactArgs(1),
	}
	f.Add(c)
	f.Timeout = signTimeout
	c.Flags().Lookup("timeout").DefValue = f.Timeout.String()
	c.Flags().StringVar(&keyFile, "key", "", "`FILE` with the member's private key")
	c.Flags().BoolVar(&unchecked, "unchecked", false, "sign although nothing says that the key is a member's")
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
		d, notDomain := client.ParseDomain(raw)
		text := raw
		if notDomain == nil {
			text = d.Genesis
		}
		if !unchecked {
			if err := a.isMember(&f, m.Public(), args[0], text, notDomain == nil); err != nil {
				return err
			}
		}
		signed, err := cli.SignNote(m, text)
		if err != nil {
			return cli.Misuse(fmt.Errorf("%s: %w", args[0], err), "")
		}
		if notDomain == nil {
			d.Genesis = signed
			signed = d.Encode()
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

// signTimeout is how long a node is asked for the roster: a member may sign where no node is in
// reach.
const signTimeout = 3 * time.Second

// isMember refuses a key that is no member's of the domain that a text is for (not-member), and a
// text that is for another domain than is meant (domain-mismatch). A genesis entry has its members
// itself.
func (a *app) isMember(f *cli.ClientFlags, m key.MemberPublic, name string, text []byte, genesis bool) error {
	where := name
	if genesis {
		if !bytes.Contains(text, []byte("\nmember "+m.String()+"\n")) {
			return stranger(where, "the key of a founding member", m)
		}
		return nil
	}
	if f.Domain == "" {
		return cli.Misuse(errors.New("--domain is required: it says whose members sign this"), "--unchecked signs without asking whether the key is a member's")
	}
	file, digest, err := f.File()
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if of, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "domain "); ok && of != receipt.Origin(digest) {
			return cli.Hinted(keystead.Deny(keystead.Finding{Reason: keystead.ReasonDomainMismatch, Where: where, Want: receipt.Origin(digest), Got: of}), "--domain names another domain than the text is for")
		} else if ok {
			break
		}
	}
	var roster *receipt.Roster
	cl, ctx, done, err := f.Open()
	if err == nil {
		var v *client.View
		if v, err = cl.Show(ctx); err == nil {
			roster = &v.Roster
		}
		done()
	}
	if roster == nil { // nobody shows one
		entry, gerr := receipt.NoteEntry(file.Genesis)
		if gerr != nil {
			return gerr
		}
		g, gerr := receipt.VerifyGenesis(entry, digest)
		if gerr != nil {
			return gerr
		}
		roster = &g.Roster
		fmt.Fprintf(a.Stderr, "keystead: no node shows the roster of now (%s): the key is held to the founding members\n", cli.Printable(err.Error()))
	}
	if !slices.Contains(roster.Members, m) {
		return stranger(where, fmt.Sprintf("the key of one of %d members", len(roster.Members)), m)
	}
	return nil
}

func stranger(where, want string, m key.MemberPublic) error {
	return cli.Hinted(keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: where, Want: want, Got: m.ID()}), "keystead domain show lists the members; --unchecked signs all the same")
}

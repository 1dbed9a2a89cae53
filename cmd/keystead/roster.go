package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

func (a *app) nodeAdd() *cobra.Command {
	var v newcomer
	c := &cobra.Command{
		Use:   "add CONTACT --domain FILE [--key FILE]",
		Short: "Add a node to a domain's roster",
		Long: `Adds the node of a contact (the file contact in its directory) to the roster. With as
many --key as the domain's threshold the change is handed in; with fewer it is printed
for other members to sign (keystead member sign, then keystead domain submit).

Where nodes show evidence, the file evidence beside the contact, which keystead node init leaves
there, is judged first by the terms for nodes and the deny list: a machine that the others do not
let in would be a voter that never signs. --unchecked adds it all the same.`,
		Example: `  keystead node add n4/contact --domain demo/domain.json --key demo/member.key`,
		Args:    cobra.ExactArgs(1),
	}
	v.add(c)
	return a.rosterChange(c, func(args []string, r *receipt.Roster) ([]byte, error) {
		signed, contact, err := readContact(args[0])
		if err != nil {
			return nil, err
		}
		r.Nodes = append(r.Nodes, contact.Node())
		return signed, nil
	}, &v)
}

func readContact(name string) ([]byte, client.Contact, error) {
	signed, err := cli.ReadFile(name, 4096)
	if err != nil {
		return nil, client.Contact{}, err
	}
	c, err := client.OpenContact(signed)
	if err != nil {
		return nil, c, cli.Misuse(fmt.Errorf("%s: %w", name, err), "")
	}
	return signed, c, nil
}

func (a *app) nodeRekey() *cobra.Command {
	return a.rosterChange(&cobra.Command{
		Use:   "rekey CONTACT… --domain FILE [--key FILE]",
		Short: "Bring in the keys of nodes that started anew together",
		Long: `In a domain that asks its nodes for evidence and does not trust their disks, a node makes
a new signing key whenever it starts, and the other nodes certify it. If a majority of
the nodes starts anew at once, no majority is left to certify, and the domain is closed:
then members bring in the new keys. The contacts are the files contact in the nodes'
directories, which each node writes when it starts. Names and machines stay as they are.`,
		Example: `  keystead node rekey n1/contact n2/contact --domain demo/domain.json --key demo/member.key`,
		Args:    cobra.MinimumNArgs(1),
	}, func(args []string, r *receipt.Roster) ([]byte, error) {
		for _, name := range args {
			_, c, err := readContact(name)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(r.Nodes, func(n receipt.Node) bool { return n.Name == c.Name })
			switch {
			case i < 0:
				return nil, cli.NotFound(fmt.Errorf("the roster has no node %q", c.Name), "keystead node add adds it")
			case r.Nodes[i].AK != c.AK:
				return nil, cli.Misuse(fmt.Errorf("%s is of a machine with attestation key %s, and the roster has %s for %s", name, c.AK, r.Nodes[i].AK, c.Name),
					"remove the node and add it anew (keystead node remove, keystead node add)")
			}
			r.Nodes[i].Key = c.Key
		}
		return nil, nil
	}, nil)
}

func (a *app) nodeRemove() *cobra.Command {
	return a.rosterChange(&cobra.Command{
		Use:   "remove NAME --domain FILE [--key FILE]",
		Short: "Remove a node from a domain's roster",
		Long: `Removes a node from the roster: its signatures count no more, and it leaves the group
that replicates the ledger. With as many --key as the domain's threshold the change is
handed in; with fewer it is printed for other members to sign.`,
		Example: `  keystead node remove n3 --domain demo/domain.json --key demo/member.key`,
		Args:    cobra.ExactArgs(1),
	}, func(args []string, r *receipt.Roster) ([]byte, error) {
		n, name := len(r.Nodes), args[0]
		r.Nodes = slices.DeleteFunc(r.Nodes, func(n receipt.Node) bool { return n.Name == name })
		if len(r.Nodes) == n {
			return nil, cli.NotFound(fmt.Errorf("the roster has no node %q", name), "keystead domain show lists them")
		}
		return nil, nil
	}, nil)
}

// rosterChange completes a command that changes the roster of now; x is the node that it adds, or nil.
func (a *app) rosterChange(c *cobra.Command, edit rosterEdit, x *newcomer) *cobra.Command {
	var f cli.ClientFlags
	var keys []string
	f.Add(c)
	c.Flags().StringArrayVar(&keys, "key", nil, "`FILE` with a member's private key; may be repeated")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if x != nil {
			if err := x.check(&f, args[0]); err != nil {
				return err
			}
		}
		for again := 0; ; again++ {
			handedIn, err := a.changeRoster(&f, keys, args, edit, x)
			overtaken := handedIn && errors.Is(err, keystead.ReasonRosterBroken) // by another change, such as a node's new key
			if !overtaken || again == maxOvertaken {
				return err
			}
		}
	}
	return c
}

// maxOvertaken is how often a change is made anew because another one came first.
const maxOvertaken = 10

// rosterEdit changes a roster, and returns the contact of a node that it adds.
type rosterEdit func(args []string, r *receipt.Roster) (contact []byte, err error)

// changeRoster edits the roster of now, and hands the change in if enough members sign.
func (a *app) changeRoster(f *cli.ClientFlags, keys, args []string, edit rosterEdit, x *newcomer) (handedIn bool, err error) {
	cl, ctx, done, err := f.Open()
	if err != nil {
		return false, err
	}
	defer done()
	v, err := cl.Show(ctx)
	if err != nil {
		return false, err
	}
	change := receipt.Change{Domain: v.Domain, Sequence: v.Sequence + 1, After: v.Entry, Roster: v.Roster}
	change.Roster.Nodes = slices.Clone(change.Roster.Nodes)
	contact, err := edit(args, &change.Roster)
	if err != nil {
		return false, err
	}
	text, err := change.Text()
	if err != nil {
		return false, cli.Misuse(err, "")
	}
	signed, err := cli.SignAs(&v.Roster, text, keys)
	if err != nil {
		return false, err
	}
	if len(keys) < v.Roster.Threshold {
		answer := map[string]string{"roster": string(signed), "contact": string(contact)}
		return false, a.Answer(answer, func(w io.Writer) { w.Write(signed) })
	}
	return true, a.submit(f, signed, contact, x)
}

// submit hands in a roster change or a statement that members signed.
func (a *app) submit(f *cli.ClientFlags, signed, contact []byte, x *newcomer) error {
	if !strings.HasPrefix(string(signed), string(key.KindRoster)+"\n") {
		return a.SubmitStatement(f, signed)
	}
	entry, err := receipt.NoteEntry(signed)
	if err != nil {
		return cli.Misuse(err, "keystead member sign signs it")
	}
	cl, ctx, done, err := f.Open()
	if err != nil {
		return err
	}
	defer done()
	out, err := cl.SubmitNode(ctx, entry, contact, x.toShow())
	if err != nil {
		return err
	}
	v, err := cl.Show(ctx)
	if err != nil {
		return err
	}
	answer := struct {
		Leaf     uint64   `json:"leaf"`
		Sequence uint64   `json:"roster"`
		Nodes    []string `json:"nodes"`
	}{out.GetLeaf(), v.Sequence, nodeNames(&v.Roster)}
	return a.Answer(answer, func(w io.Writer) {
		fmt.Fprintf(w, "roster %d is leaf %d: nodes %v\n", v.Sequence, out.GetLeaf(), answer.Nodes)
	})
}

func nodeNames(r *receipt.Roster) (names []string) {
	for _, n := range r.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func (a *app) domainSubmit() *cobra.Command {
	var f cli.ClientFlags
	var contactFile string
	var x newcomer
	c := &cobra.Command{
		Use:   "submit FILE --domain FILE",
		Short: "Hand in a roster change or a statement that members signed",
		Long: `Hands in a roster change, or a statement written by --out of another command, once enough
members have signed it (keystead member sign). The machine of a node that is added is judged first,
as keystead node add does.`,
		Example: `  keystead domain submit roster.txt --domain demo/domain.json`,
		Args:    cobra.ExactArgs(1),
	}
	f.Add(c)
	c.Flags().StringVar(&contactFile, "contact", "", "contact `FILE` of a node that the change adds")
	x.add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		signed, err := cli.ReadFile(args[0], 1<<20)
		if err != nil {
			return err
		}
		var contact []byte
		if contactFile != "" {
			if contact, err = os.ReadFile(contactFile); err != nil {
				return cli.Misuse(err, "")
			}
			if err := x.check(&f, contactFile); err != nil {
				return err
			}
		}
		return a.submit(&f, signed, contact, &x)
	}
	return c
}

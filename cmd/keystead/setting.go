package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
)

// setting: what members set for a whole domain.
func (a *app) setting() *cobra.Command {
	return a.noun("setting", "Settings, which members change for a whole domain",
		`A setting holds for a whole domain. Members sign a change of it; each node judges
the change by itself, and it takes effect once a majority of nodes endorsed it. Then it
has a receipt.`,
		`  keystead setting set lease-seconds 60 --domain demo/domain.json --key demo/member.key
  keystead setting show lease-seconds --domain demo/domain.json`,
		a.settingShow(), a.settingSet(),
	)
}

func settingKey(name string) string { return admit.TypeSetting + "/" + name }

func (a *app) settingShow() *cobra.Command {
	var f clientFlags
	c := &cobra.Command{
		Use:     "show NAME --domain FILE",
		Short:   "Show what a setting is set to",
		Long:    `Shows the value of a setting and the version that it has, linearizably.`,
		Example: `  keystead setting show lease-seconds --domain demo/domain.json`,
		Args:    arguments("NAME"),
	}
	f.add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.open()
		if err != nil {
			return err
		}
		defer done()
		r, err := cl.State(ctx, []string{settingKey(args[0])}, nil)
		if err != nil {
			return err
		}
		v := r.GetValues()[0]
		if v.GetVersion() == 0 && !a.json {
			return misuse(fmt.Errorf("%s was never set", args[0]), "")
		}
		answer := struct {
			Name    string `json:"name"`
			Value   string `json:"value"`
			Version uint64 `json:"version"`
		}{args[0], string(v.GetValue()), v.GetVersion()}
		return a.answer(answer, func(w io.Writer) { fmt.Fprintln(w, answer.Value) })
	}
	return c
}

func (a *app) settingSet() *cobra.Command {
	var f clientFlags
	var keys, members []string
	c := &cobra.Command{
		Use:   "set NAME VALUE --domain FILE [--key FILE]",
		Short: "Change a setting",
		Long: `Writes the text that sets a setting, upon the version that it has now. With as many --key
as the domain's threshold it is handed in; with fewer it is printed for other members to
sign (keystead member sign, then keystead domain submit). A signature serves once: for
the next version of the setting.

lease-seconds: how long a lease lasts, 5 to 86400; 60 if it was never set.
archive-days: how long the evidence of admissions is archived, 0 (not at all) to 36500; 365 if
it was never set. Evidence that is older is destroyed.
archive-readers: how many of the members that --name names may read it together; nobody
may if it was never set.
entry-version: up to which version the ledger's entries count, 4 at present; 3 if it was
never set. Raise it once every node runs a build that knows the version: one that does not
stops at the first such entry. It is never lowered.`,
		Example: `  keystead setting set lease-seconds 60 --domain demo/domain.json --key demo/member.key
  keystead setting set archive-readers 1 --name ada --name ben --domain d.json --key ops.key`,
		Args: arguments("NAME", "VALUE"),
	}
	f.add(c)
	c.Flags().StringArrayVar(&keys, "key", nil, "`FILE` with a member's private key; may be repeated")
	c.Flags().StringArrayVar(&members, "name", nil, "`NAME` of a member who may read the archive, for archive-readers; may be repeated")
	c.RunE = func(_ *cobra.Command, args []string) error {
		value, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil {
			return misuse(err, "a setting's value is a number")
		}
		cl, ctx, done, err := f.open()
		if err != nil {
			return err
		}
		defer done()
		r, err := cl.State(ctx, []string{settingKey(args[0])}, nil)
		if err != nil {
			return err
		}
		v, err := cl.Show(ctx)
		if err != nil {
			return err
		}
		text, err := (&admit.Setting{Domain: v.Domain, Name: args[0], Base: r.GetValues()[0].GetVersion(), Value: value, Members: ascending(members)}).Text()
		if err != nil {
			return misuse(err, "")
		}
		signed, err := signWith(text, keys)
		if err != nil {
			return err
		}
		if len(keys) < v.Roster.Threshold {
			return a.answer(map[string]string{"setting": string(signed)}, func(w io.Writer) { w.Write(signed) })
		}
		return a.submitStatement(&f, signed)
	}
	return c
}

// ascending returns each of the words once, in order.
func ascending(words []string) []string { return slices.Compact(slices.Sorted(slices.Values(words))) }

// submitStatement proposes what members signed.
func (a *app) submitStatement(f *clientFlags, signed []byte) error {
	p, err := client.Propose(signed)
	if err != nil {
		return misuse(err, "keystead member sign signs it")
	}
	entry, err := p.Entry()
	if err != nil {
		return misuse(err, "")
	}
	cl, ctx, done, err := f.open()
	if err != nil {
		return err
	}
	defer done()
	out, err := cl.Submit(ctx, entry, nil)
	if err != nil {
		return err
	}
	answer := struct {
		Type          string          `json:"type"`
		Subject       string          `json:"subject"`
		Leaf          uint64          `json:"leaf"`
		TransactionID keystead.Digest `json:"transaction_id"`
	}{p.Type, p.Subject, out.GetLeaf(), keystead.Digest(out.GetTransactionId())}
	return a.answer(answer, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s is leaf %d, transaction %s\n", printable(answer.Type), printable(answer.Subject), answer.Leaf, answer.TransactionID)
	})
}

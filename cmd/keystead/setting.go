package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
)

// setting: what members set for a whole domain.
func (a *app) setting() *cobra.Command {
	return a.Noun("setting", "Settings, which members change for a whole domain",
		`A setting holds for a whole domain. Members sign a change of it; each node judges
the change by itself, and it takes effect once a majority of nodes endorsed it. Then it
has a receipt.`,
		`  keystead setting list --domain demo/domain.json
  keystead setting set lease-seconds 60 --domain demo/domain.json --key demo/member.key`,
		a.settingList(), a.settingShow(), a.settingSet(),
	)
}

func settingKey(name string) string { return admit.TypeSetting + "/" + name }

// settingValue is what a setting is set to.
type settingValue struct {
	Name    string   `json:"name"`
	Value   uint64   `json:"value"`
	Members []string `json:"members,omitempty"` // of archive-readers: who may
	Version uint64   `json:"version"`           // 0 if it was never set
}

// readSetting reads the ledger's text: a number, with names behind it or not.
func readSetting(name string, v *apiv1.Value) (settingValue, error) {
	out := settingValue{Name: name, Version: v.GetVersion()}
	words := strings.Fields(string(v.GetValue()))
	if len(words) == 0 {
		return out, &keystead.FormatError{Format: "setting", Field: name, Problem: "is empty"}
	}
	n, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil {
		return out, &keystead.FormatError{Format: "setting", Field: name, Problem: "is no number"}
	}
	out.Value, out.Members = n, words[1:]
	return out, nil
}

func (s settingValue) String() string {
	return strings.Join(append([]string{strconv.FormatUint(s.Value, 10)}, s.Members...), " ")
}

// standingSetting is a setting as it holds now.
type standingSetting struct {
	settingValue
	Least uint64 `json:"least"`
	Most  uint64 `json:"most"`
}

func (a *app) settingList() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "list --domain FILE",
		Short: "List every setting, and what holds now",
		Long: `Lists every setting that there is, with its bounds and the value that holds now, read
linearizably. Version 0 is one that members never set: the founding value or the
program's own holds.`,
		Example: `  keystead setting list --domain demo/domain.json`,
		Args:    cobra.NoArgs,
	}
	f.Add(c)
	c.RunE = func(*cobra.Command, []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		founded, err := cl.Show(ctx)
		if err != nil {
			return err
		}
		known := admit.Settings()
		names := slices.Sorted(maps.Keys(known))
		keys := make([]string, len(names))
		for i, name := range names {
			keys[i] = settingKey(name)
		}
		r, err := cl.State(ctx, keys, nil)
		if err != nil {
			return err
		}
		out := make([]standingSetting, len(names))
		for i, v := range r.GetValues() {
			b := known[names[i]]
			out[i] = standingSetting{settingValue{Name: names[i], Value: admit.Holds(names[i], founded.Genesis.Setting(names[i]))}, b.Least, b.Most}
			if v.GetVersion() == 0 {
				continue
			}
			if out[i].settingValue, err = readSetting(names[i], v); err != nil {
				return err
			}
		}
		return a.Answer(out, func(w io.Writer) {
			for _, s := range out {
				how := fmt.Sprintf("version %d", s.Version)
				if s.Version == 0 {
					how = "never set"
				}
				fmt.Fprintf(w, "%-16s %s (%s; %d to %d)\n", s.Name, cli.Printable(s.String()), how, s.Least, s.Most)
			}
		})
	}
	return c
}

func (a *app) settingShow() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:     "show NAME --domain FILE",
		Short:   "Show what a setting is set to",
		Long:    `Shows the value of a setting and the version that it has, linearizably.`,
		Example: `  keystead setting show lease-seconds --domain demo/domain.json`,
		Args:    cli.Arguments("NAME"),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		r, err := cl.State(ctx, []string{settingKey(args[0])}, nil)
		if err != nil {
			return err
		}
		v := r.GetValues()[0]
		if v.GetVersion() == 0 {
			return cli.NotFound(fmt.Errorf("%s was never set", args[0]), "keystead setting list shows what holds, and every setting that there is")
		}
		answer, err := readSetting(args[0], v)
		if err != nil {
			return err
		}
		return a.Answer(answer, func(w io.Writer) { fmt.Fprintln(w, cli.Printable(answer.String())) })
	}
	return c
}

func (a *app) settingSet() *cobra.Command {
	var f cli.ClientFlags
	var keys, members []string
	var yes bool
	c := &cobra.Command{
		Use:   "set NAME VALUE --domain FILE [--key FILE]",
		Short: "Change a setting",
		Long: `Writes the text that sets a setting, upon the version that it has now. With as many --key
as the domain's threshold it is handed in; with fewer it is printed for other members to
sign (keystead member sign, then keystead domain submit). A signature serves once: for
the next version of the setting. What changes is shown.

lease-seconds: how long a lease lasts, 5 to 86400; 60 if it was never set.
archive-days: how long the evidence of admissions is archived, 0 (not at all) to 36500; 365 if
it was never set. Evidence that is older is destroyed: fewer days than before want --yes.
archive-readers: how many of the members that --name names may read it together; nobody
may if it was never set.
entry-version: up to which version the ledger's entries count, 4 at present; 3 if it was
never set. Raise it once every node runs a build that knows the version: one that does not
stops at the first such entry. It is never lowered.`,
		Example: `  keystead setting set lease-seconds 60 --domain demo/domain.json --key demo/member.key
  keystead setting set archive-readers 1 --name ada --name ben --domain d.json --key ops.key`,
		Args: cli.Arguments("NAME", "VALUE"),
	}
	f.Add(c)
	c.Flags().StringArrayVar(&keys, "key", nil, "`FILE` with a member's private key; may be repeated")
	c.Flags().BoolVar(&yes, "yes", false, "do what destroys evidence without asking")
	c.Flags().StringArrayVar(&members, "name", nil, "`NAME` of a member who may read the archive, for archive-readers; may be repeated")
	c.RunE = func(_ *cobra.Command, args []string) error {
		value, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil {
			return cli.Misuse(err, "a setting's value is a number")
		}
		cl, ctx, done, err := f.Open()
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
			return cli.Misuse(err, "")
		}
		if err := a.settingChanges(args[0], r.GetValues()[0], v, settingValue{Value: value, Members: ascending(members)}, yes); err != nil {
			return err
		}
		signed, err := cli.SignAs(&v.Roster, text, keys)
		if err != nil {
			return err
		}
		if len(keys) < v.Roster.Threshold {
			return a.Answer(map[string]string{"setting": string(signed)}, func(w io.Writer) { w.Write(signed) })
		}
		return a.SubmitStatement(&f, signed)
	}
	return c
}

// settingChanges shows what becomes of a setting, and asks before evidence is destroyed by it.
func (a *app) settingChanges(name string, now *apiv1.Value, v *client.View, to settingValue, yes bool) error {
	was := settingValue{Value: admit.Holds(name, v.Genesis.Setting(name))}
	if now.GetVersion() > 0 {
		var err error
		if was, err = readSetting(name, now); err != nil {
			return err
		}
	}
	a.Changes("setting "+name, was.String(), to.String())
	if name == admit.ArchiveDays && to.Value < was.Value {
		return a.Confirm(fmt.Sprintf("destroy archived evidence of more than %d days", to.Value), yes)
	}
	return nil
}

// ascending returns each of the words once, in order.
func ascending(words []string) []string { return slices.Compact(slices.Sorted(slices.Values(words))) }

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
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// yardstick is by what a role is to be judged, as files.
type yardstick struct {
	policy                         string
	roots, testRoots, intermediate []string
	refs, codeSets                 []string
	tees                           tees // of hosts
	appRoots                       string
}

func (y *yardstick) add(c *cobra.Command) {
	y.addAs(c, "", "")
	y.tees.add(c)
	c.Flags().StringVar(&y.appRoots, "app-roots", "", "`FILE` with roots for applications (keystead-app-roots/1), of hosts")
}

// addAs adds the flags with a prefix to their names, for one role.
func (y *yardstick) addAs(c *cobra.Command, prefix, whose string) {
	f := c.Flags()
	f.StringVar(&y.policy, prefix+"policy", "", whose+"policy `FILE`, signed or not, or the name of a shipped one")
	f.StringArrayVar(&y.roots, prefix+"roots", nil, whose+"PEM `FILE` of TPM vendors' roots; may be repeated")
	f.StringArrayVar(&y.testRoots, prefix+"test-roots", nil, whose+"PEM `FILE` of roots of software TPMs, which reach assurance test; may be repeated")
	f.StringArrayVar(&y.intermediate, prefix+"intermediates", nil, whose+"PEM `FILE` of intermediates that help to build chains; may be repeated")
	f.StringArrayVar(&y.refs, prefix+"refs", nil, whose+"reference set `FILE`, or FILE,until=TIME for one that counts up to then; may be repeated")
	f.StringArrayVar(&y.codeSets, prefix+"codeset", nil, whose+"code set `FILE`, or FILE,until=TIME likewise; may be repeated")
}

// or returns it with what was not given taken from another.
func (y yardstick) or(other yardstick) yardstick {
	if y.policy == "" {
		y.policy = other.policy
	}
	if len(y.roots)+len(y.testRoots) == 0 {
		y.roots, y.testRoots = other.roots, other.testRoots
	}
	for _, list := range []struct{ own, others *[]string }{{&y.intermediate, &other.intermediate}, {&y.refs, &other.refs}, {&y.codeSets, &other.codeSets}} {
		if len(*list.own) == 0 {
			*list.own = *list.others
		}
	}
	return y
}

// given reports whether any of it was.
func (y *yardstick) given() bool {
	return y.policy != "" || len(y.roots)+len(y.testRoots)+len(y.intermediate)+len(y.refs)+len(y.codeSets) > 0 || y.appRoots != "" || y.tees.given()
}

// part is an object, and what it is.
type part struct {
	kind    string
	content []byte
	until   time.Time // up to when a set counts; zero: for good
}

// dated reads FILE or FILE,until=TIME.
func dated(arg string) (file string, until time.Time, err error) {
	i := strings.LastIndex(arg, untilMark)
	if i < 0 {
		return arg, until, nil
	}
	file, at := arg[:i], arg[i+len(untilMark):]
	until, err = time.Parse(time.RFC3339, at)
	if err != nil || until.Nanosecond() != 0 {
		return "", until, cli.Misuse(fmt.Errorf("%s: %q is no time to the second", file, at), "write it as FILE,until=2026-01-31T12:00:00Z")
	}
	return file, until.UTC(), nil
}

const untilMark = ",until="

// ahead is dated, for terms: a time that is over would take the set away at once.
func ahead(arg string) (file string, until time.Time, err error) {
	file, until, err = dated(arg)
	if err == nil && !until.IsZero() && !until.After(time.Now()) {
		err = cli.Misuse(fmt.Errorf("%s: %s is over", file, until.Format(time.RFC3339)), "leave the set out: what terms do not name counts no more")
	}
	return file, until, err
}

// parts reads and checks the files.
func (y *yardstick) parts() (parts []part, err error) {
	if y.policy == "" || len(y.roots)+len(y.testRoots) == 0 {
		return nil, cli.Misuse(errors.New("terms want --policy, and --roots or --test-roots"), "a policy is a file, or one that comes with the program: "+strings.Join(policy.ShippedNames(), ", "))
	}
	return y.some()
}

// some reads and checks the files that are given.
func (y *yardstick) some() (parts []part, err error) {
	if y.policy != "" {
		text, err := y.policyText()
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{kind: admit.ObjectPolicy, content: text})
	}
	if len(y.roots)+len(y.testRoots) > 0 {
		certs, err := readRoots(y.roots, y.testRoots, y.intermediate)
		if err != nil {
			return nil, err
		}
		roots, err := formatRoots(certs)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{kind: admit.ObjectRoots, content: roots})
	}
	for _, arg := range y.refs {
		name, until, err := ahead(arg)
		if err != nil {
			return nil, err
		}
		s, err := readSet(name)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{admit.ObjectReferences, s.Bytes(), until})
	}
	for _, arg := range y.codeSets {
		name, until, err := ahead(arg)
		if err != nil {
			return nil, err
		}
		text, err := cli.ReadFile(name, refval.MaxCodeSet)
		if err != nil {
			return nil, err
		}
		bare := text
		if key.IsNote(text) {
			bare, _, err = key.Peek(text)
		}
		if err == nil {
			_, err = refval.ParseCodeSet(string(bare))
		}
		if err != nil {
			return nil, cli.Misuse(fmt.Errorf("%s: %w", name, err), "")
		}
		parts = append(parts, part{admit.ObjectCodeSet, text, until})
	}
	if y.appRoots != "" {
		text, err := cli.ReadFile(y.appRoots, admit.MaxSystemObject)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{kind: admit.ObjectAppRoots, content: text})
	}
	more, err := y.tees.parts()
	return append(parts, more...), err
}

// policyText reads the policy, without signatures.
func (y *yardstick) policyText() ([]byte, error) {
	text, _, err := policyText(y.policy)
	if err != nil {
		return nil, err
	}
	if key.IsNote(text) {
		if text, _, err = key.Peek(text); err != nil {
			return nil, cli.Misuse(err, "")
		}
	}
	if _, err := policy.Compile(text, appraise.Vocabulary()); err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", y.policy, err), "")
	}
	return text, nil
}

func formatRoots(r tpm2.Roots) ([]byte, error) {
	text, err := admit.FormatRoots(r)
	if err != nil {
		return nil, cli.Misuse(err, "")
	}
	return text, nil
}

// terms names the parts.
func terms(role string, parts []part) admit.Terms {
	t := admit.Terms{Role: role}
	for _, p := range parts {
		put(&t, p)
	}
	return t
}

// domainTerms: by what roles are judged.
func (a *app) domainTerms() *cobra.Command {
	return a.Noun("terms", "By what hosts and nodes are judged",
		`Terms say by what the machines of a role are judged: one policy, endorsement roots, reference
sets and code sets, each an object that the nodes keep by its digest.`,
		`  keystead domain terms show host --domain d.json
  keystead domain terms plan host --add-codeset build.signed --domain d.json --member reader.key \
      --because "what the new build changes"
  keystead domain terms edit host --add-codeset build.signed --domain d.json --member m.key`,
		a.termsShow(), a.termsPlan(), a.termsEdit(), a.termsSet(),
	)
}

func (a *app) termsShow() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:     "show ROLE --domain FILE",
		Short:   "Show by what a role is judged",
		Long:    `Shows the terms in force for a role (host or node): those judged last, or the founding ones.`,
		Example: `  keystead domain terms show host --domain d.json`,
		Args:    cli.Arguments("ROLE"),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		text, version, err := termsInForce(ctx, cl, args[0])
		if err != nil {
			return err
		}
		answer := struct {
			Role    string          `json:"role"`
			Digest  keystead.Digest `json:"digest"`
			Version uint64          `json:"version"` // 0: founding
			Text    string          `json:"text"`
		}{args[0], keystead.Sum(text), version, string(text)}
		return a.Answer(answer, func(w io.Writer) { w.Write(text) })
	}
	return c
}

// termsInForce returns the text of a role's terms, and their version: as a receipt, or the genesis entry,
// proves them.
func termsInForce(ctx context.Context, cl *client.Client, role string) ([]byte, uint64, error) {
	at := admit.TypeTerms + "/" + role
	state, err := cl.State(ctx, []string{at}, nil)
	if err != nil {
		return nil, 0, err
	}
	if v := state.GetValues()[0]; v.GetVersion() > 0 {
		return v.GetValue(), v.GetVersion(), cl.Wrote(ctx, at, v.GetValue(), v.GetVersion())
	}
	view, err := cl.Show(ctx)
	if err != nil {
		return nil, 0, err
	}
	d, err := keystead.ParseDigest("sha256:" + view.Genesis.Setting(admit.FoundingSetting(role)))
	if err != nil {
		return nil, 0, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTermsMissing, Where: "role " + role, Want: "terms, from the genesis entry or judged", Got: "none"})
	}
	text, err := cl.GetObject(ctx, d)
	return text, 0, err
}

// addMayExclude adds the flag by which members say how many nodes may fall out.
func addMayExclude(c *cobra.Command, n *uint64) {
	c.Flags().Uint64Var(n, "may-exclude", 0, "how many of the domain's nodes may fall out by it")
}

// endorseParts has the nodes endorse the parts that no terms in force name and that
// are not endorsed yet.
func (a *app) endorseParts(ctx context.Context, cl *client.Client, f *cli.StatementFlags, role string, parts []part, recipes []string) error {
	known := map[keystead.Digest]bool{}
	if text, _, err := termsInForce(ctx, cl, role); err == nil {
		if t, err := admit.ParseTerms(text); err == nil {
			for _, o := range t.Objects() {
				known[o.Digest] = true
			}
		}
	}
	sets := 0
	for _, p := range parts {
		recipe := ""
		if p.kind == admit.ObjectReferences {
			if sets < len(recipes) {
				recipe = recipes[sets]
			}
			sets++
		}
		d := keystead.Sum(p.content)
		state, err := cl.State(ctx, []string{admit.TypeObject + "/" + d.String()}, nil)
		if err != nil {
			return err
		}
		if known[d] || state.GetValues()[0].GetVersion() > 0 {
			continue
		}
		if _, err := putObject(ctx, cl, f, p, recipe); err != nil {
			return err
		}
		fmt.Fprintf(a.Stderr, "keystead: %s %s is endorsed\n", p.kind, d)
	}
	return nil
}

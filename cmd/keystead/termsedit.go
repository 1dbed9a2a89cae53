package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
)

// edit is what is to be other in terms: the rest stays as it is in force.
type edit struct {
	yardstick          // of which sets are added, and all else is in the place of what there is
	drop      []string // files or digests of sets
	whole     bool     // nothing stays: what is not given is left out
}

func (e *edit) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&e.policy, "policy", "", "policy `FILE`, signed or not, or the name of a shipped one")
	f.StringArrayVar(&e.roots, "roots", nil, "PEM `FILE` of TPM vendors' roots, in the place of all roots; may be repeated")
	f.StringArrayVar(&e.testRoots, "test-roots", nil, "PEM `FILE` of roots of software TPMs, likewise; may be repeated")
	f.StringArrayVar(&e.intermediate, "intermediates", nil, "PEM `FILE` of intermediates beside these; may be repeated")
	f.StringArrayVar(&e.refs, "add-refs", nil, "reference set `FILE` beside those that there are, or FILE,until=TIME; may be repeated")
	f.StringArrayVar(&e.codeSets, "add-codeset", nil, "code set `FILE` likewise; may be repeated")
	f.StringArrayVar(&e.drop, "drop", nil, "`FILE` or digest of what to leave out: any but policy and roots; may be repeated")
	f.StringVar(&e.appRoots, "app-roots", "", "`FILE` with roots for applications (keystead-app-roots/1), of hosts")
	e.tees.add(c)
}

// roles are what terms are for.
var roles = []string{admit.RoleHost, admit.RoleNode}

// target returns the terms as they are to be, and the objects that are given.
func (e *edit) target(role string, old []byte) (t admit.Terms, parts []part, err error) {
	if e.whole {
		if parts, err = e.parts(); err != nil {
			return t, nil, err
		}
		return terms(role, parts), parts, nil
	}
	if !e.given() && len(e.drop) == 0 {
		return t, nil, cli.Misuse(errors.New("nothing is to be other"), "--policy, --add-codeset, --drop and so on say what")
	}
	if !slices.Contains(roles, role) {
		return t, nil, cli.Misuse(fmt.Errorf("%q is not a role", role), "roles are "+strings.Join(roles, " and "))
	}
	if old == nil {
		return t, nil, cli.Misuse(fmt.Errorf("there are no terms for %s to edit", role), "keystead domain terms set makes them")
	}
	if t, err = admit.ParseTerms(old); err != nil {
		return t, nil, err
	}
	if len(e.intermediate) > 0 && len(e.roots)+len(e.testRoots) == 0 { // one object holds both
		return t, nil, cli.Misuse(errors.New("--intermediates without roots: they are one object with the roots that they stand beside"), "give --roots or --test-roots as well, all of them")
	}
	if parts, err = e.some(); err != nil {
		return t, nil, err
	}
	for _, arg := range e.drop {
		if err := drop(&t, arg); err != nil {
			return t, nil, err
		}
	}
	for _, p := range parts {
		put(&t, p)
	}
	return t, parts, nil
}

// put puts a part into terms: a set beside others, all else in the place of what there is.
func put(t *admit.Terms, p part) {
	d := keystead.Sum(p.content)
	switch p.kind {
	case admit.ObjectPolicy:
		t.Policy = d
	case admit.ObjectRoots:
		t.Roots = d
	case admit.ObjectReferences:
		t.References = with(t.References, d)
	case admit.ObjectCodeSet:
		t.CodeSets = with(t.CodeSets, d)
	case admit.ObjectCollateral:
		t.Collateral = with(t.Collateral, d)
	case admit.ObjectTEERoots:
		t.TEERoots = d
	case admit.ObjectAppRoots:
		t.Systems = []admit.Named{{Digest: d, Kind: p.kind}}
	}
	if p.kind != admit.ObjectReferences && p.kind != admit.ObjectCodeSet {
		return
	}
	if p.until.IsZero() { // given again without a time it counts for good
		delete(t.Until, d)
		return
	}
	if t.Until == nil {
		t.Until = map[keystead.Digest]time.Time{}
	}
	t.Until[d] = p.until
}

func with(list []keystead.Digest, d keystead.Digest) []keystead.Digest {
	if !slices.Contains(list, d) {
		list = append(list, d)
		sortDigests(list)
	}
	return list
}

// drop leaves something out, named by its digest or a file with its bytes.
func drop(t *admit.Terms, arg string) error {
	d, err := keystead.ParseDigest(arg)
	if err != nil {
		content, err := cli.ReadFile(arg, client.MaxObject)
		if err != nil {
			return err
		}
		d = keystead.Sum(content)
	}
	before := len(t.Objects())
	for _, list := range []*[]keystead.Digest{&t.References, &t.CodeSets, &t.Collateral} {
		*list = slices.DeleteFunc(*list, func(o keystead.Digest) bool { return o == d })
	}
	t.Systems = slices.DeleteFunc(t.Systems, func(o admit.Named) bool { return o.Digest == d })
	if t.TEERoots == d {
		t.TEERoots = keystead.Digest{}
	}
	delete(t.Until, d)
	if before == len(t.Objects()) {
		return cli.NotFound(fmt.Errorf("the terms for %s name nothing to leave out with the digest %s", t.Role, d), "keystead domain terms show lists what they name")
	}
	return nil
}

func (a *app) termsSet() *cobra.Command {
	var e edit
	e.whole = true
	c := a.termsChange(&e, &cobra.Command{
		Use:   "set ROLE --policy FILE --roots FILE --domain FILE --member FILE",
		Short: "Have the nodes judge a role by these terms, and no others",
		Long: `Hands in the files, has the nodes endorse each that they do not know yet, and then the terms that
name them. What is not given is not in the terms: keystead domain terms edit changes one thing and
keeps the rest. What changes is shown, and who falls out by it, where the --member keys may read
the archive (keystead domain terms plan); then it asks, unless there were no terms or --yes says so.

A reference set that is new wants the recipe that it was built by (keystead refval build --recipe),
for every node to build it again, and the recipe's parts handed in before (keystead domain object
put). --tee and --collateral are for hosts whose TEE speaks alone: collateral that is past its
time keeps them from being renewed (keystead collateral fetch). With --out only the statement of
the terms is written; the objects must be endorsed already.

Nodes do not endorse terms for nodes by which they would fall out themselves (terms-exclude);
--may-exclude says how many of them may, which is never a majority.` + cli.StatementHelp,
		Example: `  keystead domain terms set host --policy strict.txt --roots vendors.pem --codeset boot.signed \
      --domain d.json --member m.key`,
	})
	e.yardstick.add(c)
	return c
}

func (a *app) termsEdit() *cobra.Command {
	var e edit
	c := a.termsChange(&e, &cobra.Command{
		Use:   "edit ROLE --domain FILE --member FILE",
		Short: "Change one thing in the terms of a role, and keep the rest",
		Long: `Makes terms of those in force: a policy and roots are put in the place of theirs, sets are put
beside theirs or left out. A set that is there already is given the time that stands behind it,
or none. What changes is shown, and all else is as with keystead domain terms set.` + cli.StatementHelp,
		Example: `  keystead domain terms edit host --add-codeset build.signed --domain d.json --member m.key
  keystead domain terms edit host --drop boot.signed --domain d.json --member m.key`,
	})
	e.add(c)
	return c
}

// termsChange completes a command that has the nodes judge a role otherwise.
func (a *app) termsChange(e *edit, c *cobra.Command) *cobra.Command {
	var f cli.StatementFlags
	var recipes []string
	var mayExclude uint64
	var yes bool
	c.Args = cli.Arguments("ROLE")
	f.Add(c)
	addMayExclude(c, &mayExclude)
	c.Flags().StringArrayVar(&recipes, "recipe", nil, "recipe `FILE` of each reference set that is given, in their order")
	c.Flags().BoolVar(&yes, "yes", false, "change terms that are in force without asking")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if len(recipes) > 0 && len(recipes) != len(e.refs) {
			return cli.Misuse(fmt.Errorf("%d --recipe for %d reference sets", len(recipes), len(e.refs)), "one each, in the same order")
		}
		if e.whole { // what is wrong with the files is said before a node is asked
			if _, err := e.parts(); err != nil {
				return err
			}
		}
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		old, version, err := termsInForce(ctx, cl, args[0])
		if err != nil && !errors.Is(err, keystead.ReasonTermsMissing) {
			return err
		}
		t, parts, err := e.target(args[0], old)
		if err != nil {
			return err
		}
		for _, p := range parts {
			a.doubtObjects(p.content)
		}
		t.Domain, t.Base, t.MayExclude = cl.Domain(), version, mayExclude
		text, err := t.Text()
		if err != nil {
			return cli.Misuse(err, "")
		}
		changed := old != nil && a.Changes("terms for "+args[0], string(old), string(text))
		if f.Out == "" {
			if changed {
				if ctx, done, err = a.ask(cl, &f, args[0], text, parts, yes); err != nil {
					return err
				}
				defer done()
			}
			if err := a.endorseParts(ctx, cl, &f, args[0], parts, recipes); err != nil {
				return err
			}
		}
		d, err := f.Decide(ctx, cl, admit.TypeTerms, args[0], func(_ keystead.Digest, base uint64) ([]byte, error) {
			if base != t.Base {
				return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectChanged, Where: "terms for " + args[0], Want: fmt.Sprintf("version %d, as was shown", t.Base), Got: fmt.Sprint(base)})
			}
			return text, nil
		})
		if err != nil {
			return err
		}
		return a.Answered(d)
	}
	return c
}

// ask shows who would fall out, as far as the members may know it, and asks. The time that is left for
// all else begins anew once the answer is there.
func (a *app) ask(cl *client.Client, f *cli.StatementFlags, role string, text []byte, parts []part, yes bool) (context.Context, func(), error) {
	ctx, done := context.WithTimeout(context.Background(), f.Timeout)
	err := a.foresee(ctx, cl, f.Members, role, text, parts)
	done()
	if err != nil {
		return nil, nil, err
	}
	if err := a.Confirm("have the nodes judge every "+role+" by these terms from now on", yes); err != nil {
		return nil, nil, err
	}
	ctx, done = context.WithTimeout(context.Background(), f.Timeout)
	return ctx, done, nil
}

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/refval/deb"
	"github.com/keystead/keystead/refval/rpm"
)

// domainObject: bytes that the nodes keep by their digest.
func (a *app) domainObject() *cobra.Command {
	return a.Noun("object", "Policies, reference sets and the like, which nodes keep by their digest",
		`An object is bytes named by their digest, at most 64 MiB. What was handed in is kept for an
hour or so, and for good once an entry that took effect names it.`,
		`  keystead domain object put strict.txt --kind policy --domain d.json --member m.key
  keystead domain object get --domain d.json \
      sha256:48a2684e0e27f568b87e9960a5c6de233e1006b0f0ca0585b24d9de7ee337404`,
		a.objectPut(), a.objectGet(),
	)
}

var objectKinds = []string{admit.ObjectPolicy, admit.ObjectReferences, admit.ObjectCodeSet, admit.ObjectRoots, admit.ObjectCollateral, admit.ObjectTEERoots, admit.ObjectAppRoots}

func (a *app) objectPut() *cobra.Command {
	var f cli.StatementFlags
	var kind, recipe string
	c := &cobra.Command{
		Use:   "put FILE... --domain FILE [--kind KIND --member FILE]",
		Short: "Hand in objects, and have the nodes endorse one",
		Long: `Hands files in to all nodes. With --kind (policy, refset, codeset, roots, collateral,
tee-roots, app-roots) the nodes also judge the one file: that a policy compiles, a code set is
signed by members, roots and collateral parse, and a reference set comes out of its recipe. Terms
can name it then.` + cli.StatementHelp,
		Example: `  keystead domain object put parts/* --domain d.json
  keystead domain object put host.refs --kind refset --recipe host.recipe \
      --domain d.json --member m.key`,
		Args: cobra.MinimumNArgs(1),
	}
	f.Add(c)
	c.Flags().StringVar(&kind, "kind", "", "what the file is: policy, refset, codeset, roots, collateral, tee-roots or app-roots")
	c.Flags().StringVar(&recipe, "recipe", "", "`FILE` with the recipe of a reference set")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if kind != "" && (!slices.Contains(objectKinds, kind) || len(args) != 1) {
			return cli.Misuse(fmt.Errorf("--kind is one of %v, of one file", objectKinds), "")
		}
		if (recipe != "") != (kind == admit.ObjectReferences) {
			return cli.Misuse(errors.New("a reference set wants --recipe, and nothing else does"), "keystead refval build --recipe writes it")
		}
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		type put struct {
			File   string          `json:"file"`
			Digest keystead.Digest `json:"digest"`
		}
		var all []put
		for _, name := range args {
			content, err := cli.ReadFile(name, client.MaxObject)
			if err != nil {
				return err
			}
			if kind != "" {
				d, err := putObject(ctx, cl, &f, part{kind: kind, content: content}, recipe)
				if err != nil {
					return err
				}
				return a.Answer(d, func(w io.Writer) { fmt.Fprintf(w, "%s %s: version %d\n", kind, d.Subject, d.Version) })
			}
			d, err := cl.PutObject(ctx, content)
			if err != nil {
				return err
			}
			all = append(all, put{name, d})
		}
		return a.Answer(map[string]any{"objects": all}, func(w io.Writer) {
			for _, p := range all {
				fmt.Fprintf(w, "%s %s\n", p.Digest, p.File)
			}
		})
	}
	return c
}

// checkRecipe holds a text to the format of recipes that its first line names.
func checkRecipe(text []byte) (err error) {
	if bytes.HasPrefix(text, []byte(rpm.RecipeMagic+"\n")) {
		_, err = rpm.ParseRecipe(text)
	} else {
		_, err = deb.ParseRecipe(text)
	}
	return err
}

// putObject hands an object in and has the nodes endorse it as what it is.
func putObject(ctx context.Context, cl *client.Client, f *cli.StatementFlags, p part, recipe string) (cli.Decided, error) {
	d := keystead.Sum(p.content)
	state, err := cl.State(ctx, []string{admit.TypeObject + "/" + d.String()}, nil)
	if err != nil {
		return cli.Decided{}, err
	}
	if is := string(state.GetValues()[0].GetValue()); is != "" && is != p.kind { // terms that name it would lose it
		return cli.Decided{}, cli.Misuse(fmt.Errorf("%s is endorsed as a %s, and can not become a %s", d, is, p.kind), "")
	}
	var from []admit.Ingredient
	if p.kind == admit.ObjectReferences {
		if recipe == "" {
			return cli.Decided{}, cli.Misuse(errors.New("a reference set that the nodes do not know wants its recipe"), "keystead refval build --recipe writes it; --recipe names it here")
		}
		text, err := cli.ReadFile(recipe, deb.MaxRecipe)
		if err != nil {
			return cli.Decided{}, err
		}
		if err := checkRecipe(text); err != nil {
			return cli.Decided{}, cli.Misuse(fmt.Errorf("%s: %w", recipe, err), "")
		}
		d, err := cl.PutObject(ctx, text)
		if err != nil {
			return cli.Decided{}, err
		}
		from = []admit.Ingredient{{Role: admit.IngredientRecipe, Digest: d}}
	}
	if d, err = cl.PutObject(ctx, p.content); err != nil {
		return cli.Decided{}, err
	}
	return f.Decide(ctx, cl, admit.TypeObject, d.String(), func(domain keystead.Digest, base uint64) ([]byte, error) {
		return (&admit.Object{Domain: domain, Digest: d, Base: base, Kind: p.kind, Recipe: from}).Text()
	})
}

func (a *app) objectGet() *cobra.Command {
	var f cli.ClientFlags
	var out string
	c := &cobra.Command{
		Use:   "get DIGEST --domain FILE",
		Short: "Fetch an object",
		Long:  `Fetches an object from a node that has it, and holds it to its digest.`,
		Example: `  keystead domain object get --domain d.json \
      sha256:48a2684e0e27f568b87e9960a5c6de233e1006b0f0ca0585b24d9de7ee337404`,
		Args: cli.Arguments("DIGEST"),
	}
	f.Add(c)
	c.Flags().StringVar(&out, "out", "", "write it to a new `FILE` in place of standard output")
	c.RunE = func(_ *cobra.Command, args []string) error {
		d, err := keystead.ParseDigest(args[0])
		if err != nil {
			return cli.Misuse(err, "")
		}
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		content, err := cl.GetObject(ctx, d)
		if errors.Is(err, keystead.ReasonObjectMissing) {
			return cli.NotFound(err, "")
		}
		if err != nil {
			return err
		}
		if out != "" {
			if err := cli.CreateFile(out, content, 0o644); err != nil {
				return err
			}
			return a.Answer(map[string]any{"digest": d, "file": out}, func(w io.Writer) { fmt.Fprintln(w, out) })
		}
		return a.Answer(cli.Members{{Name: "digest", Value: d}, {Name: "content", Value: hex.EncodeToString(content)}}, func(w io.Writer) { w.Write(content) })
	}
	return c
}

// objectsBeside is the directory of founding objects beside a domain file.
func objectsBeside(file string) string { return filepath.Join(filepath.Dir(file), "objects") }

// writeObjects puts founding objects beside a domain file, under their digests.
func writeObjects(dir string, objects [][]byte) error {
	if len(objects) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return cli.Misuse(err, "")
	}
	for _, o := range objects {
		name := filepath.Join(dir, objectName(keystead.Sum(o)))
		if old, err := os.ReadFile(name); err == nil && keystead.Sum(old) == keystead.Sum(o) {
			continue
		}
		if err := cli.CreateFile(name, o, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// objectName is a digest's bare hex.
func objectName(d keystead.Digest) string { return d.String()[len("sha256:"):] }

// readObjects reads the objects beside a domain file: those that are what their names
// say.
func readObjects(dir string) (objects [][]byte, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, cli.Misuse(err, "")
	}
	for _, e := range entries {
		b, err := cli.ReadFile(filepath.Join(dir, e.Name()), client.MaxObject)
		if err != nil {
			return nil, err
		}
		if objectName(keystead.Sum(b)) == e.Name() {
			objects = append(objects, b)
		}
	}
	return objects, nil
}

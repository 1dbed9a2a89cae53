package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/fetch"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// refval: what files a machine's packages are made of.
func (a *app) refval() *cobra.Command {
	return a.noun("refval", "Build and show reference sets: the digests of packages' files",
		`A reference set names every file of a list of packages by its digest. It is built from the
repositories' signed indexes and the packages themselves; the host's own list counts as names and
versions only.`,
		`  keystead refval build --out host.refs
  keystead refval show host.refs`,
		a.refvalBuild(),
		a.refvalShow(),
	)
}

func (a *app) refvalBuild() *cobra.Command {
	var out, bundle, status, root, keyring, cache string
	var offline, fresh, executable bool
	c := &cobra.Command{
		Use:   "build --out FILE",
		Short: "Build the reference set of a package list",
		Long: `Takes the package list of this machine, of a host's bundle (--bundle) or of a file (--status), verifies
the repositories' InRelease files by their keyrings, then index, package and every file's digest.
Packages that no signed index offers in that version are named and left out. What was unpacked
once is kept in the user's cache.`,
		Example: `  keystead refval build --out host.refs
  keystead refval build --bundle host.bundle --out host.refs`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "`FILE` for the set")
	f.StringVar(&bundle, "bundle", "", "take the list out of this bundle `FILE`")
	f.StringVar(&status, "status", "", "take the list from this dpkg status `FILE`")
	f.StringVar(&root, "root", "/", "`DIR` below which apt's sources, keys and lists are")
	f.StringVar(&keyring, "keyring", "", "accept this keyring `FILE` only, in place of those of apt's sources")
	f.StringVar(&cache, "cache", "", "`DIR` to keep indexes and digests (default: keystead in the user's cache)")
	f.BoolVar(&offline, "offline", false, "use what apt and the cache have")
	f.BoolVar(&fresh, "fresh", false, "fetch indexes anew, whatever apt has")
	f.BoolVar(&executable, "executable", false, "take only what can be executed or mapped")
	must(c.MarkFlagRequired("out"))
	c.MarkFlagsMutuallyExclusive("bundle", "status")
	c.RunE = func(c *cobra.Command, _ []string) error {
		list, err := packageList(bundle, status, root)
		if err != nil {
			return err
		}
		o := fetch.Options{Root: root, Cache: cache, Offline: offline, Fresh: fresh}
		if o.Packages, err = deb.ParseStatus(list); err != nil {
			return err
		}
		if executable {
			o.Selection = refval.SelectExecutable
		}
		if keyring != "" {
			if o.Keyring, err = readFile(keyring, 16<<20); err != nil {
				return err
			}
		}
		p := a.progress(fmt.Sprintf("Proving %d packages", len(o.Packages)))
		o.Progress = func(step fetch.Progress) { p.Set(int64(step.Done), int64(step.Total)) }
		result, err := fetch.Build(c.Context(), o)
		p.Close()
		if err != nil {
			return err
		}
		for _, s := range result.Skipped {
			fmt.Fprintf(a.stderr, "keystead: skipped %s: %s\n", printable(s.Source.String()), printable(s.Err.Error()))
		}
		if err := os.WriteFile(out, result.Set.Bytes(), 0o644); err != nil {
			return misuse(err, "")
		}
		d := describeSet(result.Set)
		return a.answer(d, d.print)
	}
	return c
}

// packageList reads a dpkg status from where the flags say.
func packageList(bundle, status, root string) ([]byte, error) {
	if bundle == "" {
		if status == "" {
			status = filepath.Join(root, "var/lib/dpkg/status")
		}
		return readFile(status, evidence.MaxPackages)
	}
	raw, err := readFile(bundle, evidence.MaxBundle)
	if err != nil {
		return nil, err
	}
	b, err := evidence.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bundle, err)
	}
	list := b.Parts().Packages
	if list == nil || list.Format != evidence.FormatDpkgStatus {
		return nil, misuse(errors.New(bundle+" holds no dpkg status"), "keystead evidence collect --explain on the host says why")
	}
	return list.Data, nil
}

// setDescription is what refval show says of a set.
type setDescription struct {
	Digest keystead.Digest `json:"digest"`
	Files  int             `json:"files"`
	refval.Header
}

func describeSet(s *refval.Set) setDescription {
	return setDescription{s.Digest(), s.Len(), s.Header()}
}

func (d setDescription) print(w io.Writer) {
	fmt.Fprintf(w, "set:      %s\nfiles:    %d (%s) of %d packages\n", d.Digest, d.Files, d.Selection, len(d.Packages))
	for _, r := range d.Repositories {
		until := "no end stated"
		if r.ValidUntil != 0 {
			until = "valid until " + time.Unix(r.ValidUntil, 0).UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "index:    %s %s of %s, %s; signed by %s\n", r.Origin, r.Suite, time.Unix(r.Date, 0).UTC().Format(time.RFC3339), until, strings.Join(r.Signers, " "))
	}
	for _, m := range d.Missing {
		fmt.Fprintf(w, "missing:  %s=%s:%s: %s\n", printable(m.Name), printable(m.Version), printable(m.Architecture), printable(m.Problem))
	}
}

func (a *app) refvalShow() *cobra.Command {
	var packages bool
	var path, digest string
	c := &cobra.Command{
		Use:   "show SET",
		Short: "Show what a reference set was built from, or who owns a path or a digest",
		Long: `Prints the repositories and packages of a set. With --path or --digest it says which package
wants what there.`,
		Example: `  keystead refval show host.refs
  keystead refval show --path /usr/bin/bash host.refs`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&packages, "packages", false, "list the packages")
	c.Flags().StringVar(&path, "path", "", "who owns this `PATH`")
	c.Flags().StringVar(&digest, "digest", "", "which files have this `DIGEST` (sha256:…)")
	c.RunE = func(_ *cobra.Command, args []string) error {
		s, err := readSet(args[0])
		if err != nil {
			return err
		}
		if path != "" || digest != "" {
			return a.showRefs(s, path, digest)
		}
		d := describeSet(s)
		return a.answer(d, func(w io.Writer) {
			d.print(w)
			if packages {
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				for _, p := range d.Packages {
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Version, p.Architecture, p.Strength, p.Digest)
				}
				tw.Flush()
			}
		})
	}
	return c
}

func (a *app) showRefs(s *refval.Set, path, digest string) error {
	var refs []refval.Ref
	if path != "" {
		refs, _ = s.Path(path)
	}
	if digest != "" {
		d, err := keystead.ParseDigest(digest)
		if err != nil {
			return misuse(err, "")
		}
		for source := range s.Sources(d) {
			refs = append(refs, refval.Ref{Digest: d, Source: source})
		}
	}
	return a.answer(refs, func(w io.Writer) {
		for _, r := range refs {
			fmt.Fprintf(w, "%s %s %s=%s:%s (%s)\n", r.Digest, r.Source.Path, r.Source.Package, r.Source.Version, r.Source.Architecture, r.Source.Strength)
		}
		if len(refs) == 0 {
			fmt.Fprintln(w, "no package of this set")
		}
	})
}

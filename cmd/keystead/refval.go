package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/fetch"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// refval: what files a machine's packages are made of.
func (a *app) refval() *cobra.Command {
	return a.Noun("refval", "Build and show reference sets: the digests of packages' files",
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
	var out, bundle, status, root, keyring, cache, recipe, parts, codeset string
	var repositories []string
	var offline, fresh, executable, efi, complete bool
	c := &cobra.Command{
		Use:   "build --out FILE",
		Short: "Build the reference set of a package list",
		Long: `Takes the package list of this machine, of a host's bundle (--bundle) or of a file (--status),
verifies the repositories' InRelease files by their keyrings, then index, package and every file's
digest. Packages that no signed index offers in that version are named in the set as missing; with
--complete, and if no package at all could be proved, nothing is written and the exit status is 3.
It needs no root. What was unpacked once is kept in the user's cache, so a build that was
interrupted goes on where it was. FILE is replaced at the end, whole.

With --codeset, only the vendors of that code set may sign, each for its own packages. An rpm
host's list holds its packages' signed headers, and the set is made of those that a vendor signed.
An Alpine host's set is built from --repository. Of both, a code set has to name the vendors.`,
		Example: `  keystead refval build --out host.refs
  keystead refval build --bundle host.bundle --executable --complete --out host.refs`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "`FILE` for the set")
	f.StringVar(&bundle, "bundle", "", "take the list out of this bundle `FILE`")
	f.StringVar(&status, "status", "", "take the list from this dpkg status `FILE`")
	f.StringVar(&root, "root", "/", "`DIR` below which apt's sources, keys and lists are")
	f.StringVar(&keyring, "keyring", "", "accept this keyring `FILE` only, in place of those of apt's sources")
	f.StringVar(&cache, "cache", "", "`DIR` to keep indexes and digests (default: ~/.cache/keystead)")
	f.StringVar(&recipe, "recipe", "", "write what the set was built of to this new `FILE`, for others to build it again")
	f.StringVar(&parts, "parts", "", "with --recipe: `DIR` for the bytes that the recipe names")
	f.StringVar(&codeset, "codeset", "", "accept the vendors of this code set `FILE` only, for their own packages")
	f.StringArrayVar(&repositories, "repository", nil, "Alpine: `ADDRESS` of a directory with APKINDEX.tar.gz; may be repeated")
	f.BoolVar(&offline, "offline", false, "use what apt and the cache have")
	f.BoolVar(&fresh, "fresh", false, "fetch indexes anew, whatever apt has")
	f.BoolVar(&executable, "executable", false, "take only what can be executed or mapped")
	f.BoolVar(&efi, "efi", false, "take EFI programs and initrds, as registers of SHA-256 and SHA-384 have them; no files")
	f.BoolVar(&complete, "complete", false, "refuse to leave out packages")
	cli.Must(c.MarkFlagRequired("out"))
	c.MarkFlagsMutuallyExclusive("bundle", "status")
	c.MarkFlagsMutuallyExclusive("executable", "efi")
	c.MarkFlagsRequiredTogether("recipe", "parts")
	c.MarkFlagsMutuallyExclusive("recipe", "codeset") // who rebuilds a recipe knows no code set
	c.MarkFlagsMutuallyExclusive("keyring", "codeset")
	c.RunE = func(c *cobra.Command, _ []string) error {
		list, err := packageList(bundle, status, root)
		if err != nil {
			return err
		}
		o := fetch.Options{Root: root, Cache: cache, Offline: offline, Fresh: fresh}
		if o.Vendors, err = readVendors(codeset); err != nil {
			return err
		}
		switch {
		case executable:
			o.Selection = refval.SelectExecutable
		case efi:
			o.Selection = refval.SelectBoot
		}
		if list.Format != evidence.FormatDpkgStatus {
			if efi || keyring != "" || recipe != "" {
				return cli.Misuse(errors.New("--efi, --keyring and --recipe are of Debian's packages"), "--codeset names who may sign others")
			}
			return a.writeOther(c.Context(), out, func(ctx context.Context) (*refval.Set, error) {
				return a.buildOther(ctx, list, o.Vendors, cmp.Or(o.Selection, refval.SelectAll), repositories, complete)
			})
		}
		if o.Packages, err = deb.ParseStatus(list.Data); err != nil {
			return err
		}
		if len(o.Packages) == 0 {
			return cli.Misuse(errors.New("the package list names no installed package"), "a dpkg status file is wanted, such as /var/lib/dpkg/status")
		}
		if keyring != "" {
			if o.Keyring, err = cli.ReadFile(keyring, 16<<20); err != nil {
				return err
			}
		}
		if recipe != "" {
			o.Keep = func(piece []byte) error { return writeObjects(parts, [][]byte{piece}) }
		}
		ctx, stop := cli.Interruptible(c.Context())
		defer stop()
		file, err := cli.OpenOutput(out)
		if err != nil {
			return err
		}
		defer file.Discard()
		result, err := a.buildSet(ctx, o, complete)
		if err != nil {
			return err
		}
		if recipe != "" {
			if err := cli.CreateFile(recipe, result.Recipe.Text(), 0o644); err != nil {
				return err
			}
		}
		if err := file.Commit(result.Set.Bytes(), 0o644); err != nil {
			return err
		}
		d := describeSet(result.Set)
		return a.Answer(d, func(w io.Writer) { d.print(w, false) })
	}
	return c
}

// buildSet builds with progress, tells what was skipped, and refuses a set that
// proves nothing.
func (a *app) buildSet(ctx context.Context, o fetch.Options, complete bool) (*fetch.Result, error) {
	var p *cli.Progress
	var stage string
	o.Progress = func(step fetch.Progress) {
		if step.Stage != stage {
			p.Close()
			stage = step.Stage
			p = a.Progress(map[string]string{"indexes": "Verifying indexes", "packages": "Proving packages"}[stage])
		}
		p.Set(int64(step.Done), int64(step.Total))
	}
	result, err := fetch.Build(ctx, o)
	p.Close()
	switch path := (*fs.PathError)(nil); {
	case errors.Is(err, context.Canceled):
		return nil, cli.Hinted(err, "nothing was written; what was proved is in the cache, and the next build goes on from there")
	case errors.As(err, &path):
		return nil, cli.Misuse(err, "--cache names a directory to write, --root the place of apt's files")
	case err != nil:
		return nil, err
	}
	var skipped []error
	for _, s := range result.Skipped {
		skipped = append(skipped, fmt.Errorf("%s: %w", s.Source, s.Err))
	}
	h := result.Set.Header()
	if len(h.Repositories) > 0 {
		for _, err := range skipped {
			fmt.Fprintf(a.Stderr, "keystead: skipped %s\n", cli.Printable(err.Error()))
		}
	}
	switch deny := (*keystead.DenyError)(nil); {
	case len(h.Repositories) == 0 && skipped == nil:
		return nil, cli.Misuse(errors.New("apt has no sources below "+o.Root), "--root names the place of apt's files")
	case len(h.Repositories) == 0 && errors.As(errors.Join(skipped...), &deny):
		return nil, cli.Hinted(deny, "no repository's index could be verified; apt-get update fetches new ones, --fresh passes apt's over")
	case len(h.Repositories) == 0:
		return nil, cli.Unavailable(fmt.Errorf("no repository could be reached: %w", skipped[0]), "check the network and apt's sources; --offline uses what apt and the cache have")
	case !o.Offline && unreached(result) != nil:
		return nil, cli.Unavailable(fmt.Errorf("%d of %d packages are not proved: %w", len(h.Missing), len(o.Packages), unreached(result)),
			"nothing was written; what was proved is in the cache, and the next build goes on from there. --offline makes a set of what is here")
	case len(h.Missing) > 0 && (complete || len(h.Packages) == 0):
		var findings []keystead.Finding
		for _, m := range h.Missing {
			findings = append(findings, m.Finding())
		}
		hint := "nothing was written; apt-get update and upgrade on the host, and collect again"
		if len(h.Packages) > 0 {
			hint += "; without --complete these packages are left out"
		}
		return nil, cli.Hinted(keystead.Deny(findings...), hint)
	}
	return result, nil
}

// unreached returns why packages may be missing that another attempt would find: a file
// that could not be fetched, or a source that could not be reached.
func unreached(r *fetch.Result) error {
	if len(r.Unfetched) > 0 {
		return fmt.Errorf("%s: %w", r.Unfetched[0].Package, r.Unfetched[0].Err)
	}
	for _, s := range r.Skipped {
		if len(r.Set.Header().Missing) > 0 && !errors.As(s.Err, new(*keystead.DenyError)) {
			return fmt.Errorf("%s: %w", s.Source, s.Err)
		}
	}
	return nil
}

// writeOther writes the set that build makes.
func (a *app) writeOther(ctx context.Context, out string, build func(ctx context.Context) (*refval.Set, error)) error {
	ctx, stop := cli.Interruptible(ctx)
	defer stop()
	file, err := cli.OpenOutput(out)
	if err != nil {
		return err
	}
	defer file.Discard()
	set, err := build(ctx)
	if err != nil {
		return err
	}
	if err := file.Commit(set.Bytes(), 0o644); err != nil {
		return err
	}
	d := describeSet(set)
	return a.Answer(d, func(w io.Writer) { d.print(w, false) })
}

// packageList reads a package list from where the flags say: a dpkg status, a bundle's
// list, or what the machine has.
func packageList(bundle, status, root string) (*evidence.PackageList, error) {
	switch {
	case status != "":
		data, err := cli.ReadFile(status, evidence.MaxPackages)
		return &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: data}, err
	case bundle == "":
		list, sights, err := collect.Machine{Root: root}.Packages()
		if err == nil && list == nil {
			err = cli.Misuse(fmt.Errorf("no package list: %s %s", sights[0].Where, sights[0].Detail), "--root names the place of a machine's files")
		}
		return list, err
	}
	raw, err := cli.ReadFile(bundle, evidence.MaxBundle)
	if err != nil {
		return nil, err
	}
	b, err := evidence.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bundle, err)
	}
	list := b.Parts().Packages
	if list == nil {
		return nil, cli.Misuse(errors.New(bundle+" holds no package list"), "keystead evidence collect --explain on the host says why")
	}
	return list, nil
}

// setDescription is what refval show says of a set.
type setDescription struct {
	Digest keystead.Digest `json:"digest"`
	Files  int             `json:"files"`
	refval.Header
	Repositories []shownRepository `json:"repositories"` // in place of the header's
}

// shownRepository is a refval.Repository with its times in milliseconds.
type shownRepository struct {
	Origin     string          `json:"origin"`
	Suite      string          `json:"suite"`
	Codename   string          `json:"codename"`
	Release    keystead.Digest `json:"release"`
	Date       cli.Milli       `json:"date_ms"`
	ValidUntil cli.Milli       `json:"valid_until_ms,omitzero"` // zero: no end stated
	Signers    []string        `json:"signers"`
}

func describeSet(s *refval.Set) setDescription {
	d := setDescription{s.Digest(), s.Len(), s.Header(), []shownRepository{}}
	for _, r := range d.Header.Repositories {
		x := shownRepository{r.Origin, r.Suite, r.Codename, r.Release, cli.Milli{Time: time.Unix(r.Date, 0)}, cli.Milli{}, r.Signers}
		if r.ValidUntil != 0 {
			x.ValidUntil = cli.Milli{Time: time.Unix(r.ValidUntil, 0)}
		}
		d.Repositories = append(d.Repositories, x)
	}
	return d
}

// fewMissing is how many missing packages are listed where the list was not asked for.
const fewMissing = 10

func (d setDescription) print(w io.Writer, all bool) {
	fmt.Fprintf(w, "set:      %s\nfiles:    %d (%s) of %d packages\n", d.Digest, d.Files, d.Selection, len(d.Packages))
	for _, r := range d.Repositories {
		until := "no end stated"
		if !r.ValidUntil.IsZero() {
			until = "valid until " + r.ValidUntil.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "index:    %s %s of %s, %s; signed by %s\n", r.Origin, r.Suite, r.Date.UTC().Format(time.RFC3339), until, strings.Join(r.Signers, " "))
	}
	for i, m := range d.Missing {
		if i == fewMissing && !all {
			fmt.Fprintf(w, "missing:  and %d more; refval show --packages lists all\n", len(d.Missing)-i)
			break
		}
		fmt.Fprintf(w, "missing:  %s=%s:%s: %s\n", cli.Printable(m.Name), cli.Printable(m.Version), cli.Printable(m.Architecture), cli.Printable(m.Problem))
	}
}

func (a *app) refvalShow() *cobra.Command {
	var packages bool
	var path, digest string
	c := &cobra.Command{
		Use:   "show SET",
		Short: "Show what a reference set was built from, or who owns a path or a digest",
		Long: `Prints the repositories and packages of a set. With --path or --digest it says which package
wants what there. Reference sets carry no signature: keep them where you built them.`,
		Example: `  keystead refval show host.refs
  keystead refval show --path /usr/bin/bash host.refs`,
		Args: cli.Arguments("SET"),
	}
	c.Flags().BoolVar(&packages, "packages", false, "list the packages, and all that are missing")
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
		return a.Answer(d, func(w io.Writer) {
			d.print(w, packages)
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
	refs := []refval.Ref{}
	if path != "" {
		found, _ := s.Path(path)
		refs = append(refs, found...)
	}
	if digest != "" {
		d, err := keystead.ParseDigest(digest)
		if err != nil {
			return cli.Misuse(err, "")
		}
		for source := range s.Sources(d) {
			refs = append(refs, refval.Ref{Digest: d, Source: source})
		}
	}
	if len(refs) == 0 {
		return cli.NotFound(errors.New("no package of this set has that path or digest"), "")
	}
	answer := make([]cli.Members, len(refs))
	for i, r := range refs {
		answer[i] = cli.Members{{Name: "digest", Value: r.Digest}, {Name: "path", Value: r.Source.Path}, {Name: "package", Value: r.Source.Package}, {Name: "version", Value: r.Source.Version},
			{Name: "architecture", Value: r.Source.Architecture}, {Name: "origin", Value: r.Source.Origin}, {Name: "strength", Value: r.Source.Strength}}
	}
	return a.Answer(answer, func(w io.Writer) {
		for _, r := range refs {
			fmt.Fprintf(w, "%s %s %s=%s:%s (%s)\n", r.Digest, r.Source.Path, r.Source.Package, r.Source.Version, r.Source.Architecture, r.Source.Strength)
		}
	})
}

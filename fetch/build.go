package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// Build makes the reference set of the packages. The same packages and repository
// files give the same bytes. A package that no signed index offers in that version,
// or whose file can not be had, is named in the set's header as missing. A file that
// differs from its signed index, or does not unpack, fails the build with
// index-mismatch or package-corrupt.
func Build(ctx context.Context, o Options) (*Result, error) {
	o.At = cmp.Or(o.At, time.Now())
	o.Root = cmp.Or(o.Root, "/")
	o.Selection = cmp.Or(o.Selection, refval.SelectAll)
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0)+2) // two to wait for the network
	c, err := openCache(o.Cache)
	if err != nil {
		return nil, err
	}
	if o.Sources == nil {
		if o.Sources, err = Sources(o.Root); err != nil {
			return nil, err
		}
	}
	f := &fetcher{Options: o, cache: c, net: newTransport()}
	repositories, skipped := f.openAll(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	offers := offers(repositories)
	set, err := f.build(ctx, repositories, offers)
	if err != nil {
		return nil, err
	}
	out := &Result{Set: set, Skipped: skipped}
	for _, o := range offers {
		if o.problem != nil {
			out.Unfetched = append(out.Unfetched, Unfetched{o.Name, o.problem})
		}
	}
	slices.SortFunc(out.Unfetched, func(a, b Unfetched) int { return strings.Compare(a.Package.String(), b.Package.String()) })
	if f.Keep != nil {
		out.Recipe = f.recipe(repositories, offers)
	}
	return out, nil
}

// maxDeb bounds a package file, in bytes; it is held in memory.
const maxDeb = 4 << 30

type fetcher struct {
	Options
	cache cache
	net   *transport
	mu    sync.Mutex
	done  int
}

func (f *fetcher) step(stage string, total int, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done++
	if f.Progress != nil {
		f.Progress(Progress{stage, f.done, total, name})
	}
}

// each runs do for 0 to n-1, several at once, and returns when all are done.
func (f *fetcher) each(n int, do func(i int)) {
	f.done = 0
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(f.Workers, n) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func (f *fetcher) openAll(ctx context.Context) (opened []*repository, skipped []Skipped) {
	var architectures []string
	wanted := map[deb.Name]bool{}
	for _, p := range f.Packages {
		wanted[p] = true
		if p.Architecture != "all" && !slices.Contains(architectures, p.Architecture) {
			architectures = append(architectures, p.Architecture)
		}
	}
	found := make([]*repository, len(f.Sources))
	problems := make([]error, len(f.Sources))
	f.each(len(f.Sources), func(i int) {
		found[i], problems[i] = f.open(ctx, f.Sources[i], architectures, wanted)
		f.step("indexes", len(f.Sources), f.Sources[i].String())
	})
	for i, err := range problems {
		if err != nil {
			skipped = append(skipped, Skipped{f.Sources[i], err})
		} else {
			opened = append(opened, found[i])
		}
	}
	return opened, skipped
}

// offer is a package file that one or several repositories have.
type offer struct {
	deb.Package
	from    []*repository
	files   []deb.File
	pieces  deb.Pieces // of the file, if it is kept
	problem error
}

// offers gathers what the repositories have, by name and file digest.
func offers(repositories []*repository) (out []*offer) {
	type id struct {
		deb.Name
		keystead.Digest
	}
	found := map[id]*offer{}
	for _, r := range repositories {
		for _, p := range r.packages {
			key := id{p.Name, p.Digest}
			if found[key] == nil {
				found[key] = &offer{Package: p}
				out = append(out, found[key])
			}
			if from := &found[key].from; !slices.Contains(*from, r) {
				*from = append(*from, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b *offer) int { // the largest first, so that none is waited for at the end
		return cmp.Or(cmp.Compare(b.Size, a.Size), bytes.Compare(a.Digest[:], b.Digest[:]))
	})
	return out
}

func (f *fetcher) build(ctx context.Context, repositories []*repository, offers []*offer) (*refval.Set, error) {
	f.each(len(offers), func(i int) {
		if offers[i].problem = ctx.Err(); offers[i].problem != nil {
			return
		}
		offers[i].files, offers[i].problem = f.files(ctx, offers[i])
		f.step("packages", len(offers), offers[i].Name.String())
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := refval.NewBuilder(f.Selection)
	for _, r := range repositories {
		b.AddRepository(r.release.Repository())
	}
	for _, n := range f.Packages {
		if !slices.ContainsFunc(offers, func(o *offer) bool { return o.Name == n }) {
			b.AddMissing(missing(n, "no signed index offers this version"))
		}
	}
	var denied []keystead.Finding
	for _, o := range offers {
		var deny *keystead.DenyError
		switch {
		case errors.As(o.problem, &deny):
			denied = append(denied, deny.Findings...)
		case o.problem != nil && f.Keep != nil:
			return nil, o.problem
		case o.problem != nil:
			// The reason differs from one attempt to the next: keep it out of the set's bytes.
			b.AddMissing(missing(o.Name, "its file could not be had"))
		default:
			if err := b.Add(o.reference(), o.repositories(), deb.Select(o.files, f.Selection)); err != nil {
				return nil, err
			}
		}
	}
	if denied != nil {
		return nil, keystead.Deny(denied...)
	}
	return b.Set()
}

func missing(n deb.Name, problem string) refval.Missing {
	return refval.Missing{Name: n.Package, Version: n.Version, Architecture: n.Architecture, Problem: problem}
}

func (o *offer) reference() refval.Package {
	return refval.Package{Name: o.Name.Package, Version: o.Version, Architecture: o.Architecture, Digest: o.Digest, Strength: refval.StrengthRepositoryRehash}
}

func (o *offer) repositories() (out []refval.Repository) {
	for _, r := range o.from {
		out = append(out, r.release.Repository())
	}
	return out
}

// files returns the digests of a package's files: from the cache, else from the
// .deb in apt's archives or in a repository that offers it.
func (f *fetcher) files(ctx context.Context, o *offer) ([]deb.File, error) {
	if f.Keep == nil { // else the file itself is wanted
		if files, err := f.cache.files(o.Digest); err == nil {
			return files, nil
		}
	}
	archive := fmt.Sprintf("%s_%s_%s.deb", o.Name.Package, strings.ReplaceAll(o.Version, ":", "%3a"), o.Architecture)
	if raw, err := readFile(filepath.Join(f.Root, "/var/cache/apt/archives", archive), min(o.Size, maxDeb)); err == nil {
		if files, err := f.unpack(raw, o); err == nil {
			return files, nil
		}
	}
	problem := error(errors.New("the network is not to be used"))
	for _, r := range o.from {
		address := r.source.address(o.Filename)
		if f.Offline && !strings.HasPrefix(address, "file:") {
			continue
		}
		raw, err := f.download(ctx, address, min(o.Size, maxDeb))
		if err == nil {
			var files []deb.File
			if files, err = f.unpack(raw, o); err == nil {
				return files, nil
			}
		}
		problem = err
	}
	return nil, problem
}

func (f *fetcher) unpack(raw []byte, o *offer) ([]deb.File, error) {
	files, err := deb.Unpack(raw, o.Package, deb.DefaultLimits)
	if err != nil {
		return nil, err
	}
	if o.pieces, err = f.keep(raw); err != nil {
		return nil, err
	}
	return files, f.cache.writeFiles(o.Digest, files)
}

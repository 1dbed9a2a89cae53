package fetch

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// installed returns this machine's own packages of the names.
func installed(t testing.TB, names ...string) (out []deb.Name) {
	t.Helper()
	all, err := Installed("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if slices.Contains(names, n.Package) {
			out = append(out, n)
		}
	}
	if len(out) != len(names) {
		t.Fatalf("of %v this machine has %v", names, out)
	}
	return out
}

// debianSources are those of this machine's sources that are Debian's.
func debianSources(t testing.TB) (out []Source) {
	t.Helper()
	all, err := Sources("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if strings.Contains(s.URI, "debian") {
			out = append(out, s)
		}
	}
	return out
}

// The whole chain on this machine's own packages: every regular file that the set
// names lies on disk with that digest, but for configuration, which may be edited.
func TestRealPackages(t *testing.T) {
	o := Options{Packages: installed(t, "dash", "grep", "gzip", "hostname", "libc6", "mount", "sed", "tar"), Sources: debianSources(t), Cache: t.TempDir()}
	got, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range got.Skipped {
		t.Errorf("skipped %v: %v", s.Source, s.Err)
	}
	h := got.Set.Header()
	if len(h.Packages) < 3 || len(h.Packages)+len(h.Missing) != len(o.Packages) { // what left the index is missing, by name
		t.Fatalf("%d packages, missing %v", len(h.Packages), h.Missing)
	}
	same := 0
	for i := range got.Set.Len() {
		r := got.Set.Ref(i)
		if strings.HasPrefix(r.Source.Path, "/etc/") {
			continue
		}
		if d := onDisk(t, r.Source.Path); d != r.Digest {
			t.Errorf("%s of %s: on disk %v, in the set %v", r.Source.Path, r.Source.Package, d, r.Digest)
		}
		same++
	}
	t.Logf("%d files of %d packages equal those on disk", same, len(h.Packages))

	o.Offline = true
	o.Progress = func(p Progress) { t.Logf("%s %d/%d %s", p.Stage, p.Done, p.Total, p.Name) }
	again, err := Build(context.Background(), o)
	if err != nil || again.Set.Digest() != got.Set.Digest() {
		t.Errorf("again, from the cache: %v", err)
	}
	o.Selection, o.Progress = refval.SelectExecutable, nil
	some, err := Build(context.Background(), o)
	if err != nil || some.Set.Len() >= got.Set.Len() {
		t.Fatalf("executable files alone: %v", err)
	}
	if src, ok := some.Set.Lookup(onDisk(t, "/bin/dash")); !ok || src.Package != "dash" {
		t.Errorf("/bin/dash is of %+v", src)
	}
}

func onDisk(t *testing.T, path string) (d keystead.Digest) {
	t.Helper()
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Error(err)
		return d
	}
	f, err := os.Open(real)
	if err != nil {
		t.Error(err)
		return d
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Error(err)
	}
	h.Sum(d[:0])
	return d
}

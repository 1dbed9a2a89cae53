package fetch

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func tool(name, version, content string) debrepo.Package {
	return debrepo.Package{Name: name, Version: version, Architecture: "amd64", Deb: debrepo.Deb(".gz",
		tar.Header{Name: "./usr/bin/" + name, Typeflag: tar.TypeReg, Mode: 0o755, Uname: content},
		tar.Header{Name: "./usr/share/doc/" + name, Typeflag: tar.TypeReg, Mode: 0o644, Uname: "about " + name})}
}

// bed is a repository behind a server on loopback, and a root that is set up to use it.
type bed struct {
	t        *testing.T
	signer   *debrepo.Signer
	repo     debrepo.Repository
	server   *httptest.Server
	root     string
	mu       sync.Mutex
	files    map[string][]byte
	requests []string
	handle   func(w http.ResponseWriter, r *http.Request) bool // answers instead of the files when it returns true
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, signer: debrepo.NewSigner("vendor", noon.Add(-time.Hour), 0), root: t.TempDir()}
	b.repo = debrepo.Repository{Suite: "stable", Date: noon, ValidUntil: noon.Add(7 * 24 * time.Hour), Signers: []*debrepo.Signer{b.signer},
		Packages: []debrepo.Package{tool("hello", "1.0", "hello 1"), tool("world", "1:2.0", "world 2")}}
	b.publish()
	b.server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.server.Close)
	b.write("/etc/apt/sources.list.d/test.sources", fmt.Appendf(nil, "Types: deb\nURIs: %s/debian\nSuites: stable\nComponents: main\nTrusted: yes\nSigned-By: /usr/share/keyrings/test.gpg\n", b.server.URL))
	b.write("/usr/share/keyrings/test.gpg", b.signer.Public())
	return b
}

func (b *bed) publish() { b.files = b.repo.Files() }

func (b *bed) write(name string, content []byte) {
	b.t.Helper()
	name = filepath.Join(b.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o644)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests = append(b.requests, r.URL.Path)
	if b.handle != nil && b.handle(w, r) {
		return
	}
	if content, ok := b.files[strings.TrimPrefix(r.URL.Path, "/debian/")]; ok {
		w.Write(content)
	} else {
		http.NotFound(w, r)
	}
}

func (b *bed) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.requests)
}

func (b *bed) options(names ...string) Options {
	o := Options{Root: b.root, Cache: filepath.Join(b.root, "cache"), At: noon.Add(time.Hour)}
	for _, n := range names {
		name, version, _ := strings.Cut(n, "=")
		o.Packages = append(o.Packages, deb.Name{Package: name, Version: version, Architecture: "amd64"})
	}
	return o
}

func (b *bed) build(o Options) *Result {
	b.t.Helper()
	r, err := Build(context.Background(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func digestOf(s string) keystead.Digest { return keystead.Sum([]byte(s)) }

func TestBuild(t *testing.T) {
	b := newBed(t)
	var steps []string
	o := b.options("hello=1.0", "world=1:2.0", "world=1:1.9", "backdoor=1.0")
	o.Progress = func(p Progress) { steps = append(steps, fmt.Sprint(p.Stage, p.Done, "/", p.Total)) }
	first := b.build(o)
	if src, ok := first.Set.Lookup(digestOf("hello 1")); !ok || src.Package != "hello" || src.Path != "/usr/bin/hello" || src.Origin != "Test stable stable" {
		t.Errorf("%+v, %v", src, ok)
	}
	h := first.Set.Header()
	if got := fmt.Sprint(h.Missing); got != "[{backdoor 1.0 amd64 no signed index offers this version} {world 1:1.9 amd64 no signed index offers this version}]" {
		t.Errorf("missing %v", got)
	}
	if h.Missing[0].Finding().Reason.Stage() != keystead.StageCollateral || len(h.Repositories) != 1 || h.Repositories[0].Release != keystead.Sum(b.files["dists/stable/InRelease"]) ||
		!slices.Equal(h.Repositories[0].Signers, []string{b.signer.Fingerprint()}) || h.Repositories[0].ValidUntil != b.repo.ValidUntil.Unix() {
		t.Errorf("%+v", h)
	}
	if want := []string{"indexes1/1", "packages1/2", "packages2/2"}; !slices.Equal(steps, want) {
		t.Errorf("progress %v, want %v", steps, want)
	}

	asked := b.asked()
	o.Offline, o.Workers = true, 1
	slices.Reverse(o.Packages)
	if again := b.build(o); again.Set.Digest() != first.Set.Digest() || b.asked() != asked {
		t.Errorf("offline: %v, want %v; %d requests", again.Set.Digest(), first.Set.Digest(), b.asked()-asked)
	}
	o.Selection = refval.SelectExecutable
	if some := b.build(o); some.Set.Len() != 2 || some.Set.Header().Selection != refval.SelectExecutable {
		t.Errorf("executable files: %d", some.Set.Len())
	}
	o.Cache = t.TempDir()
	if none := b.build(o); none.Set.Len() != 0 || len(none.Skipped) != 1 || len(none.Set.Header().Missing) != 4 {
		t.Errorf("offline with nothing cached: %+v", none)
	}
}

// What the repository or the way to it may do, and what each leads to: a source that
// is skipped with its reason, or a build that fails.
func TestBuildRefuses(t *testing.T) {
	altered := func(name string, old, new string) func(b *bed) {
		return func(b *bed) {
			found := false
			for k := range b.files {
				if strings.HasPrefix(k, name) {
					found = found || bytes.Contains(b.files[k], []byte(old))
					b.files[k] = bytes.Replace(b.files[k], []byte(old), []byte(new), 1)
				}
			}
			if !found {
				b.t.Fatalf("nothing to alter in %s", name)
			}
		}
	}
	hello := tool("hello", "1.0", "hello 1")
	for name, tc := range map[string]struct {
		attack  func(b *bed)
		at      time.Time
		reason  keystead.Reason
		skipped bool
	}{
		"expired":           {at: noon.Add(8 * 24 * time.Hour), reason: keystead.ReasonIndexExpired, skipped: true},
		"from the future":   {at: noon.Add(-time.Minute), reason: keystead.ReasonIndexFuture, skipped: true},
		"InRelease altered": {attack: altered("dists/stable/InRelease", "Label: Test", "Label: Tast"), reason: keystead.ReasonIndexUnsigned, skipped: true},
		"by a stranger": {attack: func(b *bed) {
			b.repo.Signers = []*debrepo.Signer{debrepo.NewSigner("vendor", noon.Add(-time.Hour), 0)}
			b.publish()
		}, reason: keystead.ReasonIndexUnsigned, skipped: true},
		"trusted=yes without a signature": {attack: func(b *bed) {
			b.files["dists/stable/InRelease"] = []byte(b.repo.Release(b.repo.Index()))
		}, reason: keystead.ReasonIndexUnsigned, skipped: true},
		"another suite of the same vendor": {attack: func(b *bed) {
			b.repo.Suite = "oldstable"
			b.files["dists/stable/InRelease"] = b.repo.Files()["dists/oldstable/InRelease"]
		}, reason: keystead.ReasonIndexMismatch, skipped: true},
		"index altered": {attack: func(b *bed) {
			for k := range b.files {
				if strings.Contains(k, "by-hash") {
					b.files[k] = debrepo.Pack(".gz", []byte(b.repo.Index()+"\n"))
				}
			}
		}, reason: keystead.ReasonIndexMismatch, skipped: true},
		"package altered":        {attack: altered(hello.Filename(), "data.tar.gz", "data.tar.xz"), reason: keystead.ReasonIndexMismatch},
		"package that only grew": {attack: func(b *bed) { b.files[hello.Filename()] = append(bytes.Clone(hello.Deb), 0) }, reason: keystead.ReasonIndexMismatch},
		"package that is cut":    {attack: func(b *bed) { b.files[hello.Filename()] = hello.Deb[:len(hello.Deb)-1] }, reason: keystead.ReasonIndexMismatch},
		"signed, but not a .deb": {attack: func(b *bed) { b.repo.Packages[0].Deb = []byte("#!/bin/sh"); b.publish() }, reason: keystead.ReasonPackageCorrupt},
		"package is not there":   {attack: func(b *bed) { delete(b.files, hello.Filename()) }, reason: ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			if tc.attack != nil {
				tc.attack(b)
			}
			o := b.options("hello=1.0", "world=1:2.0")
			if !tc.at.IsZero() {
				o.At = tc.at
			}
			r, err := Build(context.Background(), o)
			if tc.skipped {
				if err != nil || len(r.Skipped) != 1 || tc.reason != "" && !errors.Is(r.Skipped[0].Err, tc.reason) {
					t.Fatalf("error %v, %+v, want the source skipped for %s", err, r, tc.reason)
				}
			} else if tc.reason != "" {
				if !errors.Is(err, tc.reason) {
					t.Fatalf("error %v, want %s", err, tc.reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := r.Set.Lookup(digestOf("hello 1")); ok {
				t.Error("the file is in the set all the same")
			}
			if m := r.Set.Header().Missing; len(m) == 0 || m[0].Name != "hello" {
				t.Errorf("missing %v, want hello named", m)
			}
		})
	}
}

// A .deb that lies in apt's archives without a signed index that offers it is not used;
// one that an index offers is, if it is the same.
func TestArchivesHaveNoSayOfTheirOwn(t *testing.T) {
	b := newBed(t)
	b.write("/var/cache/apt/archives/hello_0.9_amd64.deb", tool("hello", "0.9", "hello 0").Deb)
	b.write("/var/cache/apt/archives/hello_1.0_amd64.deb", tool("hello", "1.0", "another").Deb)
	b.write("/var/cache/apt/archives/world_1%3a2.0_amd64.deb", b.repo.Packages[1].Deb)
	r := b.build(b.options("hello=0.9", "hello=1.0", "world=1:2.0"))
	for content, want := range map[string]bool{"hello 0": false, "another": false, "hello 1": true, "world 2": true} {
		if _, ok := r.Set.Lookup(digestOf(content)); ok != want {
			t.Errorf("%q is in the set: %v, want %v", content, ok, want)
		}
	}
	if slices.ContainsFunc(b.requests, func(p string) bool { return strings.Contains(p, "world_") }) {
		t.Error("world was fetched though apt has it")
	}
}

func TestAptListsAreUsedWhenTheyVerify(t *testing.T) {
	b := newBed(t)
	s := Source{URI: b.server.URL + "/debian", Suite: "stable", Components: []string{"main"}}
	b.write("/var/lib/apt/lists/"+s.listFile("InRelease"), b.files["dists/stable/InRelease"])
	b.write("/var/lib/apt/lists/"+s.listFile(debrepo.IndexName)+".gz", b.files["dists/stable/"+debrepo.IndexName+".gz"])
	b.build(b.options("hello=1.0"))
	if got := fmt.Sprint(b.requests); got != "[/debian/"+b.repo.Packages[0].Filename()+"]" {
		t.Errorf("requests %v, want the package's alone", got)
	}
	b.write("/var/lib/apt/lists/"+s.listFile("InRelease"), []byte("Suite: stable\n"))
	if r := b.build(b.options("hello=1.0")); len(r.Skipped) != 0 || r.Set.Len() != 2 {
		t.Errorf("with a bad list: %+v, want a fresh one", r)
	}
}

// Two repositories that offer the same file are both named; different files of one
// version are both known.
func TestSeveralRepositories(t *testing.T) {
	one, two := newBed(t), newBed(t)
	two.repo.Packages = []debrepo.Package{tool("hello", "1.0", "hello 1"), tool("world", "1:2.0", "rebuilt")}
	two.publish()
	o := one.options("hello=1.0", "world=1:2.0")
	o.Keyring = append(one.signer.Public(), two.signer.Public()...)
	for _, b := range []*bed{one, two} {
		o.Sources = append(o.Sources, Source{URI: b.server.URL + "/debian/", Suite: "stable", Components: []string{"main"}})
	}
	set := one.build(o).Set
	for _, p := range set.Header().Packages {
		if want := map[string]int{"hello": 2, "world": 1}[p.Name]; len(p.Repositories) != want {
			t.Errorf("%+v, want %d repositories", p, want)
		}
	}
	if refs, _ := set.Path("/bin/world"); len(refs) != 2 {
		t.Errorf("wanted at /bin/world: %v", refs)
	}
}

// A damaged cache is a miss, never a different answer.
func TestDamagedCache(t *testing.T) {
	b := newBed(t)
	o := b.options("hello=1.0", "world=1:2.0")
	first := b.build(o)
	for _, damage := range []func(raw []byte) []byte{
		func(raw []byte) []byte { return raw[:len(raw)/2] },
		func(raw []byte) []byte { return nil },
		func(raw []byte) []byte { raw[len(raw)/3] ^= 4; return raw },
		func(raw []byte) []byte { return append(raw, raw...) },
	} {
		names, err := filepath.Glob(filepath.Join(o.Cache, "*", "*"))
		if err != nil || len(names) != 4 {
			t.Fatalf("%v, %v", names, err)
		}
		for _, name := range names {
			raw, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(name, damage(raw), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if again := b.build(o); again.Set.Digest() != first.Set.Digest() {
			t.Error("another set from a damaged cache")
		}
	}
	// One package's digests under another's name.
	hello, world := keystead.Sum(b.repo.Packages[0].Deb), keystead.Sum(b.repo.Packages[1].Deb)
	raw, err := os.ReadFile(filepath.Join(o.Cache, "deb", fmt.Sprintf("%x", hello[:])))
	if err == nil {
		err = os.WriteFile(filepath.Join(o.Cache, "deb", fmt.Sprintf("%x", world[:])), raw, 0o600)
	}
	if again := b.build(o); err != nil || again.Set.Digest() != first.Set.Digest() {
		t.Errorf("another set from swapped entries, %v", err)
	}
	for _, dir := range []string{"deb", "index", "release", ""} {
		name := filepath.Join(o.Cache, dir)
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := Build(context.Background(), o); err == nil || !strings.Contains(err.Error(), "others may write") {
			t.Errorf("a cache whose %q others may write to: %v", dir, err)
		}
		if err := os.Chmod(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTransport(t *testing.T) {
	b := newBed(t)
	n := 0
	b.handle = func(w http.ResponseWriter, r *http.Request) bool {
		n++
		switch r.URL.Path {
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/moved":
			http.Redirect(w, r, "/fine", http.StatusMovedPermanently)
		case "/shaky":
			if n < attempts {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			fallthrough
		case "/fine":
			fmt.Fprint(w, "fine")
		case "/down":
			w.WriteHeader(http.StatusBadGateway)
		case "/denied":
			w.WriteHeader(http.StatusForbidden)
		}
		return true
	}
	b.write("/local", []byte("fine"))
	net := newTransport()
	net.pause = time.Millisecond
	for path, tc := range map[string]struct {
		says     string
		requests int
	}{
		"/fine": {"", 1}, "/moved": {"", 2}, "/shaky": {"", attempts}, "/down": {"502", attempts}, "/denied": {"403", 1}, "/loop": {"redirects", attempts * (maxRedirects)},
		"file://" + b.root + "/local": {"", 0}, "file://" + b.root + "/none": {"not there", 0}, "ftp://x/": {"scheme", 0},
	} {
		n = 0
		address := path
		if strings.HasPrefix(path, "/") {
			address = b.server.URL + path
		}
		got, err := net.get(context.Background(), address, 4)
		if (err == nil) != (tc.says == "") || err == nil && string(got) != "fine" || err != nil && !strings.Contains(err.Error(), tc.says) || n != tc.requests {
			t.Errorf("%s: %q, %v after %d requests, want %q after %d", path, got, err, n, tc.says, tc.requests)
		}
	}
	if _, err := net.get(context.Background(), b.server.URL+"/fine", 3); !errors.Is(err, errTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Build(ctx, b.options("hello=1.0")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestCacheOfAnother: whoever owns the directory chooses what is cached in it.
func TestCacheOfAnother(t *testing.T) {
	for _, tc := range []struct {
		owner, me int
		trusted   bool
	}{{1000, 1000, true}, {0, 1000, true}, {1001, 1000, false}, {1000, 0, false}} {
		if err := trustedOwner("cache", tc.owner, tc.me); (err == nil) != tc.trusted {
			t.Errorf("a cache of uid %d for uid %d: %v", tc.owner, tc.me, err)
		}
	}
	if os.Geteuid() != 0 {
		return // only root can give a directory away
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := openCache(dir); err == nil || !strings.Contains(err.Error(), "another user's") {
		t.Errorf("a cache of another user: %v", err)
	}
}

// TestVendors: a third party's repository, with a key of its own under Signed-By, is
// accepted for what the configuration says that it may sign, and for nothing else.
func TestVendors(t *testing.T) {
	main, third := newBed(t), newBed(t)
	third.repo.Packages = []debrepo.Package{tool("hello", "9.0", "replaced"), tool("third-tool", "1.0", "third")}
	third.signer = debrepo.NewSigner("third", noon.Add(-time.Hour), 0)
	third.repo.Signers = []*debrepo.Signer{third.signer}
	third.publish()
	o := main.options("hello=1.0", "hello=9.0", "third-tool=1.0")
	o.Sources = []Source{
		{URI: main.server.URL + "/debian/", Suite: "stable", Components: []string{"main"}, Key: main.signer.Public()},
		{URI: third.server.URL + "/debian/", Suite: "stable", Components: []string{"main"}, Key: third.signer.Public()},
	}
	if all := main.build(o).Set.Header(); len(all.Packages) != 3 {
		t.Fatalf("by Signed-By alone: %+v", all)
	}
	o.Vendors = []refval.Vendor{{Name: "main", Packages: []string{"*"}, Key: main.signer.Public()}, {Name: "third", Packages: []string{"third-*"}, Key: third.signer.Public()}}
	h := main.build(o).Set.Header()
	if len(h.Packages) != 2 || h.Packages[0].Version != "1.0" || h.Packages[1].Name != "third-tool" || len(h.Missing) != 1 || h.Missing[0].Version != "9.0" {
		t.Errorf("%+v, missing %+v", h.Packages, h.Missing)
	}
	o.Vendors = o.Vendors[:1]
	r := main.build(o)
	if len(r.Skipped) != 1 || !errors.Is(r.Skipped[0].Err, keystead.ReasonIndexUnsigned) || len(r.Set.Header().Packages) != 1 {
		t.Errorf("a source whose key no vendor has: %+v", r)
	}
}

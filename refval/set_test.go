package refval

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keystead/keystead"
)

func digestOf(s string) keystead.Digest { return keystead.Sum([]byte(s)) }

func repository(name string) Repository {
	return Repository{Origin: "Test", Suite: "stable", Codename: name, Release: digestOf(name), Date: 1, Signers: []string{"AB"}}
}

func pkg(name, version string) Package {
	return Package{Name: name, Version: version, Architecture: "amd64", Digest: digestOf(name + version), Strength: StrengthRepositoryRehash}
}

// sample has two versions of one package, and content that two packages share.
func sample(t testing.TB) *Set {
	b := NewBuilder(SelectAll)
	repo := repository("main")
	add := func(p Package, files ...File) {
		if err := b.Add(p, []Repository{repo}, files); err != nil {
			t.Fatal(err)
		}
	}
	add(pkg("bash", "5.2-1"), File{"./bin/bash", digestOf("bash 1")}, File{"./usr/share/doc/bash/copyright", digestOf("licence")})
	add(pkg("bash", "5.2-2"), File{"/usr/bin/bash", digestOf("bash 2")}, File{"usr/share/doc/bash/copyright", digestOf("licence")})
	add(pkg("dash", "0.5"), File{"./bin/dash", digestOf("dash")}, File{"./usr/share/doc/dash/copyright", digestOf("licence")})
	b.AddMissing(Missing{Name: "gone", Version: "1", Architecture: "amd64", Problem: "no signed index offers it"})
	return built(t, b)
}

func built(t testing.TB, b *Builder) *Set {
	t.Helper()
	s, err := b.Set()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLookup(t *testing.T) {
	s := sample(t)
	got, ok := s.Lookup(digestOf("bash 1"))
	want := Source{Package: "bash", Version: "5.2-1", Architecture: "amd64", Origin: "Test main stable", Path: "/usr/bin/bash", Strength: StrengthRepositoryRehash, Number: 0}
	if !ok || got != want {
		t.Errorf("Lookup = %+v, %v, want %+v", got, ok, want)
	}
	if src, ok := s.Lookup(digestOf("an unknown binary")); ok {
		t.Errorf("an unknown digest was found: %+v", src)
	}
	var owners []string
	for src := range s.Sources(digestOf("licence")) {
		owners = append(owners, src.Package+"="+src.Version)
	}
	if want := []string{"bash=5.2-1", "bash=5.2-2", "dash=0.5"}; !slices.Equal(owners, want) {
		t.Errorf("owners of shared content = %v, want %v", owners, want)
	}
	var none Set
	if _, ok := none.Lookup(keystead.Digest{}); ok {
		t.Error("the zero set holds something")
	}
}

func TestPathNamesEveryWantedDigest(t *testing.T) {
	s := sample(t)
	for _, spelling := range []string{"/usr/bin/bash", "/bin/bash", "./bin/bash", "bin/bash"} {
		refs, ok := s.Path(spelling)
		var got []string
		for _, r := range refs {
			got = append(got, r.Source.Version+" "+r.Digest.String())
		}
		slices.Sort(got)
		want := []string{"5.2-1 " + digestOf("bash 1").String(), "5.2-2 " + digestOf("bash 2").String()}
		if !ok || !slices.Equal(got, want) {
			t.Errorf("Path(%q) = %v, %v, want %v", spelling, got, ok, want)
		}
	}
	for _, p := range []string{"/usr/bin/zsh", "/usr/bin/../bin/bash", "", "/", "/usr/bin/bash/"} {
		if refs, ok := s.Path(p); ok {
			t.Errorf("Path(%q) = %v, want none", p, refs)
		}
	}
}

func TestPathConcurrently(t *testing.T) {
	s := sample(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if refs, ok := s.Path("/bin/dash"); !ok || len(refs) != 1 {
				t.Errorf("Path = %v, %v", refs, ok)
			}
		})
	}
	wg.Wait()
}

func TestCanonicalPath(t *testing.T) {
	for in, want := range map[string]string{
		"./bin/ls": "/usr/bin/ls", "/lib64/ld.so": "/usr/lib64/ld.so", "/usr/lib/x": "/usr/lib/x", "etc/passwd": "/etc/passwd",
		"/binary/x": "/binary/x", "/opt/bin/x": "/opt/bin/x",
		"": "", ".": "", "/": "", "..": "", "./../etc/passwd": "", "/a//b": "", "/a/./b": "", "/a/": "", "/a\x00b": "", "/" + strings.Repeat("a", 4096): "",
	} {
		if got, ok := CanonicalPath(in); got != want || ok != (want != "") {
			t.Errorf("CanonicalPath(%.40q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestSameContentSameBytes(t *testing.T) {
	s := sample(t)
	again, err := Parse(s.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	merged, err := Merge(s, again)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]*Set{"parsed": again, "merged with itself": merged} {
		if other.Digest() != s.Digest() || !bytes.Equal(other.Bytes(), s.Bytes()) {
			t.Errorf("%s: digest %v, want %v", name, other.Digest(), s.Digest())
		}
	}
	var w bytes.Buffer
	if n, err := s.WriteTo(&w); err != nil || n != int64(w.Len()) || keystead.Sum(w.Bytes()) != s.Digest() {
		t.Errorf("WriteTo wrote %d bytes (%v) of digest %v", n, err, keystead.Sum(w.Bytes()))
	}
}

func TestMergeKeepsOldVersionsAndFindsWhatWasMissing(t *testing.T) {
	b := NewBuilder(SelectExecutable)
	if err := b.Add(pkg("gone", "1"), []Repository{repository("archive")}, []File{{"/usr/bin/gone", digestOf("gone")}}); err != nil {
		t.Fatal(err)
	}
	b.AddMissing(Missing{Name: "lost", Version: "2", Architecture: "all", Problem: "no signed index offers it"})
	s, err := Merge(sample(t), built(t, b))
	if err != nil {
		t.Fatal(err)
	}
	h := s.Header()
	if len(h.Missing) != 1 || h.Missing[0].Name != "lost" {
		t.Errorf("missing = %v, want lost alone", h.Missing)
	}
	if h.Selection != SelectMixed || len(h.Repositories) != 2 || len(h.Packages) != 4 {
		t.Errorf("header = %+v", h)
	}
	for _, content := range []string{"bash 1", "bash 2", "gone"} {
		if _, ok := s.Lookup(digestOf(content)); !ok {
			t.Errorf("%s was lost in the merge", content)
		}
	}
}

// A digest that only MD5, SHA-1 or the host vouches for never gets into a set.
func TestWeakNeverSuffices(t *testing.T) {
	for _, strength := range []Strength{StrengthNone, StrengthWeak, 99} {
		p := pkg("weak", "1")
		p.Strength = strength
		err := NewBuilder(SelectAll).Add(p, []Repository{repository("main")}, []File{{"/bin/x", digestOf("x")}})
		if !errors.Is(err, keystead.ReasonDigestWeak) {
			t.Errorf("strength %v: error %v, want digest-weak", strength, err)
		}
		if strength.Suffices() {
			t.Errorf("strength %v suffices", strength)
		}
	}
	raw := sample(t).Bytes()
	for _, forged := range []string{`"strength":"weak"`, `"strength":"none"`} {
		_, err := Parse(reheader(raw, func(h string) string { return strings.Replace(h, `"strength":"repository-rehash"`, forged, 1) }))
		wantFormat(t, forged, err, "header", "does not suffice")
	}
}

// reheader changes a set's header and corrects its length.
func reheader(raw []byte, change func(string) string) []byte {
	at := len(setMagic)
	n := int(binary.BigEndian.Uint32(raw[at:]))
	h := change(string(raw[at+4 : at+4+n]))
	out := binary.BigEndian.AppendUint32(slices.Clone(raw[:at]), uint32(len(h)))
	return append(append(out, h...), raw[at+4+n:]...)
}

func wantFormat(t *testing.T, name string, err error, field, problem string) {
	t.Helper()
	var f *keystead.FormatError
	if !errors.As(err, &f) || !strings.HasPrefix(f.Field, field) || !strings.Contains(f.Problem, problem) {
		t.Errorf("%s: error %v, want a FormatError of %s with %q", name, err, field, problem)
	}
}

func TestParseRefuses(t *testing.T) {
	s := sample(t)
	raw := s.Bytes()
	records := len(raw) - len(s.records)
	texts := bytes.Index(raw, []byte(s.paths.text))
	change := func(f func(b []byte) []byte) []byte { return f(slices.Clone(raw)) }
	for _, tc := range []struct {
		name           string
		raw            []byte
		field, problem string
	}{
		{"empty", nil, "magic", "needs"},
		{"another version", change(func(b []byte) []byte { b[len(setMagic)-2] = '9'; return b }), "magic", "want"},
		{"cut", raw[:len(raw)-1], "records", "needs"},
		{"longer", append(slices.Clone(raw), 0), "end", "left over"},
		{"records swapped", change(func(b []byte) []byte {
			one := slices.Clone(b[records : records+recordSize])
			copy(b[records:], b[records+recordSize:records+2*recordSize])
			copy(b[records+recordSize:], one)
			return b
		}), "record 1", "out of order"},
		{"record twice", change(func(b []byte) []byte { copy(b[records:], b[records+recordSize:records+2*recordSize]); return b }), "record 1", "out of order"},
		{"unknown path", change(func(b []byte) []byte { b[records+digestSize] = 1; return b }), "record 0", "not there"},
		{"unknown package", change(func(b []byte) []byte { b[records+digestSize+4] = 1; return b }), "record 0", "not there"},
		{"path not canonical", change(func(b []byte) []byte { copy(b[texts:], "/lib/"); return b }), "path", ""},
		{"huge counts", change(func(b []byte) []byte { copy(b[records-4:], "\xff\xff\xff\xff"); return b }), "records", "needs"},
		{"header spelt otherwise", reheader(raw, func(h string) string { return h + " " }), "header", "spelling"},
		{"header with a field more", reheader(raw, func(h string) string { return `{"x":1,` + h[1:] }), "header", "is not one of selection"},
		{"header without signers", reheader(raw, func(h string) string { return strings.Replace(h, `["AB"]`, `[]`, 1) }), "header", "signers"},
		{"package of no repository", reheader(raw, func(h string) string { return strings.Replace(h, `"repositories":[0]`, `"repositories":[]`, 1) }), "header", "no repository"},
		{"package of an unknown repository", reheader(raw, func(h string) string { return strings.Replace(h, `"repositories":[0]`, `"repositories":[1]`, 1) }), "header", "unknown"},
		{"packages swapped", reheader(raw, func(h string) string { return strings.Replace(h, `"name":"bash"`, `"name":"zsh"`, 1) }), "header", "out of order"},
		{"control characters", reheader(raw, func(h string) string { return strings.Replace(h, `"gone"`, `"go\nne"`, 1) }), "header", "printable"},
	} {
		_, err := Parse(tc.raw)
		wantFormat(t, tc.name, err, tc.field, tc.problem)
	}
}

// An adversary who chooses digests can crowd one bucket, and is found all the same.
func TestCrowdedBucket(t *testing.T) {
	b := NewBuilder(SelectAll)
	var files []File
	for i := range 3000 {
		d := keystead.Digest{0xab, 0xcd, 0xef, 0x01}
		binary.BigEndian.PutUint32(d[28:], uint32(i))
		files = append(files, File{fmt.Sprintf("/f%d", i), d})
	}
	if err := b.Add(pkg("p", "1"), []Repository{repository("main")}, files); err != nil {
		t.Fatal(err)
	}
	s := built(t, b)
	for _, f := range files {
		if src, ok := s.Lookup(f.Digest); !ok || src.Path != f.Path {
			t.Fatalf("Lookup(%v) = %+v, %v", f.Digest, src, ok)
		}
	}
}

// TestPrefetch: of digests that the set has and of others, of no digest, and of no set.
func TestPrefetch(t *testing.T) {
	digests := []keystead.Digest{{}, digestOf("dash"), {0xff, 0xff, 0xff, 0xff, 0xff}}
	for _, s := range []*Set{sample(t), new(Set), built(t, NewBuilder(SelectAll))} {
		s.Prefetch(digests)
		s.Prefetch(nil)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	s := sample(t)
	d := digestOf("dash")
	if n := testing.AllocsPerRun(100, func() {
		if src, ok := s.Lookup(d); !ok || src.Package != "dash" {
			t.Error("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations a lookup", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample(f).Bytes())
	f.Add(built(f, NewBuilder(SelectAll)).Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse(raw)
		var format *keystead.FormatError
		switch {
		case err != nil && !errors.As(err, &format):
			t.Fatalf("error %T %v", err, err)
		case err != nil:
			return
		}
		for i := range s.Len() {
			r := s.Ref(i)
			if _, ok := s.Lookup(r.Digest); !ok {
				t.Fatalf("record %d is not found by its digest", i)
			}
			if refs, _ := s.Path(r.Source.Path); !slices.Contains(refs, r) {
				t.Fatalf("record %d is not found by its path", i)
			}
		}
		again, err := Merge(s)
		if err != nil || (s.header.Selection == again.header.Selection && len(s.header.Missing) == len(again.header.Missing) && !bytes.Equal(again.Bytes(), raw)) {
			t.Fatalf("a set merged with nothing differs: %v", err)
		}
	})
}

// million is a set of one million records, in the format's own bytes.
var million = sync.OnceValue(func() []byte {
	rnd := rand.NewChaCha8([32]byte{1})
	h := Header{Selection: SelectAll, Repositories: []Repository{repository("main")}, Packages: []Package{}, Missing: []Missing{}}
	var packages []*builderPackage
	for i := range 2000 {
		p := pkg(fmt.Sprintf("package-%04d", i), "1.0-1")
		p.Repositories = []int{0}
		h.Packages = append(h.Packages, p)
		bp := &builderPackage{Package: p, files: map[File]bool{}}
		for k := range 500 {
			var f File
			rnd.Read(f.Digest[:])
			f.Path = fmt.Sprintf("/usr/lib/x86_64-linux-gnu/package-%04d/module-%03d.so", i, k)
			bp.files[f] = true
		}
		packages = append(packages, bp)
	}
	return encode(h, packages)
})

func BenchmarkLookupMillion(b *testing.B) {
	s, err := Parse(million())
	if err != nil {
		b.Fatal(err)
	}
	var order []keystead.Digest
	for i := range s.Len() {
		order = append(order, s.Ref(i).Digest)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(order), func(i, k int) { order[i], order[k] = order[k], order[i] })
	for name, known := range map[string]func(keystead.Digest) bool{
		"Lookup": func(d keystead.Digest) bool { _, ok := s.Lookup(d); return ok },
		"Number": func(d keystead.Digest) bool { _, ok := s.Number(d); return ok },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if !known(order[i%len(order)]) {
					b.Fatal("not found")
				}
				i++
			}
		})
	}
}

func BenchmarkParseMillion(b *testing.B) {
	raw := million()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHeaderBomb: elements that are none stop the reader; they are not gathered first.
func TestHeaderBomb(t *testing.T) {
	const n = 1 << 20
	for name, element := range map[string]string{"numbers": "0,", "objects": "{},", "nulls": "null,"} {
		for _, list := range []string{"repositories", "packages", "missing"} {
			header := `{"selection":"all","` + list + `":[` + strings.Repeat(element, n) + `{}]}`
			raw := append(binary.BigEndian.AppendUint32([]byte("keystead-refset/1\n"), uint32(len(header))), header...)
			raw = append(raw, make([]byte, 12)...)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Parse(raw)
			runtime.ReadMemStats(&after)
			var format *keystead.FormatError
			if !errors.As(err, &format) || format.Field != "header" {
				t.Errorf("%s in %s: %v", name, list, err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20 {
				t.Errorf("%s in %s: %d MiB were allocated for a header of %d MiB", name, list, took>>20, len(header)>>20)
			}
		}
	}
}

package refval

import (
	"io"
	"iter"
	"runtime"
	"sort"
	"sync"

	"github.com/keystead/keystead"
)

// Source says where a known file comes from. Its strings are part of the set.
type Source struct {
	Package      string
	Version      string
	Architecture string
	Origin       string // of the first repository that offers the package
	Path         string // canonical
	Strength     Strength
	Number       int // of the package in Header().Packages
}

// Ref is a digest that a package wants at a path.
type Ref struct {
	Digest keystead.Digest
	Source Source
}

// Set is an immutable reference set. The zero value holds nothing. It is safe for
// concurrent use.
type Set struct {
	data    string // the whole format; everything below is a view of it
	digest  keystead.Digest
	header  Header
	origins []string // by package

	paths   pathTable
	records string   // recordSize each, ascending
	buckets []uint32 // first record of each digest prefix; one more entry at the end
	shift   uint     // digest prefix = first 32 bits >> shift

	once   sync.Once
	byPath []uint32 // records in order of their path, built by the first Path
}

const (
	digestSize = len(keystead.Digest{})
	recordSize = digestSize + 4 + 4 // digest, path, package
)

// WriteTo writes the set's bytes (docs/spec/refset.md).
func (s *Set) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, s.data)
	return int64(n), err
}

// Bytes returns a copy of the set's bytes.
func (s *Set) Bytes() []byte { return []byte(s.data) }

// Digest names the set.
func (s *Set) Digest() keystead.Digest { return s.digest }

// Header returns what the set was built from. The caller must not change it.
func (s *Set) Header() Header { return s.header }

// Len returns the number of records: one for each digest, path and package.
func (s *Set) Len() int { return len(s.records) / recordSize }

// Size is how much memory the set takes, about, in bytes. It is 0 of nil.
func (s *Set) Size() int {
	if s == nil {
		return 0
	}
	return len(s.data) + 4*len(s.buckets) + 4*s.Len() + 256*len(s.header.Packages)
}

// Lookup returns the first source of the digest. It does not allocate.
func (s *Set) Lookup(d keystead.Digest) (Source, bool) {
	i, ok := s.find(&d)
	if !ok {
		return Source{}, false
	}
	return s.source(i), true
}

// Number returns the package of the first source, by its number in
// Header().Packages. It is Lookup for whoever only counts.
func (s *Set) Number(d keystead.Digest) (int, bool) {
	i, ok := s.find(&d)
	if !ok {
		return 0, false
	}
	return s.packageOf(i), true
}

// Prefetch reads what a lookup of each digest will read first, so that the processor
// waits for memory once, not once for each. It changes no answer.
func (s *Set) Prefetch(digests []keystead.Digest) {
	if len(s.records) == 0 {
		return
	}
	var read byte
	for i := range digests {
		first := int(s.buckets[prefix(digests[i][:])>>s.shift])
		for n := range 3 { // most buckets are no longer
			if at := (first + n) * recordSize; at < len(s.records) {
				read ^= s.records[at]
			}
		}
	}
	runtime.KeepAlive(read)
}

// Sources returns every source of the digest: packages may ship the same content.
func (s *Set) Sources(d keystead.Digest) iter.Seq[Source] {
	return func(yield func(Source) bool) {
		i, ok := s.find(&d)
		for ; ok && i < s.Len() && s.digestAt(i) == string(d[:]); i++ {
			if !yield(s.source(i)) {
				return
			}
		}
	}
}

// Path returns the digests that packages want at a path, in any spelling that
// CanonicalPath accepts, and whether any package owns it. After an update both the
// old version's and the new one's are there.
func (s *Set) Path(path string) ([]Ref, bool) {
	p, ok := CanonicalPath(path)
	if !ok {
		return nil, false
	}
	number, ok := s.paths.find(p)
	if !ok {
		return nil, false
	}
	s.once.Do(s.indexPaths)
	var refs []Ref
	first := sort.Search(len(s.byPath), func(i int) bool { return s.pathOf(int(s.byPath[i])) >= number })
	for _, rec := range s.byPath[first:] {
		if s.pathOf(int(rec)) != number {
			break
		}
		refs = append(refs, s.Ref(int(rec)))
	}
	return refs, true
}

// Ref returns record i, in order of digests; 0 <= i < Len().
func (s *Set) Ref(i int) Ref {
	r := Ref{Source: s.source(i)}
	copy(r.Digest[:], s.digestAt(i))
	return r
}

// find returns the first record of the digest. Digests are uniform, so buckets are
// small; records that an adversary crowds into one are still found by bisection.
func (s *Set) find(d *keystead.Digest) (int, bool) {
	if len(s.records) == 0 {
		return 0, false
	}
	b := prefix(d[:]) >> s.shift
	lo, hi := int(s.buckets[b]), int(s.buckets[b+1])
	for hi-lo > 8 {
		if mid := int(uint(lo+hi) >> 1); s.digestAt(mid) < string(d[:]) {
			lo = mid + 1
		} else {
			hi = mid + 1
		}
	}
	for ; lo < hi; lo++ {
		if s.digestAt(lo) == string(d[:]) {
			return lo, true
		}
	}
	return 0, false
}

func (s *Set) source(i int) Source {
	n := s.packageOf(i)
	p := &s.header.Packages[n]
	return Source{
		Package: p.Name, Version: p.Version, Architecture: p.Architecture, Origin: s.origins[n],
		Path: s.paths.at(s.pathOf(i)), Strength: p.Strength, Number: n,
	}
}

func (s *Set) digestAt(i int) string { return s.records[i*recordSize : i*recordSize+digestSize] }
func (s *Set) pathOf(i int) int      { return int(u32(s.records[i*recordSize+digestSize:])) }
func (s *Set) packageOf(i int) int   { return int(u32(s.records[i*recordSize+digestSize+4:])) }

// indexBuckets makes the table of digest prefixes. With about two records a bucket
// the table stays in the processor's cache, and a bucket is one or two cache lines.
func (s *Set) indexBuckets() {
	bits := uint(0)
	for 2<<bits < s.Len() && bits < 31 {
		bits++
	}
	s.shift = 32 - bits
	hugePages(s.records)
	s.buckets = make([]uint32, 1<<bits+1)
	for i := range s.Len() {
		s.buckets[prefix(s.digestAt(i))>>s.shift+1]++
	}
	for b := 1; b < len(s.buckets); b++ {
		s.buckets[b] += s.buckets[b-1]
	}
}

// indexPaths sorts the records by path, by counting.
func (s *Set) indexPaths() {
	next := make([]uint32, s.paths.len()+1)
	for i := range s.Len() {
		next[s.pathOf(i)+1]++
	}
	for p := 1; p < len(next); p++ {
		next[p] += next[p-1]
	}
	s.byPath = make([]uint32, s.Len())
	for i := range s.Len() {
		p := s.pathOf(i)
		s.byPath[next[p]] = uint32(i)
		next[p]++
	}
}

// pathTable is a sorted list of strings: where each ends, and their text.
type pathTable struct{ ends, text string }

func (t pathTable) len() int { return len(t.ends) / 4 }

func (t pathTable) at(i int) string {
	start := uint32(0)
	if i > 0 {
		start = u32(t.ends[(i-1)*4:])
	}
	return t.text[start:u32(t.ends[i*4:])]
}

func (t pathTable) find(p string) (int, bool) {
	i := sort.Search(t.len(), func(i int) bool { return t.at(i) >= p })
	return i, i < t.len() && t.at(i) == p
}

type text interface{ ~string | ~[]byte }

func u32[T text](b T) uint32 {
	return uint32(b[3]) | uint32(b[2])<<8 | uint32(b[1])<<16 | uint32(b[0])<<24
}

// prefix returns the first 32 bits of a digest; 64-bit, so that a shift by 32 is 0.
func prefix[T text](b T) uint64 { return uint64(u32(b)) }

package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/rpmrepo"
)

// sample is a machine with one package each: signed by a vendor, by a stranger, not at all,
// and with MD5 digests. rpm's own tools made it, once.
type sample struct {
	vendor, stranger  Keyring
	vendorKey         []byte // certificates, as their objects hold them
	strangerKey       []byte
	database, journal []byte // of sqlite, the one backend that Debian's rpm writes
}

var made = sync.OnceValues(func() (*sample, error) {
	dir, err := os.MkdirTemp("", "rpm-sample-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b, err := rpmrepo.New(dir)
	if err != nil {
		return nil, err
	}
	s := &sample{}
	vendor, err := b.Signer("vendor", "rsa2048")
	if err != nil {
		return nil, err
	}
	defer vendor.Close()
	stranger, err := b.Signer("stranger", "ed25519")
	if err != nil {
		return nil, err
	}
	defer stranger.Close()
	for _, k := range []struct {
		from *rpmrepo.Signer
		to   *Keyring
		raw  *[]byte
	}{{vendor, &s.vendor, &s.vendorKey}, {stranger, &s.stranger, &s.strangerKey}} {
		public, err := k.from.Public()
		if err != nil {
			return nil, err
		}
		*k.raw = public
		if *k.to, err = ParseKeyring(public); err != nil {
			return nil, err
		}
	}
	var files []string
	for _, p := range []struct {
		name    string
		signer  *rpmrepo.Signer
		defines []string
	}{{"good", vendor, nil}, {"foreign", stranger, nil}, {"unsigned", nil, nil}, {"weak", vendor, []string{"_binary_filedigest_algorithm 1", "_build_id_links none"}}} {
		file, err := b.Build(rpmrepo.Package{Name: p.name, Version: "1.2", Release: "3", Epoch: 4, Files: map[string]string{
			"/usr/bin/" + p.name: "#!/bin/sh\necho " + p.name + "\n", "/usr/share/" + p.name + "/data": "data of " + p.name + "\n"}}, p.signer, p.defines...)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	if err := b.Install(dir, files...); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "var/lib/rpm/rpmdb.sqlite")
	if s.database, err = os.ReadFile(name); err != nil {
		return nil, err
	}
	if s.journal, err = os.ReadFile(name + "-wal"); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
})

func tools(t testing.TB) *sample {
	t.Helper()
	s, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// blobs returns the database's headers by package name.
func (s *sample) blobs(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for blob, err := range Headers(s.database, s.journal) {
		if err != nil {
			t.Fatal(err)
		}
		out[parsed(t, blob).Name()] = blob
	}
	return out
}

func parsed(t testing.TB, blob []byte) *Header {
	t.Helper()
	h, err := ParseHeader(blob)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func wantReason(t *testing.T, name string, err error, reason keystead.Reason, says string) {
	t.Helper()
	if !errors.Is(err, reason) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: error %v, want %s with %q", name, err, reason, says)
	}
}

// TestToolsPackages: what rpmbuild, rpmsign and rpm made.
func TestToolsPackages(t *testing.T) {
	s := tools(t)
	blobs := s.blobs(t)
	if len(blobs) != 4 {
		t.Fatalf("%d packages, want 4", len(blobs))
	}
	good := parsed(t, blobs["good"])
	proof, err := good.Verify(s.vendor, time.Now())
	if err != nil || !slices.Equal(s.vendor.Fingerprints(), []string{proof.Signer}) {
		t.Errorf("signed by %v, want %v: %v", proof, s.vendor.Fingerprints(), err)
	}
	files, err := good.Files()
	if err != nil || len(files) != 2 || good.String() != "good=4:1.2-3:x86_64" {
		t.Fatalf("%v has files %v: %v", good, files, err)
	}
	script := "#!/bin/sh\necho good\n"
	if f := files[0]; f.Path != "/usr/bin/good" || f.Digest != keystead.Sum([]byte(script)) || !f.Executable() || f.Size != uint64(len(script)) || f.Weak {
		t.Errorf("%+v", f)
	}
	if _, err := parsed(t, blobs["foreign"]).Verify(s.stranger, time.Now()); err != nil {
		t.Errorf("an Ed25519 signature: %v", err)
	}
	weak, err := parsed(t, blobs["weak"]).Files()
	if err != nil || len(weak) != 2 || !weak[0].Weak || !weak[0].Digest.IsZero() {
		t.Errorf("MD5 digests give %+v, %v", weak, err)
	}
}

// TestLies: what a host can do to a header in its database.
func TestLies(t *testing.T) {
	s := tools(t)
	blobs := s.blobs(t)
	good := blobs["good"]
	now := time.Now()
	content := keystead.Sum([]byte("#!/bin/sh\necho good\n"))
	hexed := []byte(strings.TrimPrefix(content.String(), "sha256:"))
	other := []byte(strings.TrimPrefix(keystead.Sum([]byte("evil")).String(), "sha256:"))
	edited := bytes.Replace(good, hexed, other, 1)
	full := parsed(t, good).Digest()
	editedFull := parsed(t, edited).Digest()
	hexOf := func(d keystead.Digest) []byte { return []byte(strings.TrimPrefix(d.String(), "sha256:")) }
	restated := drop(t, bytes.Replace(edited, hexOf(full), hexOf(editedFull), 1), tagSHA1Header)
	for _, tc := range []struct {
		name   string
		blob   []byte
		keys   Keyring
		at     time.Time
		reason keystead.Reason
		says   string
	}{
		{"an edited digest", edited, s.vendor, now, keystead.ReasonHeaderAltered, "SHA-256"},
		{"an edited digest, the header's restated", restated, s.vendor, now, keystead.ReasonHeaderAltered, "invalid"},
		{"an added file", addFile(t, good), s.vendor, now, keystead.ReasonHeaderAltered, "SHA-256"},
		{"an added file, the header's digests taken off", drop(t, drop(t, addFile(t, good), tagSHA256Header), tagSHA1Header), s.vendor, now, keystead.ReasonHeaderAltered, "invalid"},
		{"a file beside the region", beside(t, good, tagBaseNames, typeStringArray, 1, []byte("evil\x00")), s.vendor, now, keystead.ReasonHeaderAmbiguous, "inside and outside"},
		{"a digest algorithm beside the region", beside(t, good, tagFileDigestAlgo, typeInt32, 1, []byte{0, 0, 0, 1}), s.vendor, now, keystead.ReasonHeaderAmbiguous, "inside and outside"},
		{"a tag that rpm does not put there", beside(t, good, tagOldFileNames, typeStringArray, 1, []byte("/usr/bin/evil\x00")), s.vendor, now, keystead.ReasonHeaderAmbiguous, "outside of the signed region"},
		{"a tag twice", beside(t, good, tagSHA256Header, typeString, 1, append(hexOf(full), 0)), s.vendor, now, keystead.ReasonHeaderAmbiguous, "twice"},
		{"trailing bytes", append(bytes.Clone(good), "more"...), s.vendor, now, keystead.ReasonHeaderAmbiguous, "after its end"},
		{"data of no tag", hidden(t, good), s.vendor, now, keystead.ReasonHeaderAmbiguous, "belong to no"},
		{"not signed", blobs["unsigned"], s.vendor, now, keystead.ReasonPackageUnsigned, "none over the header"},
		{"the signature taken off", drop(t, good, tagRSAHeader), s.vendor, now, keystead.ReasonPackageUnsigned, "none over the header"},
		{"another package's signature", beside(t, drop(t, good, tagRSAHeader), tagRSAHeader, typeBin, len(signature(t, blobs["weak"])), signature(t, blobs["weak"])), s.vendor, now, keystead.ReasonHeaderAltered, "invalid"},
		{"signed by a stranger", blobs["foreign"], s.vendor, now, keystead.ReasonPackageForeign, "not in the keyring"},
		{"no keys", good, Keyring{}, now, keystead.ReasonPackageForeign, "0 certificates"},
		{"signed tomorrow", good, s.vendor, now.Add(-48 * time.Hour), keystead.ReasonPackageForeign, "to come"},
		{"no region", unwrapped(good), s.vendor, now, keystead.ReasonPackageUnsigned, "no signed region"},
	} {
		_, err := parsed(t, tc.blob).Verify(tc.keys, tc.at)
		wantReason(t, tc.name, err, tc.reason, tc.says)
	}
	if _, err := parsed(t, good).Verify(s.vendor, now); err != nil {
		t.Error(err)
	}
}

func signature(t testing.TB, blob []byte) []byte {
	return binaryOf(parsed(t, blob).beside, tagRSAHeader)
}

// parts takes a header apart: its index and its data.
func parts(blob []byte) (index [][]byte, data []byte) {
	n := int(binary.BigEndian.Uint32(blob))
	for i := range n {
		index = append(index, bytes.Clone(blob[preamble+i*entrySize:][:entrySize]))
	}
	return index, bytes.Clone(blob[preamble+n*entrySize:])
}

func joined(index [][]byte, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(index)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(append(b, slices.Concat(index...)...), data...)
}

func indexEntry(tag, typ, offset, count int) (b []byte) {
	for _, v := range []int{tag, typ, offset, count} {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// beside adds an entry outside of the signed region.
func beside(t testing.TB, blob []byte, tag, typ, count int, content []byte) []byte {
	t.Helper()
	index, data := parts(blob)
	for len(data)%8 != 0 {
		data = append(data, 0)
	}
	return joined(append(index, indexEntry(tag, typ, len(data), count)), append(data, content...))
}

// drop takes entries of the tag off, with their data.
func drop(t testing.TB, blob []byte, tag int) []byte {
	t.Helper()
	h := parsed(t, blob)
	index, data := parts(blob)
	inRegion, regionSize, err := region(blob, len(index), data)
	if err != nil {
		t.Fatal(err)
	}
	out := joined(index[:inRegion], data[:regionSize])
	for _, e := range h.beside {
		if e.tag != tag {
			out = beside(t, out, e.tag, e.typ, e.count, e.data)
		}
	}
	return out
}

// hidden adds data that no tag refers to.
func hidden(t testing.TB, blob []byte) []byte {
	index, data := parts(blob)
	return joined(index, append(data, "evil data of nobody"...))
}

// addFile adds a file to the lists inside of the region, as a host would that rewrites
// the header whole: one base name, directory number, digest, mode and size more.
func addFile(t testing.TB, blob []byte) []byte {
	t.Helper()
	h := parsed(t, blob)
	more := map[int][]byte{tagBaseNames: []byte("evil\x00"), tagDirIndexes: {0, 0, 0, 0}, tagFileModes: {0x81, 0xed}, tagFileSizes: {0, 0, 0, 4}, tagFileFlags: {0, 0, 0, 0},
		tagFileDigests: []byte(strings.TrimPrefix(keystead.Sum([]byte("evil")).String(), "sha256:") + "\x00")}
	var data []byte
	index := [][]byte{nil}
	for _, e := range h.region {
		for len(data)%8 != 0 {
			data = append(data, 0)
		}
		content, count := e.data, e.count
		if m, ok := more[e.tag]; ok {
			content, count = append(bytes.Clone(content), m...), count+1
		}
		index = append(index, indexEntry(e.tag, e.typ, len(data), count))
		data = append(data, content...)
	}
	index[0] = indexEntry(tagImmutable, typeBin, len(data), entrySize)
	data = append(data, indexEntry(tagImmutable, typeBin, -len(index)*entrySize, entrySize)...)
	out := joined(index, data)
	for _, e := range h.beside {
		out = beside(t, out, e.tag, e.typ, e.count, e.data)
	}
	if files, err := parsed(t, out).Files(); err != nil || len(files) != 3 {
		t.Fatalf("the added file is not seen: %v, %v", files, err)
	}
	return out
}

// unwrapped takes the region's first entry off, so that nothing says what was signed.
func unwrapped(blob []byte) []byte {
	index, data := parts(blob)
	return joined(index[1:], data)
}

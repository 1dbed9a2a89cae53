package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// TestJournal: what sqlite has written to its log and not yet to the file counts, up to
// the last commit and as far as the checksums hold.
func TestJournal(t *testing.T) {
	s := tools(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "db")
	if err := os.WriteFile(name, s.database, 0o600); err != nil {
		t.Fatal(err)
	}
	script := "PRAGMA journal_mode=WAL;\nPRAGMA wal_autocheckpoint=0;\nDELETE FROM Packages WHERE hnum = 1;\nINSERT INTO Packages(blob) SELECT blob FROM Packages WHERE hnum = 2;\n" +
		".shell cp " + name + "-wal " + dir + "/journal && cp " + name + " " + dir + "/file\n"
	c := exec.Command("sqlite3", name)
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	file, journal := readDatabase(t, filepath.Join(dir, "file")), readDatabase(t, filepath.Join(dir, "journal"))
	names := func(journal []byte) (out []string) {
		for blob, err := range Headers(file, journal) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, parsed(t, blob).Name())
		}
		return out
	}
	without := names(nil)
	if len(without) != 4 {
		t.Fatalf("the file alone has %v", without)
	}
	if got := names(journal); len(got) != 4 || got[0] != without[1] || got[3] != without[1] {
		t.Errorf("with the journal: %v, without: %v", got, without)
	}
	last := bytes.Clone(journal)
	last[len(last)-1] ^= 1
	if got := names(last); len(got) != 3 {
		t.Errorf("with a journal whose last transaction is damaged: %v, want the first transaction's", got)
	}
	if got := names(journal[:40]); len(got) != 4 || got[0] != without[0] {
		t.Errorf("with a journal that is cut off: %v", got)
	}
}

// TestDatabaseBounds: databases that would have their reader go in circles, or allocate
// what is not there.
func TestDatabaseBounds(t *testing.T) {
	s := tools(t)
	sle := readDatabase(t, filepath.Join(testdata(t), "sle15-bci/Packages.db"))
	uuid := readDatabase(t, filepath.Join(testdata(t), "libuuid/Packages"))
	edit := func(b []byte, at int, v uint32, o binary.ByteOrder) []byte {
		out := bytes.Clone(b)
		o.PutUint32(out[at:], v)
		return out
	}
	pageSize := int(binary.BigEndian.Uint16(s.database[16:]))
	circle := bytes.Clone(s.database)
	for at := pageSize; at < len(circle); at += pageSize { // each page that begins like a chain's leads to itself
		binary.BigEndian.PutUint32(circle[at:], uint32(at/pageSize+1))
	}
	for name, tc := range map[string]struct {
		raw  []byte
		says string
	}{
		"empty":                            {nil, "magic"},
		"text":                             {[]byte(strings.Repeat("text", 512)), "magic"},
		"sqlite, pages lead to themselves": {circle, "page"},
		"sqlite, cut off":                  {s.database[:2*pageSize], "not there"},
		"sqlite, page size":                {append(append(bytes.Clone(s.database[:16]), 0, 7), s.database[18:]...), "page size"},
		"sqlite, another encoding":         {edit(s.database, 56, 2, binary.BigEndian), "encoding"},
		"ndb, slots without end":           {edit(sle, 12, 1<<31, binary.LittleEndian), "slot pages"},
		"ndb, another version":             {edit(sle, 4, 1, binary.LittleEndian), "version"},
		"ndb, a slot that is none":         {edit(sle, 32, 0, binary.LittleEndian), "slot"},
		"ndb, cut off":                     {sle[:8192], "slot"},
		"bdb, page size":                   {edit(uuid, 20, 1<<30, binary.LittleEndian), "meta page"},
	} {
		start := time.Now()
		var err error
		for _, err = range Headers(tc.raw, nil) {
			if err != nil {
				break
			}
		}
		var format *keystead.FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want a format error with %q", name, err, tc.says)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	// The chain of a Berkeley DB that leads to its own start.
	loop := bytes.Clone(uuid)
	size := int(binary.LittleEndian.Uint32(loop[20:]))
	for n := 1; n < len(loop)/size; n++ {
		if loop[n*size+25] == bdbOverflow {
			binary.LittleEndian.PutUint32(loop[n*size+16:], uint32(n))
		}
	}
	var err error
	for _, err = range Headers(loop, nil) {
	}
	if err == nil || !strings.Contains(err.Error(), "used twice") {
		t.Errorf("a chain that leads to itself: %v", err)
	}
}

// TestHeaderBounds: headers that state more than they have.
func TestHeaderBounds(t *testing.T) {
	good := tools(t).blobs(t)["good"]
	edit := func(at int, v uint32) []byte {
		out := bytes.Clone(good)
		binary.BigEndian.PutUint32(out[at:], v)
		return out
	}
	for name, blob := range map[string][]byte{
		"empty": nil, "cut off": good[:len(good)-1], "no entries": edit(0, 0), "entries without end": edit(0, 1<<31), "data without end": edit(4, 1<<31), "negative data": edit(4, 0xffffffff),
		"region outside": edit(preamble+8, 1<<30), "negative region": edit(preamble+8, 0xfffffff0), "count without end": edit(preamble+entrySize+12, 1<<31-1), "offset outside": edit(preamble+entrySize+8, 1<<31-1),
		"unknown type": edit(preamble+entrySize+4, 99),
	} {
		var format *keystead.FormatError
		if _, err := ParseHeader(blob); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzHeader: whatever parses can be asked for all that a header says.
func FuzzHeader(f *testing.F) {
	var headers []*Header
	for blob, err := range Headers(readDatabase(f, filepath.Join(testdata(f), "fedora35/rpmdb.sqlite")), nil) {
		if err != nil {
			f.Fatal(err)
		}
		headers = append(headers, parsed(f, blob))
		if len(blob) < 8<<10 {
			f.Add(blob)
			f.Add(unwrapped(blob))
		}
	}
	keys := importedKeys(f, headers)
	f.Fuzz(func(t *testing.T, blob []byte) {
		h, err := ParseHeader(blob)
		if err != nil {
			var format *keystead.FormatError
			if !errors.As(err, &format) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		_ = h.String()
		if files, err := h.Files(); err == nil {
			for _, file := range files {
				if file.Weak != file.Digest.IsZero() && !file.Weak {
					t.Fatalf("%+v", file)
				}
			}
		}
		if _, err := h.Verify(keys, time.Now()); err == nil && !bytes.Contains(blob, h.signed[16:16+entrySize*int(binary.BigEndian.Uint32(h.signed[8:]))]) {
			t.Fatal("verified bytes that the header does not hold")
		}
	})
}

// FuzzDatabase: a database of any format ends, with headers that lie within it.
func FuzzDatabase(f *testing.F) {
	for _, name := range []string{"libuuid/Packages", "sle15-bci/Packages.db", "cbl-mariner-2.0/rpmdb.sqlite"} {
		raw := readDatabase(f, filepath.Join(testdata(f), name))
		f.Add(raw[:min(len(raw), 96<<10)], []byte(nil))
	}
	f.Add([]byte(sqliteMagic), []byte{0x37, 0x7f, 6, 0x82})
	f.Fuzz(func(t *testing.T, database, journal []byte) {
		total := 0
		for blob, err := range Headers(database, journal) {
			if err != nil {
				var format *keystead.FormatError
				if !errors.As(err, &format) {
					t.Fatalf("%T: %v", err, err)
				}
				break
			}
			total += len(blob)
		}
		if most := 64 * (len(database) + len(journal) + 512); total > most {
			t.Fatalf("%d bytes of headers out of %d", total, len(database)+len(journal))
		}
	})
}

// TestUnpackBounds: lists that unpack to more than they may.
func TestUnpackBounds(t *testing.T) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var many []byte
	small := joined([][]byte{indexEntry(tagName, typeString, 0, 1)}, []byte("a\x00"))
	for range maxHeaders + 1 {
		many = append(binary.BigEndian.AppendUint32(many, uint32(len(small))), small...)
	}
	huge := binary.BigEndian.AppendUint32(nil, MaxHeader)
	huge = append(huge, make([]byte, MaxHeader-1)...) // zeros, which pack well, and are cut off
	for name, raw := range map[string][]byte{"a header that is too long": binary.BigEndian.AppendUint32(nil, MaxHeader+1), "too many headers": many, "a header that is cut off": huge, "a length that is cut off": {0, 0}} {
		var err error
		for _, err = range Unpack(w.EncodeAll(raw, nil)) {
			if err != nil {
				break
			}
		}
		var format *keystead.FormatError
		if !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wide, err := zstd.NewWriter(nil, zstd.WithWindowSize(2*packWindow))
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 3*packWindow)
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, err = range Unpack(wide.EncodeAll(random, nil)) {
	}
	if err == nil {
		t.Error("a frame that asks for more memory than its reader gives unpacks")
	}
	calls := 0
	_, err = Pack(func(yield func([]byte, error) bool) {
		for calls = 0; yield(make([]byte, 32<<20), nil); calls++ {
		}
	})
	if err == nil || calls > 16 {
		t.Errorf("a database without end packs: %v after %d", err, calls)
	}
}

// FuzzUnpack: packed lists end, and what parses of them can be proven or refused.
func FuzzUnpack(f *testing.F) {
	packed, err := Pack(Headers(readDatabase(f, filepath.Join(testdata(f), "libuuid/Packages")), nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add(packed[:len(packed)/2])
	f.Fuzz(func(t *testing.T, packed []byte) {
		p, err := Prove(Unpack(packed), nil, refval.SelectAll, time.Unix(1e9, 0))
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Fatalf("%T: %v", err, err)
		}
		if err == nil && (p.Set.Len() > 0 || len(p.Refused) != len(p.Packages)) {
			t.Fatalf("without keys, %d files are proven and %d of %d packages refused", p.Set.Len(), len(p.Refused), len(p.Packages))
		}
	})
}

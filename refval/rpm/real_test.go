package rpm

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	peerbdb "github.com/knqyf263/go-rpmdb/pkg/bdb"
	dbi "github.com/knqyf263/go-rpmdb/pkg/db"
	peerndb "github.com/knqyf263/go-rpmdb/pkg/ndb"

	"github.com/keystead/keystead"
)

const tagPubkeys = 266

// testdata is the directory of real databases that the module go-rpmdb has.
func testdata(t testing.TB) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/knqyf263/go-rpmdb").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "pkg/testdata")
}

func readDatabase(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// importedKeys returns the keys that a machine had imported: here, as in no verifier,
// the machine is asked whom it trusts, so that the signatures can be tried.
func importedKeys(t testing.TB, headers []*Header) (keys Keyring) {
	t.Helper()
	for _, h := range headers {
		if !h.Pseudo() {
			continue
		}
		list := append(texts(h.beside, tagPubkeys), texts(h.region, tagPubkeys)...)
		for _, k := range list {
			raw, err := base64.StdEncoding.DecodeString(string(k))
			if err == nil {
				if one, err := ParseKeyring(raw); err == nil {
					keys = keys.Add(one)
				} else {
					t.Logf("%v: %v", h, err)
				}
			}
		}
	}
	return keys
}

// realDatabases are go-rpmdb's: what each holds, and what becomes of its packages
// under the keys that the machine itself had imported. Where it had imported none, all
// are foreign; CentOS 5 and 6, and some makers of additions, signed over SHA-1.
var realDatabases = map[string]map[keystead.Reason]int{
	"cbl-mariner-2.0/rpmdb.sqlite":     {keystead.ReasonPackageForeign: 129},
	"centos5-plain/Packages":           {keystead.ReasonDigestWeak: 110},
	"centos6-devtools/Packages":        {"": 48, keystead.ReasonDigestWeak: 214},
	"centos6-many/Packages":            {"": 63, keystead.ReasonDigestWeak: 262},
	"centos6-plain/Packages":           {keystead.ReasonDigestWeak: 105, keystead.ReasonPackageForeign: 24},
	"centos7-devtools/Packages":        {"": 263},
	"centos7-httpd24/Packages":         {"": 214, keystead.ReasonDigestWeak: 8},
	"centos7-many/Packages":            {"": 395},
	"centos7-plain/Packages":           {keystead.ReasonPackageForeign: 144},
	"centos7-python35/Packages":        {"": 319, keystead.ReasonDigestWeak: 23},
	"centos8-modularitylabel/Packages": {"": 517},
	"fedora35-plus-mongo/rpmdb.sqlite": {"": 139, keystead.ReasonDigestWeak: 2},
	"fedora35/rpmdb.sqlite":            {"": 137},
	"libuuid/Packages":                 {keystead.ReasonPackageForeign: 1},
	"sle15-bci/Packages.db":            {keystead.ReasonPackageForeign: 35},
	"ubi8-s390x/Packages":              {"": 181},
}

// TestRealDatabases reads real machines' databases in all three formats: 3,347 headers of
// 16 machines. Signatures are of version 3 and 4. Each header that parses has its own
// digest, and each that is signed by an imported key, over an accepted hash, verifies.
func TestRealDatabases(t *testing.T) {
	total, matched := 0, 0
	for name, want := range realDatabases {
		var headers []*Header
		for blob, err := range Headers(readDatabase(t, filepath.Join(testdata(t), name)), nil) {
			if err != nil {
				t.Fatal(name, err)
			}
			headers = append(headers, parsed(t, blob))
		}
		total += len(headers)
		keys := importedKeys(t, headers)
		got := map[keystead.Reason]int{}
		for _, h := range headers {
			if h.Pseudo() {
				continue
			}
			full := h.Digest()
			if text(h.beside, tagSHA256Header) == hex.EncodeToString(full[:]) {
				matched++
			}
			_, err := h.Verify(keys, time.Now())
			var deny *keystead.DenyError
			if errors.As(err, &deny) {
				got[deny.Findings[0].Reason]++
			} else {
				got[""]++
			}
			files, err := h.Files()
			if err != nil {
				t.Errorf("%s: %v: %v", name, h, err)
			}
			for _, f := range files {
				if f.Weak == f.Digest.IsZero() {
					continue
				}
				t.Fatalf("%s: %v: %+v", name, h, f)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: packages come to %v, want %v", name, got, want)
		}
	}
	t.Logf("%d headers, %d with a SHA-256 digest that matches", total, matched)
	if total != 3347 || matched != 1141 {
		t.Errorf("%d headers, of which %d have their SHA-256", total, matched)
	}
}

// TestRealHeadersAltered flips one bit of every real package's signed bytes in turn.
func TestRealHeadersAltered(t *testing.T) {
	n := 0
	for blob, err := range Headers(readDatabase(t, filepath.Join(testdata(t), "fedora35/rpmdb.sqlite")), nil) {
		if err != nil {
			t.Fatal(err)
		}
		h := parsed(t, blob)
		e, ok := find(h.region, tagFileDigests)
		if !ok {
			continue
		}
		at := bytes.Index(blob, e.data[:64])
		if at < 0 || e.data[0] == 0 {
			continue
		}
		edited := bytes.Clone(blob)
		edited[at] ^= 1
		if _, err := parsed(t, edited).Verify(Keyring{}, time.Now()); !errors.Is(err, keystead.ReasonHeaderAltered) {
			t.Errorf("%v: %v", h, err)
		}
		n++
	}
	if n < 20 {
		t.Errorf("only %d packages were tried", n)
	}
}

// TestPeers holds the readers of ndb and Berkeley DB against go-rpmdb's.
func TestPeers(t *testing.T) {
	for name := range realDatabases {
		path := filepath.Join(testdata(t), name)
		var entries <-chan dbi.Entry
		switch filepath.Base(name) {
		case "Packages.db":
			d, err := peerndb.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			entries = d.Read()
		case "Packages":
			d, err := peerbdb.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			entries = d.Read()
		default:
			continue
		}
		theirs, ours := map[keystead.Digest]int{}, map[keystead.Digest]int{}
		for e := range entries {
			if e.Err != nil {
				t.Fatal(name, e.Err)
			}
			theirs[keystead.Sum(e.Value)]++
		}
		for blob, err := range Headers(readDatabase(t, path), nil) {
			if err != nil {
				t.Fatal(name, err)
			}
			ours[keystead.Sum(blob)]++
		}
		if !maps.Equal(theirs, ours) {
			t.Errorf("%s: %d headers here, %d of the peer, and not the same", name, len(ours), len(theirs))
		}
	}
}

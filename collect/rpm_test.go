package collect_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/refval/rpm"
)

// TestRPMDatabases: the databases of real machines, in all three formats and both
// places, go into bundles.
func TestRPMDatabases(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/knqyf263/go-rpmdb").Output()
	if err != nil {
		t.Fatal(err)
	}
	testdata := filepath.Join(strings.TrimSpace(string(out)), "pkg/testdata")
	for from, tc := range map[string]struct {
		place    string
		packages int
	}{
		"fedora35/rpmdb.sqlite":        {"usr/lib/sysimage/rpm", 138},
		"sle15-bci/Packages.db":        {"usr/lib/sysimage/rpm", 35},
		"centos7-plain/Packages":       {"var/lib/rpm", 144},
		"ubi8-s390x/Packages":          {"var/lib/rpm", 183},
		"centos7-many/Packages":        {"var/lib/rpm", 396},
		"cbl-mariner-2.0/rpmdb.sqlite": {"var/lib/rpm", 129},
	} {
		root := t.TempDir()
		raw, err := os.ReadFile(filepath.Join(testdata, from))
		if err == nil {
			err = os.MkdirAll(filepath.Join(root, tc.place), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(root, tc.place, filepath.Base(from)), raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		var parts evidence.Parts
		sights, err := collect.Machine{Root: root}.Read(&parts)
		if err != nil || parts.Packages == nil || parts.Packages.Format != evidence.FormatRPMHeaders || !sights[3].Found || sights[3].What != "rpm database" {
			t.Fatalf("%s: %v, %+v", from, err, sights)
		}
		n := 0
		for _, err := range rpm.Unpack(parts.Packages.Data) {
			if err != nil {
				t.Fatal(from, err)
			}
			n++
		}
		t.Logf("%s: %d bytes, packed %d", from, len(raw), len(parts.Packages.Data))
		if n != tc.packages {
			t.Errorf("%s: %d headers, want %d", from, n, tc.packages)
		}
	}
}

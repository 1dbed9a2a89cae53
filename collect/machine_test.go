package collect

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keystead/keystead/evidence"
)

func tree(t *testing.T, files map[string]string) Machine {
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Root: root}
}

func TestReadTellsWhatIsMissing(t *testing.T) {
	m := tree(t, map[string]string{eventLogPath: "events", imaLogPath: ""})
	var p evidence.Parts
	sights, err := m.Read(&p)
	if err != nil {
		t.Fatal(err)
	}
	if string(p.EventLog) != "events" || p.IMALog != nil || p.Packages != nil {
		t.Errorf("got %+v", p)
	}
	for i, want := range []string{"6 bytes ", "is empty the kernel has no IMA", "is not there this is not a Debian machine"} {
		if !strings.HasPrefix(sights[i].Detail+" "+sights[i].Hint, want) || sights[i].Found != (i == 0) {
			t.Errorf("%s: want %q, got %+v", sights[i].What, want, sights[i])
		}
	}
}

func TestReadRefusesWhatABundleCanNotHold(t *testing.T) {
	m := tree(t, map[string]string{eventLogPath: strings.Repeat("x", evidence.MaxEventLog+1)})
	var p evidence.Parts
	_, err := m.Read(&p)
	if err == nil || !strings.Contains(err.Error(), "which is the most that a bundle takes") || p.EventLog != nil {
		t.Errorf("got %v", err)
	}
}

package conf

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMaking(t *testing.T) {
	write := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	undo := Making(fresh)
	write(filepath.Join(fresh, "inside", "key"))
	undo()
	if _, err := os.Stat(fresh); !os.IsNotExist(err) {
		t.Errorf("a directory that was made is still there: %v", err)
	}
	old := t.TempDir()
	write(filepath.Join(old, "kept"))
	undo = Making(old)
	write(filepath.Join(old, "key"))
	write(filepath.Join(old, "more", "key"))
	undo()
	left, err := os.ReadDir(old)
	if err != nil || len(left) != 1 || left[0].Name() != "kept" {
		t.Errorf("want the file that stood there alone, got %v, %v", left, err)
	}
}

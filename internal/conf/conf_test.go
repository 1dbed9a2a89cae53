package conf

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestGaps(t *testing.T) {
	type config struct {
		Dir string `toml:"dir"`
		Log Log    `toml:"log"`
	}
	whole := "# Trusts: nobody\ndir = \"x\"\n[log]\n# Trusts: nobody\nlevel = \"info\"\n# Trusts: nobody\nformat = \"text\"\n"
	if got := Gaps(whole, config{}); len(got) != 0 {
		t.Errorf("a whole manual has gaps: %v", got)
	}
	want := []string{"log.level: its comment does not say whom it trusts", "dir is missing", "log.format is missing", "has 1 fields, the configuration 3"}
	if got := Gaps("[log]\n# how much\nlevel = \"info\"\n", config{}); !slices.Equal(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
}

func TestReadFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(path, 10); err != nil || len(b) != 10 {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	if b, err := ReadFile(path, 9); err == nil || err.Error() != path+": is longer than the 9 bytes that are accepted" {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
}

package ladder

import (
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
)

// mostNaming is how many Go files outside of a system may name it: where a node, an agent and the
// command line are put together.
const mostNaming = 3

// TestASystemIsNamedSeldom counts who names the whole toy, which has a part on each.
func TestASystemIsNamedSeldom(t *testing.T) {
	naming := naming(t, os.DirFS("../.."), "internal/toy")
	if len(naming) > mostNaming || len(naming) == 0 {
		t.Errorf("%d files name the toy, at most %d are wanted: %q", len(naming), mostNaming, naming)
	}
}

// naming returns the files that import a system or one of its presences, and are not its own.
func naming(t *testing.T, tree fs.FS, system string) (out []string) {
	t.Helper()
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(p) != ".go" || strings.HasPrefix(p, system+"/") || strings.HasPrefix(p, "internal/ladder/") {
			return err
		}
		src, err := fs.ReadFile(tree, p)
		if strings.Contains(string(src), `"`+module+"/"+system) {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestASystemIsNamedSeldomCatches proves that the test above can fail.
func TestASystemIsNamedSeldomCatches(t *testing.T) {
	tree := fakeTree{
		"internal/toy/a.go":   "package toy\n",
		"internal/toy/x/b.go": "package x\nimport _ \"" + module + "/internal/toy\"\n",
		"node/c.go":           "package node\nimport _ \"" + module + "/internal/toy/x\"\n",
		"agent/d.go":          "package agent\nimport _ \"" + module + "/internal/toy\"\n",
		"cmd/e.go":            "package main\n",
	}
	if got := naming(t, tree.dir(t), "internal/toy"); len(got) != 2 {
		t.Errorf("found %q", got)
	}
}

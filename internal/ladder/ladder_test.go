// Package ladder holds the test that keeps imports pointing down (doc.go).
package ladder

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/keystead/keystead"

// rungs gives each room of the house its rung; a child has its parent's.
var rungs = map[string]int{
	"": 0, "key": 0, "api": 0,
	"evidence": 1, "refval": 1, "policy": 1, "lock": 1,
	"appraise": 2, "receipt": 2,
	"admit":   3,
	"keyring": 4,
	"ledger":  5, "attest": 5, "channel": 5, "relay": 5, "interchange": 5, "recorder": 5,
	"part": 6, "watch": 6,
	"archive": 7, "replica": 7, "collect": 7, "fetch": 7, "serve": 7, "client": 7, "console": 7,
	"node": 8, "agent": 8,
	"cmd": 9,
}

// bans are imports forbidden to whole stretches of the ladder, each with its reason.
var bans = []struct {
	upTo    int // the highest rung that the ban holds for
	imports []string
	reason  string
}{
	{5, []string{"net", "net/http", "os/exec", "syscall", "golang.org/x/sys/unix"}, "rooms up to rung 5 return effects as data; rung 6 and above touch the world"},
	{5, []string{"os"}, "rooms up to rung 5 take bytes and readers, not paths"},
	{2, []string{"math/rand", "math/rand/v2", "crypto/rand"}, "appraisal is a pure function: randomness comes as an argument"},
	{8, []string{module + "/internal/testbed", module + "/internal/demo", module + "/internal/practice", module + "/replica/sim", module + "/replica/sim/domain"}, "test beds and demos serve tests and the CLI only"},
}

// allowed are single exceptions, each with its reason.
var allowed = map[[2]string]string{
	{"watch/watchnode", module + "/part"}:           "a system's part on a node",
	{"replica/sim/domain", module + "/replica/sim"}: "a test bed on top of a test bed",
	{"refval", "golang.org/x/sys/unix"}:             "a hint to the kernel on how to hold memory; nothing is read or written by it",
	{"attest", "net"}:                               "a net.Conn or net.Listener that it is given is what it attests over; it opens none",
	{"api/v1/apiv1connect", "net/http"}:             "generated stubs: http.Handler is part of what they generate, and they open nothing",
}

func TestImportsPointDown(t *testing.T) {
	for _, v := range violations(t, os.DirFS("../..")) {
		t.Error(v)
	}
}

// TestLadderCatches proves that the test above can fail: one tree per rule.
func TestLadderCatches(t *testing.T) {
	for _, tc := range []struct{ file, imports, want string }{
		{"evidence/tpm2/a.go", module + "/appraise", "points up"},
		{"evidence/tpm2/a.go", module + "/evidence/ima", "sibling"},
		{"ledger/a.go", module + "/relay", "sibling"},
		{"appraise/a.go", "net/http", "rung 6 and above touch the world"},
		{"refval/deb/a.go", "os", "not paths"},
		{"appraise/a.go", "crypto/rand", "pure function"},
		{"node/a.go", module + "/internal/testbed", "test beds"},
		{"util/a.go", "fmt", "not a room of the ladder"},
	} {
		tree := fakeTree{tc.file: fmt.Sprintf("package a\nimport _ %q\n", tc.imports)}
		got := strings.Join(violations(t, tree.dir(t)), "\n")
		if !strings.Contains(got, tc.want) {
			t.Errorf("%s importing %s: want a violation with %q, got %q", tc.file, tc.imports, tc.want, got)
		}
	}
}

type fakeTree map[string]string

func (f fakeTree) dir(t *testing.T) fs.FS {
	dir := t.TempDir()
	for name, src := range f {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return os.DirFS(dir)
}

func violations(t *testing.T, tree fs.FS) (out []string) {
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || slices.Contains([]string{"testdata", "tools", "build"}, d.Name())):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go"):
			return nil
		}
		src, err := fs.ReadFile(tree, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			if v := judge(room(path.Dir(p)), imp); v != "" {
				out = append(out, fmt.Sprintf("%s imports %s: %s", p, imp, v))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func room(dir string) string {
	if dir == "." {
		return ""
	}
	return dir
}

func top(room string) string { r, _, _ := strings.Cut(room, "/"); return r }

// judge returns why room may not import imp, or "".
func judge(room, imp string) string {
	if top(room) == "internal" {
		return "" // internal packages are held by the rooms that import them
	}
	rung, ok := rungs[top(room)]
	if !ok {
		return fmt.Sprintf("%q is not a room of the ladder; add it to design and ladder, or put it where it belongs", room)
	}
	if allowed[[2]string{room, imp}] != "" {
		return ""
	}
	for _, b := range bans {
		if rung <= b.upTo && slices.Contains(b.imports, imp) {
			return b.reason
		}
	}
	target, ours := strings.CutPrefix(imp, module)
	target = strings.TrimPrefix(target, "/")
	if !ours || top(target) == "internal" {
		return ""
	}
	switch r, ok := rungs[top(target)]; {
	case !ok:
		return "imports a package that is no room of the ladder"
	case r > rung:
		return fmt.Sprintf("points up, from rung %d to rung %d", rung, r)
	case r == rung && room != target && rung != 0 && !strings.HasPrefix(room, target+"/") && !wires(rung, room, target):
		return fmt.Sprintf("is a sibling on rung %d; within a rung only a child imports its parent", rung)
	}
	return ""
}

// wires admits a parent that gathers its own children on the rungs that wire things together.
func wires(rung int, room, target string) bool {
	return rung >= 6 && strings.HasPrefix(target, room+"/")
}

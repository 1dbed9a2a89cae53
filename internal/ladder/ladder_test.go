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

// rungs gives each room of the house its rung; a room below another has the other's, unless it
// stands here itself. Rooms import what is below them, and each other within internal.
var rungs = map[string]int{
	"": 0, "key": 0, "api": 0, "guest": 0,
	"evidence": 1, "refval": 1, "policy": 1, "lock": 1, "examples": 1,
	"appraise": 2, "receipt": 2,
	"admit":   3,
	"keyring": 4,
	"ledger":  5, "attest": 5, "app": 5, "channel": 5, "relay": 5, "interchange": 5, "recorder": 5, "svid": 5,
	"part": 6, "agent/part": 6, "watch": 6,
	"archive": 7, "replica": 7, "collect": 7, "fetch": 7, "serve": 7, "client": 7, "console": 7,
	"internal/cli": 8,
	// 9: presences of systems, by their names (presence)
	"node": 10, "agent": 10,
	"cmd": 12,

	// What rooms share and nobody outside should import stands with the lowest room that needs it.
	"internal/authenticode": 0, "internal/bounded": 0, "internal/cursor": 0, "internal/pgp": 0, "internal/refusal": 0,
	"internal/lines": 3, "internal/chain": 1, "ledger/contract/meter": 1, "internal/dcap": 1, "internal/endorse": 1,
	"internal/conf": 6,
	"app/launch":    7, "internal/confine": 7,
	"internal/toy": 5, // a system for tests; its parts are presences as any
	// Test beds, benches and demos see all of the house but the binary.
	"internal/bench": bed, "internal/debrepo": bed, "internal/demo": bed, "internal/flood": bed, "internal/forger": bed, "internal/foundry": bed,
	"internal/freeport": bed, "internal/golden": bed, "internal/ladder": bed, "internal/practice": bed, "internal/recording": bed,
	"internal/rpmrepo": bed, "internal/samples": bed, "internal/shell": bed, "internal/specimen": bed, "internal/swtpm": bed, "internal/testbed": bed,
	"replica/sim": bed, "part/parttest": bed,
}

const (
	presences = 9
	bed       = 11
)

// bans are imports forbidden to whole stretches of the ladder, each with its reason.
var bans = []struct {
	upTo    int // the highest rung that the ban holds for
	imports []string
	reason  string
}{
	{5, []string{"net", "net/http", "os/exec", "syscall", "golang.org/x/sys/unix"}, "rooms up to rung 5 return effects as data; rung 6 and above touch the world"},
	{5, []string{"os"}, "rooms up to rung 5 take bytes and readers, not paths"},
	{2, []string{"math/rand", "math/rand/v2", "crypto/rand"}, "appraisal is a pure function: randomness comes as an argument"},
}

// systems are the pure cores of what hangs on a node, an agent or the command line by parts.
var systems = []string{"svid", "watch", "app", "lock", "channel", "relay", "interchange", "recorder", "ledger/contract", "internal/toy"}

// seams are what a system's presence imports beside its own core and the rooms up to rung 5, and
// the one file that may import it.
var seams = map[string]struct {
	rooms    []string
	assembly string
}{
	"node":    {[]string{"part"}, "node/parts.go"},
	"agent":   {[]string{"agent/part"}, "agent/parts.go"},
	"cmd":     {[]string{"client", "client/local", "internal/cli"}, "cmd/keystead/main.go"},
	"console": {[]string{"console"}, "console/parts.go"},
}

// allowed are single exceptions, each with its reason.
var allowed = map[[2]string]string{
	{"refval", "golang.org/x/sys/unix"}:               "a hint to the kernel on how to hold memory; nothing is read or written by it",
	{"attest", "net"}:                                 "a net.Conn or net.Listener that it is given is what it attests over; it opens none",
	{"api/v1/apiv1connect", "net/http"}:               "generated stubs: http.Handler is part of what they generate, and they open nothing",
	{"api/app/v1/appv1connect", "net/http"}:           "generated stubs: http.Handler is part of what they generate, and they open nothing",
	{"api/contract/v1/contractv1connect", "net/http"}: "generated stubs: http.Handler is part of what they generate, and they open nothing",
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
		{"node/a.go", module + "/replica/sim/domain", "test beds"},
		{"util/a.go", "fmt", "not a room of the ladder"},
		{"internal/util/a.go", "fmt", "not a room of the ladder"},
		{"internal/pgp/a.go", "os", "not paths"},
		{"internal/refusal/a.go", module + "/client", "points up"},
		{"evidence/a.go", module + "/internal/conf", "points up"},
		{"watch/watchnode/a.go", module + "/svid/svidnode", "sideways"},
		{"watch/watchnode/a.go", module + "/svid", "another system's"},
		{"watch/watchnode/a.go", module + "/node", "knows the node by part"},
		{"watch/watchnode/a.go", module + "/agent/part", "knows the node by part"},
		{"watch/watchnode/a.go", module + "/client", "knows the node by part"},
		{"svid/svidagent/a.go", module + "/part", "knows the agent by agent/part"},
		{"svid/svidagent/a.go", module + "/collect", "knows the agent by agent/part"},
		{"watch/watchcmd/a.go", module + "/node", "knows the cmd by client"},
		{"watch/watchcmd/a.go", module + "/internal/demo", "test beds"},
		{"node/a.go", module + "/watch/watchnode", "node/parts.go alone"},
		{"node/parts.go", module + "/svid/svidagent", "agent/parts.go alone"},
		{"cmd/keystead/a.go", module + "/watch/watchcmd", "cmd/keystead/main.go alone"},
		{"internal/demo/a.go", module + "/svid/svidagent", "agent/parts.go alone"},
		{"agent/a.go", module + "/svid", "knows no system"},
		{"node/a.go", module + "/watch", "knows no system"},
		{"watch/a.go", module + "/part", "sibling"},
		{"svid/a.go", module + "/agent/part", "points up"},
		{"agent/part/a.go", module + "/agent", "points up"},
		{"part/a.go", module + "/node", "points up"},
		{"watch/watchnode/a.go", module + "/watch", ""},
		{"watch/watchnode/a.go", module + "/part", ""},
		{"watch/watchnode/a.go", module + "/api/v1", ""},
		{"watch/watchnode/a.go", module + "/internal/conf", ""},
		{"watch/watchcmd/a.go", module + "/internal/cli", ""},
		{"node/parts.go", module + "/watch/watchnode", ""},
		{"agent/parts.go", module + "/svid/svidagent", ""},
		{"agent/a.go", module + "/agent/part", ""},
		{"internal/toy/toyagent/a.go", module + "/internal/toy", ""},
		{"internal/toy/toyagent/a.go", module + "/internal/toy/toycmd", "sideways"},
	} {
		tree := fakeTree{tc.file: fmt.Sprintf("package a\nimport _ %q\n", tc.imports)}
		got := strings.Join(violations(t, tree.dir(t)), "\n")
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
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
			if v := judge(p, imp); v != "" {
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

// rungOf returns a room's rung, and the room of the ladder that it belongs to.
func rungOf(room string) (rung int, of string, ok bool) {
	if _, kind := presence(room); kind != "" {
		return presences, room, true
	}
	for of = room; ; of = path.Dir(of) {
		if r, ok := rungs[of]; ok {
			return r, of, true
		}
		if !strings.Contains(of, "/") {
			return 0, "", false
		}
	}
}

// presence reports of which system and on what a room is the presence: X/Xnode, X/Xagent, X/Xcmd
// and X/Xconsole.
func presence(room string) (system, kind string) {
	system = path.Dir(room)
	kind, ok := strings.CutPrefix(path.Base(room), path.Base(system))
	if _, known := seams[kind]; !ok || !known || system == "." {
		return "", ""
	}
	return system, kind
}

// judge returns why a file may not import imp, or "".
func judge(file, imp string) string {
	room := room(path.Dir(file))
	rung, of, ok := rungOf(room)
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
	if !ours {
		return ""
	}
	target = strings.TrimPrefix(target, "/")
	r, to, ok := rungOf(target)
	if !ok {
		return "imports a package that is no room of the ladder"
	}
	if r == bed && rung < bed {
		return "test beds and demos serve tests and the binary only"
	}
	if why := acrossParts(file, room, target, r); why != "" {
		return why
	}
	inner := func(room string) bool { return strings.HasPrefix(room, "internal/") }
	switch {
	case r > rung && !wires(rung, room, target):
		return fmt.Sprintf("points up, from rung %d to rung %d", rung, r)
	case r == rung && rung != 0 && rung != bed && room != target && !strings.HasPrefix(room, target+"/") && !wires(rung, room, target) && !inner(of) && !inner(to):
		return fmt.Sprintf("is a sibling on rung %d; within a rung only a child imports its parent", rung)
	}
	return ""
}

// acrossParts returns why an import goes past the seam, or "".
func acrossParts(file, room, target string, rung int) string {
	system, kind := presence(room)
	_, targets := presence(target)
	switch {
	case kind != "" && targets != "":
		return "goes sideways: no part imports another, what one needs of another comes by its constructor"
	case targets != "" && file != seams[targets].assembly:
		return fmt.Sprintf("is a part, which %s alone imports", seams[targets].assembly)
	case kind == "" && (room == "node" || room == "agent") && slices.ContainsFunc(systems, within(target)) && file != seams[room].assembly:
		return fmt.Sprintf("is a system's: %s is an assembly of parts and knows no system, save in %s", room, seams[room].assembly)
	case kind == "" || within(target)(system) || slices.Contains(seams[kind].rooms, target):
		return ""
	case slices.ContainsFunc(systems, within(target)):
		return "is another system's core: what one system needs of another comes by its constructor"
	case rung > 5 && !strings.HasPrefix(target, "internal/"):
		return fmt.Sprintf("is beside the seam: a part knows the %s by %s", kind, strings.Join(seams[kind].rooms, ", "))
	}
	return ""
}

// within asks whether a room is, or is below, another.
func within(room string) func(above string) bool {
	return func(above string) bool { return room == above || strings.HasPrefix(room, above+"/") }
}

// wires admits a parent that gathers its own children on the rungs that wire things together.
func wires(rung int, room, target string) bool {
	return rung >= 6 && strings.HasPrefix(target, room+"/")
}

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app/launch"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/policy"
)

func TestMain(m *testing.M) {
	launch.Stage()
	// A launched program is called by that name.
	testscript.Main(m, map[string]func(){"keystead": recorded, "application": recorded})
}

var update = flag.Bool("update", false, "rewrite the expectations of scripts' cmp, and the golden files of testdata")

// TestScripts runs testdata/script. "status N COMMAND…" runs a command and demands its exit status.
// What the commands answered is held to testdata/answers.golden (answers_test.go).
func TestScripts(t *testing.T) {
	shapes := t.TempDir()
	var began atomic.Int32
	t.Cleanup(func() { checkAnswers(t, shapes, int(began.Load())) })
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, ".cache"))
			env.Setenv(shapesEnv, shapes)
			began.Add(1)
			env.Values[stageKey{}] = map[string]*practice.Machine{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"host":     startHost,
			"rpmhost":  makeRPMHost,
			"wasm":     buildContract,
			"machines": startMachines,
			"phase":    nextPhase,
			"mirror":   startMirror,
			"fields":   listFields,
			"schema":   checkSchema,
			"blocks":   extractBlocks,
			"bed":      compareBed,
			"excerpt":  checkExcerpt,
			"ports":    claimPorts,
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				if neg || err != nil || len(args) < 2 {
					ts.Fatalf("usage: status N COMMAND…")
				}
				got := 0
				var exit *exec.ExitError
				if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
					got = exit.ExitCode()
				} else {
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("exit status %d, want %d", got, want)
				}
			},
		},
	})
}

// TestEveryCommandIsDescribed walks the tree of commands.
func TestEveryCommandIsDescribed(t *testing.T) {
	root := newApp(nil, nil).root()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Long == "" || !strings.HasPrefix(c.Example, "  keystead ") {
			t.Errorf("%s: Short %q, Long %q, Example %q: none may be empty, and examples start with the program's name, indented", c.CommandPath(), c.Short, c.Long, c.Example)
		}
		if strings.HasSuffix(c.Short, ".") || c.RunE == nil || c.Run != nil {
			t.Errorf("%s: Short is a phrase without a full stop, and RunE does the work", c.CommandPath())
		}
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	walk(root)
	if n := len(root.Commands()); n < 3 {
		t.Errorf("the tree has %d nouns", n)
	}
}

// TestStatusesAreDocumented holds docs/spec/cli.md to the stages that there are.
func TestStatusesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/spec/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for s := keystead.StageMisuse; s <= keystead.StageNotFound; s++ {
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \| [a-z ]+ \| [A-Z]`, s)).Match(page) {
			t.Errorf("docs/spec/cli.md does not explain status %d", s)
		}
	}
}

func TestExplanations(t *testing.T) {
	p, err := policy.Compile([]byte(`keystead-policy/1
name x
rule secure-boot
  require boot.secure_boot
  otherwise turn Secure Boot on
rule bank
  require quote.banks[0] == "sha256"
  otherwise quote a bank
rule listed
  require packages.unlisted.all(p, p.startsWith("x"))
  otherwise install them
`), appraise.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	results := p.Eval(evidence.Claims{Packages: evidence.PackageClaims{Unlisted: []string{"x\u202e1"}}})
	var out bytes.Buffer
	explained(results).print(&out)
	want := `rule secure-boot: NOT MET
  require boot.secure_boot
    boot.secure_boot = false
  otherwise turn Secure Boot on
rule bank: NOT MET
  require quote.banks[0] == "sha256"
    quote.banks = []
  no value: quote.banks[0] == "sha256": index out of bounds: 0
  otherwise quote a bank
rule listed: met
  require packages.unlisted.all(p, p.startsWith("x"))
    packages.unlisted = ["x\u202e1"]
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// TestHelpFits holds help texts to their width.
func TestHelpFits(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for line := range strings.Lines(c.Long + "\n" + c.UsageString()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > cli.HelpWidth {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), n, line)
			}
		}
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	walk(newApp(new(bytes.Buffer), new(bytes.Buffer)).root())
}

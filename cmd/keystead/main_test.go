package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/policy"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keystead": recorded})
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
	a := &app{}
	root := a.root()
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

func TestExitStatus(t *testing.T) {
	signature := keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed}, keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "quote", Want: "a\x1b[2J", Got: "b"})
	for _, tc := range []struct {
		err    error
		exit   int
		stderr string
	}{
		{nil, 0, ""},
		{misuse(errors.New("no"), "yes"), 1, "keystead: error: no\nkeystead: hint: yes\n"},
		{fmt.Errorf("host.bundle: %w", signature), 2, "keystead: error: host.bundle: rule-failed\nkeystead: error: host.bundle: nonce-mismatch: quote: want a\\u001b[2J, got b\n"},
		{hinted(keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexExpired}), "fetch"), 3, "keystead: error: index-expired\nkeystead: hint: fetch\n"},
		{keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed}), 5, "keystead: error: rule-failed\n"},
		{&keystead.FormatError{Format: "ima", Offset: 7, Field: "pcr", Problem: "is 99"}, 2, "keystead: error: ima: offset 7: pcr: is 99\n"},
		{misuse(&keystead.FormatError{Format: "policy", Field: "x", Problem: "y"}, ""), 1, "keystead: error: policy: offset 0: x: y\n"},
		{errors.New("disk"), 7, "keystead: error: disk\n"},
	} {
		var stdout, stderr bytes.Buffer
		a := &app{stdout: &stdout, stderr: &stderr}
		if got := a.report(tc.err); got != tc.exit || stderr.String() != tc.stderr || stdout.Len() != 0 {
			t.Errorf("%v: exit %d, want %d; stderr %q, want %q; stdout %q", tc.err, got, tc.exit, stderr.String(), tc.stderr, stdout.String())
		}
		stdout.Reset()
		a.json = true
		a.report(tc.err)
		var doc struct {
			Error reported `json:"error"`
		}
		if tc.err == nil {
			continue
		}
		if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil || int(doc.Error.Exit) != tc.exit || doc.Error.Message != tc.err.Error() {
			t.Errorf("%v as JSON: %v, %s", tc.err, err, stdout.String())
		}
	}
	var stdout bytes.Buffer
	a := &app{stdout: &stdout, stderr: new(bytes.Buffer), json: true}
	if err := a.answer("verdict", nil); err != nil {
		t.Fatal(err)
	}
	a.report(signature)
	if stdout.String() != "\"verdict\"\n" {
		t.Errorf("an answer is followed by a second document: %s", stdout.String())
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

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	p := (&app{stderr: &out}).progress("Unpacking") // a buffer is no terminal
	p.now = func() time.Time { return now }
	step := func(d time.Duration, done int64) {
		now = now.Add(d)
		p.Set(done, 119)
	}
	step(0, 1)
	step(time.Second, 2)
	step(4*time.Second, 3)
	step(time.Second, 119)
	p.Close()
	if want := "Unpacking: 1 of 119\nUnpacking: 3 of 119\nUnpacking: 119 of 119\n"; out.String() != want {
		t.Errorf("lines %q, want %q", out.String(), want)
	}
	out.Reset()
	p = &progress{w: &out, now: func() time.Time { return now }, label: "Unpacking", terminal: true}
	step(0, 30)
	step(50*time.Millisecond, 31)
	step(50*time.Millisecond, 200)
	p.Close()
	if want := "\r\x1b[KUnpacking [======                  ]  25%  30 of 119" + strings.Repeat("\r\x1b[KUnpacking ["+strings.Repeat("=", 24)+"] 100%  200 of 119", 2) + "\n"; out.String() != want {
		t.Errorf("bar %q, want %q", out.String(), want)
	}
}

// TestHelpFits holds help texts to their width.
func TestHelpFits(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for line := range strings.Lines(c.Long + "\n" + c.UsageString()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > helpWidth {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), n, line)
			}
		}
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	walk((&app{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}).root())
}

// TestAnswersAreEscaped lets no text of evidence reach a terminal as it is.
func TestAnswersAreEscaped(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, json: true}
	hostile := "a\x1b[2J\u009b\u202e\U000e0001b"
	if err := a.answer(hostile, nil); err != nil {
		t.Fatal(err)
	}
	var back string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != hostile || printable(strings.TrimSpace(out.String())) != strings.TrimSpace(out.String()) {
		t.Errorf("as JSON: %v, %q, written as %q", err, back, out.String())
	}
	out.Reset()
	a.json = false
	if err := a.answer(nil, func(w io.Writer) { fmt.Fprintln(w, hostile) }); err != nil || out.String() != "a\\u001b[2J\\u009b\\u202e\\udb40\\udc01b\n" {
		t.Errorf("as text: %v, %q", err, out.String())
	}
}

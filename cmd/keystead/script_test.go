package main

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/internal/freeport"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
)

// stageKey finds the hosts of a running script.
type stageKey struct{}

// startHost starts a live software TPM with the recorded boot: host DIR.
func startHost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: host DIR")
	}
	m, stop, err := practice.Alone(context.Background(), ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(func() { ts.Check(stop()) })
	ts.Value(stageKey{}).(map[string]*practice.Machine)[args[0]] = m
}

// startMachines starts several of one authority, each in DIR/NAME, and writes what a
// verifier needs to DIR: machines DIR NAME….
func startMachines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: machines DIR NAME…")
	}
	dir := ts.MkAbs(args[0])
	rec, err := recording.Load(recording.Committed())
	ts.Check(err)
	s, err := practice.New(rec)
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(s.Publish(dir))
	made, err := s.Machines(context.Background(), dir, args[1:]...)
	ts.Check(err)
	for name, m := range made {
		ts.Defer(func() { ts.Check(m.Stop()) })
		ts.Value(stageKey{}).(map[string]*practice.Machine)[args[0]+"/"+name] = m
	}
}

// buildContract compiles an example contract: wasm EXAMPLE FILE.
func buildContract(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: wasm EXAMPLE FILE")
	}
	c := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s", "-o", ts.MkAbs(args[1]), "../../examples/contracts/"+args[0])
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if said, err := c.CombinedOutput(); err != nil {
		ts.Fatalf("%v\n%s", err, said)
	}
}

// claimPorts sets a variable to the first of 256 ports in a row that no other test is
// given: ports NAME.
func claimPorts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ports NAME")
	}
	base, err := freeport.Block()
	ts.Check(err)
	ts.Setenv(args[0], strconv.Itoa(base))
}

// nextPhase has a host go through its next phase: phase DIR.
func nextPhase(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: phase DIR")
	}
	_, err := ts.Value(stageKey{}).(map[string]*practice.Machine)[args[0]].Advance(context.Background())
	ts.Check(err)
}

// startMirror writes a signed repository, and a root directory whose apt uses it:
// mirror DIR. It offers one package, and its index expired long ago with "mirror DIR expired".
func startMirror(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: mirror DIR [expired]")
	}
	dir := ts.MkAbs(args[0])
	signer := debrepo.NewSigner("mirror", time.Now().Add(-time.Hour), 0)
	content := tar.Header{Name: "./usr/bin/tool", Mode: 0o755, Typeflag: tar.TypeReg, Uname: "#!/bin/true\n"}
	r := debrepo.Repository{Suite: "stable", Date: time.Now().Add(-time.Minute), Signers: []*debrepo.Signer{signer},
		Packages: []debrepo.Package{{Name: "tool", Version: "1.0", Architecture: "amd64", Deb: debrepo.Deb(".gz", content)}}}
	if slices.Contains(args, "expired") {
		r.ValidUntil = time.Now().Add(-time.Second)
	}
	files := map[string][]byte{
		"root/etc/apt/keyring.gpg":  signer.Public(),
		"root/etc/apt/sources.list": fmt.Appendf(nil, "deb [signed-by=/etc/apt/keyring.gpg] file:%s/mirror stable main\n", dir),
		"status":                    []byte("Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n"),
		"newer":                     []byte("Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.0\n"),
		"kernel.efi":                program("kernel"),
		"loader.efi":                program("loader"),
	}
	for name, b := range r.Files() {
		files["mirror/"+name] = b
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, b, 0o644))
	}
}

// program is a small EFI program: DOS header, PE header, PE32+ optional header and the
// text behind them (PE Format, Microsoft).
func program(text string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+24+240)
	copy(b, "MZ")
	le.PutUint32(b[60:], 64) // PE header
	copy(b[64:], "PE\x00\x00")
	le.PutUint16(b[64+20:], 240) // size of the optional header
	optional := b[88:]
	le.PutUint16(optional, 0x20b)               // PE32+
	le.PutUint32(optional[60:], uint32(len(b))) // size of headers
	le.PutUint32(optional[108:], 16)            // data directories
	return append(b, text...)
}

// listFields writes the fields of the JSON on stdout to the file "fields", with their
// types, one path a line, those of a list's elements merged.
func listFields(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: fields")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	found := map[string]bool{}
	fieldsOf(v, "", found)
	lines := slices.Sorted(maps.Keys(found))
	ts.Check(os.WriteFile(ts.MkAbs("fields"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}

func fieldsOf(v any, path string, found map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			fieldsOf(e, path+"."+k, found)
		}
	case []any:
		if len(v) == 0 {
			found[path+"[]"] = true
		}
		for _, e := range v {
			fieldsOf(e, path+"[]", found)
		}
	default:
		found[fmt.Sprintf("%s %T", path, v)] = true
	}
}

// Texts that the schema of docs/spec/cli.md does not allow: numbers, times and bytes have
// forms of their own there.
var (
	schemaName   = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	schemaNumber = regexp.MustCompile(`^[0-9]{1,15}$`)
	schemaTime   = regexp.MustCompile(`^\d{4}-\d\d-\d\dT`)
	schemaBase64 = regexp.MustCompile(`^[A-Za-z0-9+/]{6,}={1,2}$`)
)

// checkSchema holds the JSON on stdout, one document or a line each, to docs/spec/cli.md:
// schema.
func checkSchema(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: schema")
	}
	documents := 0
	for d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout"))); ; documents++ {
		var v any
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		for _, wrong := range offences(v, "") {
			ts.Fatalf("%s", wrong)
		}
	}
	if documents == 0 {
		ts.Fatalf("no document on stdout")
	}
}

// offences are what in a document is not as the schema has it. What people or evidence
// wrote is in fields of these names, and may look like anything.
func offences(v any, path string) (out []string) {
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			if !schemaName.MatchString(name) {
				out = append(out, path+"."+name+": is no name in lower case and underscores")
			}
			out = append(out, offences(e, path+"."+name)...)
		}
	case []any:
		for _, e := range v {
			out = append(out, offences(e, path+"[]")...)
		}
	case string:
		switch field := path[strings.LastIndex(path, ".")+1:]; {
		case slices.Contains([]string{"text", "value", "entry", "content", "nonce", "key", "note", "hostname"}, field):
		case schemaNumber.MatchString(v), schemaTime.MatchString(v), schemaBase64.MatchString(v):
			out = append(out, fmt.Sprintf("%s: %q is a number, time or bytes in another form", path, v))
		}
	}
	return out
}

var fence = regexp.MustCompile("(?ms)^```(\\S+)( [^\n]*)?\n(.*?)^```$")

// extractBlocks writes the fenced blocks of a page that have a language, one after the
// other, to a file: blocks PAGE LANGUAGE FILE.
func extractBlocks(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: blocks PAGE LANGUAGE FILE")
	}
	page, err := os.ReadFile(filepath.Join("../..", args[0]))
	ts.Check(err)
	var out strings.Builder
	for _, m := range fence.FindAllStringSubmatch(string(page), -1) {
		if m[1] == args[1] {
			out.WriteString(m[3])
		}
	}
	if out.Len() == 0 {
		ts.Fatalf("%s has no block of %s", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(out.String()), 0o644))
}

var (
	hexDigits = regexp.MustCompile(`[0-9a-f]{8,}`)
	figures   = regexp.MustCompile(`[0-9]+(\.[0-9]+)?(ms|µs)?`)
)

// checkExcerpt holds a page's excerpt of what a command printed to what it prints now: each
// line stands on stdout, but for figures, digests and which node it was: excerpt PAGE LANGUAGE.
func checkExcerpt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: excerpt PAGE LANGUAGE")
	}
	page, err := os.ReadFile(filepath.Join("../..", args[0]))
	ts.Check(err)
	bare := func(line string) string { return figures.ReplaceAllString(hexDigits.ReplaceAllString(line, "H"), "N") }
	now := map[string]bool{}
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		now[bare(line)] = true
	}
	lines := 0
	for _, m := range fence.FindAllStringSubmatch(string(page), -1) {
		if m[1] != args[1] {
			continue
		}
		for line := range strings.Lines(m[3]) {
			if lines++; !now[bare(line)] {
				ts.Fatalf("%s shows a line that is not printed: %s", args[0], line)
			}
		}
	}
	if lines == 0 {
		ts.Fatalf("%s has no block of %s", args[0], args[1])
	}
}

// compareBed demands that a file is the test bed's, but for the project's name in it:
// bed FILE GUESTFILE.
func compareBed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: bed FILE GUESTFILE")
	}
	guest, err := os.ReadFile(filepath.Join("../../internal/testbed/guest", args[1]))
	ts.Check(err)
	if got, want := ts.ReadFile(args[0]), strings.ReplaceAll(string(guest), "keystead-testbed", "keystead"); got != want {
		ts.Fatalf("%s differs from the test bed's:\n%s", args[0], want)
	}
}

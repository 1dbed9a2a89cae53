package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// saying is a place where this repository names a command of the program.
type saying struct {
	where   string
	text    string // begins with "keystead "
	session bool   // a whole command line, as it is to be typed
}

// TestEveryCommandInWordsExists resolves each command that docs, help, hints, errors,
// units and scripts name against the tree of commands, its flags included. Of command
// lines in docs and examples, arguments and required flags are checked, too.
func TestEveryCommandInWordsExists(t *testing.T) {
	said := allSayings(t)
	for _, s := range said {
		a := newApp(new(bytes.Buffer), new(bytes.Buffer))
		if err := resolve(a.root(), s); err != nil {
			t.Errorf("%s: %q: %v", s.where, s.text, err)
		}
	}
	sessions := 0
	for _, s := range said {
		if s.session {
			sessions++
		}
	}
	if len(said) < 400 || sessions < 150 {
		t.Errorf("%d commands are named, %d of them whole lines: the search has lost its places", len(said), sessions)
	}
}

// TestResolverFindsFaults holds the test above to what it is there to find.
func TestResolverFindsFaults(t *testing.T) {
	for _, tc := range []struct {
		text    string
		session bool
		fault   string
	}{
		{"keystead policy list names the policies", false, `has no command "list"`},
		{"keystead node key", false, `has no command "key"`},
		{"keystead frob", false, `has no command "frob"`},
		{"keystead policy show --frob", false, "no flag --frob"},
		{"keystead node init n1 --name n1", true, "required flag"},
		{"keystead policy show", true, "NAME is missing"},
		{"keystead policy show strict > strict.txt", true, ""},
		{"keystead host enrol web-1 --ek sha256:... --member ops.key", true, ""},
		{"keystead ak accept writes such a file", false, ""},
		{"keystead ledger verify", false, ""},
		{"keystead ak.", false, ""},
	} {
		a := newApp(new(bytes.Buffer), new(bytes.Buffer))
		err := resolve(a.root(), saying{"here", tc.text, tc.session})
		if (err == nil) != (tc.fault == "") || err != nil && !strings.Contains(err.Error(), tc.fault) {
			t.Errorf("%q: want %q, got %v", tc.text, tc.fault, err)
		}
	}
}

var (
	spoken = regexp.MustCompile("(?:^|[^A-Za-z0-9./_-])keystead (?:--[a-z]|[a-z])") // where a command in words begins
	formal = regexp.MustCompile(`^keystead [a-z -]+/[0-9]`)                         // the context of a signature
	phrase = regexp.MustCompile(`^[a-z][a-z0-9-]*`)
	flagIn = regexp.MustCompile(`^--([a-z][a-z0-9-]*)`)
)

// resolve finds the command and its flags. In words, what follows the command is prose.
func resolve(root *cobra.Command, s saying) error {
	words := strings.Fields(s.text)[1:]
	at := root
	if len(words) > 0 && words[0] == "--version" {
		return nil
	}
	for len(words) > 0 && words[0] == "--json" {
		words = words[1:]
	}
	for len(words) > 0 && at.HasSubCommands() {
		name := phrase.FindString(words[0])
		next := slices.IndexFunc(at.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
		if next < 0 {
			if name == "" {
				return nil // "keystead ..." and the like
			}
			return fmt.Errorf("%s has no command %q", at.CommandPath(), name)
		}
		at = at.Commands()[next]
		ended := name != words[0] // a full stop, a comma or a bracket ends a phrase
		words = words[1:]
		if ended {
			return nil
		}
	}
	if s.session {
		err := typed(at, words)
		for i, w := range words { // a variable may stand for several words, or for none
			if err != nil && strings.HasPrefix(w, "$") && typed(at, slices.Delete(slices.Clone(words), i, i+1)) == nil {
				return nil
			}
		}
		return err
	}
	for _, w := range words {
		m := flagIn.FindStringSubmatch(w)
		if m == nil {
			continue
		}
		if at.Flags().Lookup(m[1]) == nil && at.InheritedFlags().Lookup(m[1]) == nil && m[1] != "help" && m[1] != "version" {
			return fmt.Errorf("%s has no flag --%s", at.CommandPath(), m[1])
		}
	}
	return nil
}

// typed holds a whole command line to flags, arguments and what is required.
func typed(c *cobra.Command, words []string) error {
	for i, w := range words { // what is the shell's
		if w == ">" || w == "|" || w == "&" || w == "&&" || w == "||" || w == "<" || strings.HasPrefix(w, "#") || strings.HasPrefix(w, "2>") || strings.HasPrefix(w, "</") || strings.HasPrefix(w, ">") {
			words = words[:i]
			break
		}
	}
	if c.HasSubCommands() && len(words) == 0 {
		return nil
	}
	if slices.Contains(words, "--help") {
		return nil
	}
	if err := c.ParseFlags(words); err != nil {
		return err
	}
	if example := c.Flags().Lookup("example-config"); example != nil && example.Changed {
		return nil
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return err
	}
	return c.ValidateRequiredFlags()
}

func allSayings(t *testing.T) (out []saying) {
	t.Helper()
	top := filepath.Join("..", "..")
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if name == "build" || name == "testdata" || name == "toy" || // whose command is of tests alone
				path != top && strings.HasPrefix(name, ".") {
				return fs.SkipDir
			}
			return nil
		}
		switch {
		case strings.HasSuffix(name, "_test.go"):
		case strings.HasSuffix(name, ".go"):
			said, err := inProgram(path)
			out = append(out, said...)
			return err
		case strings.HasSuffix(name, ".md"):
			text, err := os.ReadFile(path)
			out = append(out, inPage(path, string(text))...)
			return err
		case strings.HasSuffix(name, ".service"), strings.HasSuffix(name, ".toml"), strings.HasSuffix(name, ".proto"), name == "Makefile":
			text, err := os.ReadFile(path)
			out = append(out, inText(path, string(text))...)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(nil, nil)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		out = append(out, inBlock("example of "+c.CommandPath(), c.Example)...)
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	walk(a.root())
	return out
}

// inProgram takes the string literals of a Go file: hints, errors, help, what is printed.
func inProgram(path string) (out []saying, err error) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, path, nil, 0)
	if err != nil {
		return nil, err
	}
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, uerr := strconv.Unquote(lit.Value)
		if uerr != nil {
			err = uerr
			return false
		}
		out = append(out, inText(files.Position(lit.Pos()).String(), text)...)
		return true
	})
	return out, err
}

// inText takes commands that stand in prose. A line's end ends none: it may be wrapped.
func inText(where, text string) (out []saying) {
	for _, paragraph := range strings.Split(strings.NewReplacer("\n[", "\n\n[", "=/usr/bin/keystead", "= keystead", "Exec", "\n\nExec").Replace(text), "\n\n") {
		out = append(out, inParagraph(where, paragraph)...)
	}
	return out
}

func inParagraph(where, text string) (out []saying) {
	text = strings.Join(strings.Fields(strings.NewReplacer("\\\n", " ", "\n#", "\n").Replace(text)), " ")
	found := spoken.FindAllStringIndex(text, -1)
	for i, at := range found {
		end := len(text)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		said, _, _ := strings.Cut(text[at[0]:end][strings.Index(text[at[0]:end], "keystead "):], "`")
		if !formal.MatchString(said) {
			out = append(out, saying{where: where, text: cut(said)})
		}
	}
	return out
}

// cut ends a command in prose where the sentence or the bracket does.
func cut(text string) string {
	for i, w := range strings.Fields(text) {
		if i > 0 && strings.ContainsAny(w[len(w)-1:], ".,;:)") {
			return strings.Join(strings.Fields(text)[:i+1], " ")
		}
	}
	return text
}

// inPage takes the blocks of a page, and the code and prose between them.
func inPage(path, text string) (out []saying) {
	var prose, block strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			block.WriteString(line)
			continue
		}
		prose.WriteString(line)
	}
	out = append(out, inBlock(path, block.String())...)
	return append(out, inText(path, prose.String())...)
}

var (
	goesOn  = regexp.MustCompile(`\\\n\s*`)
	begins  = regexp.MustCompile(`^(?:\$ |[A-Za-z]+=\$\(|\$\()?keystead `)
	joins   = regexp.MustCompile(`; |&& |\|\| |\bdo `)
	nested  = regexp.MustCompile(`\$\([^()]*\)`)
	single  = regexp.MustCompile(`'[^']*'`)
	quotes  = regexp.MustCompile(`'[^']*'|"[^"]*"`)
	aside   = regexp.MustCompile(`   +.*$`)
	options = regexp.MustCompile(`\[[^\]]*\]`)
)

// inBlock takes the lines of a block that are command lines of the program.
func inBlock(where, block string) (out []saying) {
	for line := range strings.Lines(goesOn.ReplaceAllString(block, " ")) {
		line = single.ReplaceAllString(strings.TrimSpace(line), "x") // brackets in there are no commands
		for _, inner := range nested.FindAllString(line, -1) {
			if text, ok := strings.CutPrefix(strings.TrimSuffix(inner, ")"), "$(keystead "); ok {
				out = append(out, saying{where, "keystead " + quotes.ReplaceAllString(text, "x"), true})
			}
		}
		line = nested.ReplaceAllString(line, "x")
		for _, part := range joins.Split(line, -1) {
			part = strings.TrimSpace(part)
			if begins.MatchString(part) && !strings.HasPrefix(part, "keystead: ") {
				part = part[strings.Index(part, "keystead "):]
				part = aside.ReplaceAllString(part, "")
				out = append(out, saying{where, options.ReplaceAllString(quotes.ReplaceAllString(part, "x"), ""), true})
			}
		}
	}
	return out
}

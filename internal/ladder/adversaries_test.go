package ladder

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAdversaries holds the pages of docs/adversaries to their word: each cell of their tables
// names tests that exist, or says "not defended". The index names every page.
func TestAdversaries(t *testing.T) {
	const index = "../../docs/adversaries.md"
	listed, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../../docs/adversaries/*.md")
	if err != nil {
		t.Fatal(err)
	}
	known, all := testNames(t, os.DirFS("../..")), 0
	for _, page := range append(pages, index) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		problems, cells := adversaryProblems(string(text), known)
		for _, p := range problems {
			t.Errorf("%s: %s", page, p)
		}
		all += cells
		if page == index {
			continue
		}
		if link := "(adversaries/" + filepath.Base(page) + ")"; !strings.Contains(string(listed), link) {
			t.Errorf("%s does not name %s", index, link)
		}
		if cells < 5 {
			t.Errorf("%s has %d cells; is its table still read?", page, cells)
		}
	}
	if len(pages) < 9 || all < 500 {
		t.Errorf("%d pages have %d cells; are they still read?", len(pages), all)
	}
}

// TestAdversariesCatches proves that the test above can fail.
func TestAdversariesCatches(t *testing.T) {
	known := map[string]bool{"appraise TestKnown": true, "fetch TestOther": true}
	for cell, want := range map[string]string{
		"TestKnown": "", "fetch: TestOther": "", "not defended": "", "TestKnown, TestKnown": "",
		"TestMissing": "no test TestMissing in appraise", "TestOther": "no test TestOther in appraise",
		"fetch: TestKnown": "no test TestKnown in fetch", "": "is neither", "defended": "is neither", "TestKnown, TestMissing": "TestMissing",
	} {
		problems, _ := adversaryProblems("| tries | level |\n|---|---|\n| somebody | "+cell+" |\n", known)
		if got := strings.Join(problems, "\n"); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("cell %q: want a problem with %q, got %q", cell, want, got)
		}
	}
	if problems, _ := adversaryProblems("| a | b | c |\n|---|---|---|\n| somebody | TestKnown |\n", known); len(problems) != 1 {
		t.Errorf("a row that is too short: got %q", problems)
	}
}

var testName = regexp.MustCompile(`^(Test|Fuzz)[A-Z]\w*$`)

// adversaryProblems reads every table. A cell is a list of tests of appraise, or of the
// room that stands before a colon.
func adversaryProblems(text string, known map[string]bool) (problems []string, cells int) {
	columns := 0
	for i, line := range strings.Split(text, "\n") {
		row := strings.Split(strings.Trim(line, "|"), "|")
		switch {
		case !strings.HasPrefix(line, "|"):
			columns = 0
			continue
		case columns == 0 || strings.HasPrefix(line, "|---"):
			columns = len(row)
			continue
		case len(row) != columns:
			problems = append(problems, fmt.Sprintf("line %d has %d cells, not %d", i+1, len(row), columns))
			continue
		}
		for _, cell := range row[1:] {
			cells++
			room, tests, found := strings.Cut(strings.TrimSpace(cell), ": ")
			if !found {
				room, tests = "appraise", room
			}
			if tests == "not defended" {
				continue
			}
			for name := range strings.SplitSeq(tests, ", ") {
				switch {
				case !testName.MatchString(name):
					problems = append(problems, fmt.Sprintf("line %d: %q is neither a test nor \"not defended\"", i+1, name))
				case !known[room+" "+name]:
					problems = append(problems, fmt.Sprintf("line %d: there is no test %s in %s", i+1, name, room))
				}
			}
		}
	}
	return problems, cells
}

// testNames returns "room TestName" for each test of the tree.
func testNames(t *testing.T, tree fs.FS) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, "_test.go") {
			return err
		}
		src, err := fs.ReadFile(tree, p)
		for _, m := range declared.FindAllSubmatch(src, -1) {
			names[path.Dir(p)+" "+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

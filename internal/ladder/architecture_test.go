package ladder

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	pageLink = regexp.MustCompile("\\[(`?[^\\]]+?`?)\\]\\(([^)#]+)\\)")
	roomName = regexp.MustCompile(`[a-z][a-z/]*`)
)

// TestArchitecture holds ARCHITECTURE.md and CONTRIBUTING.md to the tree: each link leads to a
// file, each function named is declared there, and the picture has every room.
func TestArchitecture(t *testing.T) {
	for _, page := range []string{"ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		links := pageLink.FindAllStringSubmatch(string(text), -1)
		if len(links) < 15 {
			t.Errorf("%s has %d links; are they still read?", page, len(links))
		}
		for _, l := range links {
			for _, p := range linkProblems("../..", l[1], l[2]) {
				t.Errorf("%s: %s", page, p)
			}
		}
	}
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	drawn := roomsDrawn(string(text))
	for name := range rungs {
		inside := strings.HasPrefix(name, "internal/") && name != "internal/cli"
		if info, err := os.Stat(filepath.Join("../..", name)); err != nil || !info.IsDir() || name == "" || inside || rungs[name] == bed {
			continue // not built yet, or not of the picture
		}
		if !slices.Contains(drawn, name) {
			t.Errorf("the picture lacks the room %s", name)
		}
	}
	for _, name := range drawn {
		if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
			t.Errorf("the picture has %s, which is no room", name)
		}
	}
}

// roomsDrawn are the names in the picture of rooms.
func roomsDrawn(text string) (out []string) {
	parts := strings.Split(text, "<!-- rooms -->")
	if len(parts) != 3 {
		return nil
	}
	for line := range strings.SplitSeq(parts[1], "\n") {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "subgraph") || strings.Contains(line, "-->") || strings.HasPrefix(line, "```") || line == "end" || strings.HasPrefix(line, "flowchart") {
			continue
		}
		out = append(out, roomName.FindAllString(line, -1)...)
	}
	return out
}

// linkProblems says what is wrong with a link: a text in backquotes names what the file declares.
func linkProblems(root, text, to string) (out []string) {
	if strings.HasPrefix(to, "https://") {
		return nil
	}
	info, err := os.Stat(filepath.Join(root, to))
	if err != nil {
		return []string{to + " is not there"}
	}
	name, named := strings.CutPrefix(text, "`")
	if !named || info.IsDir() {
		return nil
	}
	name = strings.TrimSuffix(name, "`")
	src, err := os.ReadFile(filepath.Join(root, to))
	if err != nil {
		return []string{err.Error()}
	}
	if !regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|type )` + regexp.QuoteMeta(name) + `\b`).Match(src) {
		return []string{to + " declares no " + name}
	}
	return nil
}

// TestArchitectureCatches proves that the test above can fail.
func TestArchitectureCatches(t *testing.T) {
	for _, c := range []struct{ text, to, want string }{
		{"`TestArchitecture`", "architecture_test.go", ""},
		{"words", "architecture_test.go", ""},
		{"`Gone`", "architecture_test.go", "declares no Gone"},
		{"words", "gone.go", "is not there"},
	} {
		if got := strings.Join(linkProblems(".", c.text, c.to), "\n"); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s in %s: %q, want %q", c.text, c.to, got, c.want)
		}
	}
	if got := roomsDrawn("<!-- rooms -->\nflowchart TB\n  subgraph x\n    a & b/c\n  end\n  x --> y\n<!-- rooms -->"); !slices.Equal(got, []string{"a", "b/c"}) {
		t.Errorf("rooms %q", got)
	}
}

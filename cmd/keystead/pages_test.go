package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// pages are the repository's pages by their paths from its top.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".md") || strings.HasPrefix(path, "../../build/") {
			return err
		}
		text, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, "../../")] = string(text)
		return err
	})
	if err != nil || len(out) < 30 {
		t.Fatalf("%d pages, %v", len(out), err)
	}
	return out
}

// anchor is what a heading's link is called.
func anchor(heading string) string {
	heading = strings.ToLower(strings.Trim(heading, "# \n"))
	return strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(heading, ""), " ", "-")
}

// TestLinksLead follows every link from one page to another, and to its heading.
func TestLinksLead(t *testing.T) {
	all := pages(t)
	for from, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			to, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			path := from
			if to != "" {
				path = filepath.Join(filepath.Dir(from), to)
			}
			if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
				t.Errorf("%s links to %s, which is not there", from, m[1])
				continue
			}
			if heading == "" {
				continue
			}
			found := false
			for line := range strings.Lines(all[path]) {
				found = found || strings.HasPrefix(line, "#") && anchor(line) == heading
			}
			if !found {
				t.Errorf("%s links to %s, whose page has no such heading", from, m[1])
			}
		}
	}
}

// TestGlossary holds the glossary to its ten words, in order, each with where to read on;
// and README.md and the index lead to it.
func TestGlossary(t *testing.T) {
	all := pages(t)
	var words []string
	for _, part := range strings.Split(all["docs/glossary.md"], "\n## ")[1:] {
		word, text, _ := strings.Cut(part, "\n")
		words = append(words, strings.ToLower(word))
		if !link.MatchString(text) || len(text) > 700 {
			t.Errorf("%s: want some lines and where to read on, got %d characters", word, len(text))
		}
	}
	want := []string{"bundle", "code set", "domain", "epoch", "lease", "level", "member", "reference set", "terms", "verdict"}
	if !slices.Equal(words, want) {
		t.Errorf("want %q, got %q", want, words)
	}
	for page, to := range map[string]string{"README.md": "(docs/glossary.md)", "docs/README.md": "(glossary.md)"} {
		if !strings.Contains(all[page], to) {
			t.Errorf("%s does not lead to the glossary", page)
		}
	}
}

package node

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Methods that a type of this package may have. What only grows is a task that moved in with
// another: these figures go down, never up.
const (
	mostOfNode = 35
	mostOfAny  = 27
)

// TestNodeOnlyShrinks: a node is put together from parts, and no part of it is one object that
// everything holds again.
func TestNodeOnlyShrinks(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	method := regexp.MustCompile(`(?m)^func \((?:\w+ )?\*?(\w+)\) \w+\(`)
	methods := map[string]int{}
	for _, f := range files {
		if matched, _ := filepath.Match("*_test.go", f); matched {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range method.FindAllSubmatch(src, -1) {
			methods[string(m[1])]++
		}
	}
	if n := methods["Node"]; n > mostOfNode || n < 5 {
		t.Errorf("Node has %d methods, at most %d are wanted: a new one belongs to a part, or to a layer below", n, mostOfNode)
	} else if n < mostOfNode {
		t.Errorf("Node has %d methods: write that into this test, so that it stays so", n)
	}
	for name, n := range methods {
		if name != "Node" && n > mostOfAny {
			t.Errorf("%s has %d methods, at most %d are wanted", name, n, mostOfAny)
		}
	}
}

package policy_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/keystead/keystead/policy"
)

// TestSpecNamesEveryClaim holds the table of docs/spec/policy.md and the vocabulary together.
func TestSpecNamesEveryClaim(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := vocabulary.Names()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (?:string|bool|int|list of [a-z]+) \\| .+ \\|$").FindAllSubmatch(spec, -1) {
		got = append(got, string(row[1]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/spec/policy.md describes, in this order,\n%v\nthe vocabulary has\n%v", got, want)
	}
}

// TestSpecExample compiles the example that opens the specification.
func TestSpecExample(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?ms)^    keystead-policy/1\n.*?^## Text`).Find(spec)
	example = regexp.MustCompile(`(?m)^    |^## Text`).ReplaceAll(example, nil)
	if p := compile(t, string(example)); p.Name() != "build-machines" || len(p.Rules()) != 1 {
		t.Errorf("the example is %s with %d rules", p.Name(), len(p.Rules()))
	}
}

// TestSpecNamesEveryShippedPolicy holds the list at the end to what is shipped.
func TestSpecNamesEveryShippedPolicy(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range policy.ShippedNames() {
		if !regexp.MustCompile("(?m)^- `" + name + "`: .").Match(spec) {
			t.Errorf("docs/spec/policy.md does not describe %s", name)
		}
	}
}

package appraise_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
)

// documented returns the members in the tables of docs/spec/verdict.md whose first
// column has that head.
func documented(t *testing.T, head string) (members []string) {
	t.Helper()
	spec, err := os.ReadFile("../docs/spec/verdict.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(spec), "| "+head+" | type | meaning |\n|---|---|---|\n")
	if !ok {
		t.Fatalf("docs/spec/verdict.md has no table of %s", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.[\\]]+)` \\| (?:string|bool|int|object) \\| .+ \\|$").FindAllStringSubmatch(table, -1) {
		members = append(members, m[1])
	}
	if n := strings.Count(table, "\n") + 1; n != len(members) {
		t.Errorf("%s: %d rows, of which %d read as members", head, n, len(members))
	}
	return members
}

// members flattens JSON into the names that the specification uses; objects in whole
// are not entered.
func members(v any, name string, whole ...string) []string {
	out := map[string]bool{}
	var walk func(v any, name string)
	walk = func(v any, name string) {
		switch v := v.(type) {
		case map[string]any:
			if slices.Contains(whole, name) {
				break
			}
			for k, x := range v {
				walk(x, strings.TrimPrefix(name+"."+k, "."))
			}
			return
		case []any:
			for _, x := range v {
				walk(x, name+"[]")
			}
			return
		}
		out[name] = true
	}
	walk(v, name)
	return slices.Sorted(maps.Keys(out))
}

// TestSpecNamesEveryMember holds docs/spec/verdict.md and a verdict with every member together.
func TestSpecNamesEveryMember(t *testing.T) {
	in := onStage(t).edited(t, func(p *evidence.Parts) { p.IMALog = p.IMALog[:len(p.IMALog)-1] })
	in.Expect.SubjectKey = []byte("key")
	in.TEERoots, in.Collateral = evidence.ShippedRoots(), foundry.Collateral()
	in.Add(appraise.Dated{References: older(t, "x", "/x"), Until: in.Time}, in.Time)
	var v map[string]any
	if err := json.Unmarshal(appraise.Appraise(in).Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	v["findings_omitted"] = 1.0 // TestManyFindings has one
	if got, want := slices.Sorted(slices.Values(documented(t, "member"))), members(v, "", "claims", "inputs.key"); !slices.Equal(got, want) {
		t.Errorf("docs/spec/verdict.md describes\n%v\na verdict has\n%v", got, want)
	}
	key := v["inputs"].(map[string]any)["key"]
	if got, want := slices.Sorted(slices.Values(documented(t, "member of the key"))), members(key, ""); !slices.Equal(got, want) {
		t.Errorf("docs/spec/verdict.md describes\n%v\na key has\n%v", got, want)
	}
	var names []string
	for _, name := range members(v["claims"], "") {
		names = append(names, strings.TrimSuffix(name, "[]"))
	}
	want, err := appraise.Vocabulary().Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !slices.Contains(want, name) {
			t.Errorf("claim %s of a verdict is not one of policies", name)
		}
	}
	// Lists that are empty here have no member; each claim's own name is checked by its tags.
	checkTags(t, reflect.TypeFor[evidence.Claims]())
}

// checkTags wants a claim to have one name in policies and verdicts.
func checkTags(t *testing.T, s reflect.Type) {
	for f := range s.Fields() {
		if f.Tag.Get("cel") != f.Tag.Get("json") {
			t.Errorf("claim %s of %v is %q in policies and %q in verdicts", f.Name, s, f.Tag.Get("cel"), f.Tag.Get("json"))
		}
		if f.Type.Kind() == reflect.Struct {
			checkTags(t, f.Type)
		}
	}
}

// TestMembersInOrder: a verdict has its members in the order of the specification.
func TestMembersInOrder(t *testing.T) {
	in, _ := onStage(t).input(t, "altered")
	in.TEERoots, in.Collateral = evidence.ShippedRoots(), foundry.Collateral()
	in.Add(appraise.Dated{References: older(t, "x", "/x"), Until: in.Time}, in.Time)
	text := string(appraise.Appraise(in).Bytes())
	at := 0
	for _, name := range documented(t, "member") {
		name = strings.TrimSuffix(name[strings.LastIndex(name, ".")+1:], "[]")
		if name == "findings_omitted" || name == "subject_key" {
			continue
		}
		i := strings.Index(text[at:], `"`+name+`":`)
		if i < 0 {
			t.Fatalf("%s does not come after what stands before it in docs/spec/verdict.md: %s", name, text)
		}
		at += i
	}
}

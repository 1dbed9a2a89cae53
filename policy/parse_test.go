package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/policy"
)

// refusal compiles a text that is wrong and returns what Compile says of it.
func refusal(t *testing.T, name, text string) *keystead.FormatError {
	t.Helper()
	_, err := policy.Compile([]byte(text), vocabulary)
	var format *keystead.FormatError
	if !errors.As(err, &format) {
		t.Errorf("%s: want a FormatError, got %v", name, err)
		return &keystead.FormatError{}
	}
	return format
}

func TestDefaultsAreStrict(t *testing.T) {
	p := compile(t, "keystead-policy/1\nname x\nrules none\n")
	if p.MinimumAssurance() != "measured-os-weak" || !p.EveryEntry() || !p.BootAccepted() || len(p.Rules()) != 0 || len(p.Eval(evidence.Claims{})) != 0 {
		t.Errorf("a policy that states nothing: %s %v %v", p.MinimumAssurance(), p.EveryEntry(), p.BootAccepted())
	}
	for _, zero := range []*policy.Policy{nil, new(policy.Policy)} {
		if r := zero.Eval(good()); len(r) != 1 || r[0].OK || r[0].Finding().Reason != keystead.ReasonPolicyUnusable {
			t.Errorf("the zero policy comes to %+v", r)
		}
	}
	if !(*policy.Policy)(nil).IsZero() || !new(policy.Policy).IsZero() || p.IsZero() {
		t.Error("IsZero does not tell the zero policy apart")
	}
}

func TestTextsThatAreRefused(t *testing.T) {
	const head = "keystead-policy/1\nname x\n"
	const rule = "rule a\n  require boot.secure_boot\n  otherwise b\n"
	var many strings.Builder
	many.WriteString(head)
	for i := range 129 {
		fmt.Fprintf(&many, "rule r%d\n require boot.secure_boot\n otherwise x\n", i)
	}
	for name, tc := range map[string]struct {
		text, want string
		line       int
	}{
		"empty":                  {"", "header: is missing", 1},
		"another header":         {"keystead-policy/2\nname x\nrules none\n", "want keystead-policy/1", 1},
		"indented header":        {" keystead-policy/1\nname x\nrules none\n", "want keystead-policy/1", 1},
		"no newline":             {head + "rules none", "does not end with a newline", 3},
		"no name":                {"keystead-policy/1\nrules none\n", "name: is missing", 3},
		"no rules":               {head, "rules none", 3},
		"none and some":          {head + "rules none\n" + rule, "says none", 3},
		"directive twice":        {head + "software report\nboot report\nsoftware every-entry\n" + rule, "stated twice, first in line 3", 5},
		"name twice":             {head + "name y\n" + rule, "stated twice", 3},
		"rule twice":             {head + rule + rule, "stated twice, first in line 3", 6},
		"unknown directive":      {head + "minimum-asurance test\n" + rule, "did you mean minimum-assurance?", 3},
		"unknown level":          {head + "minimum-assurance measured\n" + rule, "did you mean measured-os?", 3},
		"unknown software":       {head + "software off\n" + rule, "every-entry, report", 3},
		"unknown boot":           {head + "boot any\n" + rule, "accepted, report", 3},
		"rules some":             {head + "rules all\n" + rule, "not one of none", 3},
		"directive below a rule": {head + rule + "minimum-assurance none\n", "directives come first", 6},
		"directive in a rule":    {head + rule + "  minimum-assurance none\n", "not \"minimum-assurance\"", 6},
		"require outside":        {head + "require boot.secure_boot\n", "belongs to a rule", 3},
		"require without rule":   {head + "  require boot.secure_boot\n", "no rule is above", 3},
		"no require":             {head + "rule a\n  otherwise b\n" + rule, "without require", 5},
		"no otherwise":           {head + "rule a\n  require boot.secure_boot\n", "without otherwise", 5},
		"require twice":          {head + rule + "  require boot.events > 0\n", "stated twice in rule a", 6},
		"otherwise twice":        {head + rule + "  otherwise c\n", "stated twice in rule a", 6},
		"no value":               {head + "software\n" + rule, "says nothing", 3},
		"bad rule name":          {head + "rule A b\n", "not a name", 3},
		"129 rules":              {many.String(), "128", 387},
		"tab":                    {head + "software\treport\n", "U+0009", 3},
		"carriage return":        {"keystead-policy/1\r\nname x\r\nrules none\r\n", "U+000D", 1},
		"bidirectional order":    {head + "# \u202e\n" + rule, "U+202E", 3},
		"not UTF-8":              {head + "# \xff\n" + rule, "U+FFFD", 3},
		"long line":              {head + "# " + strings.Repeat("x", 4<<10) + "\n" + rule, "at most 4096", 3},
		"huge":                   {head + strings.Repeat("# x\n", 1<<20), "at most 65536", 1},
		"a signed note":          {head + "rules none\n\n— a AAAAAAAA\n", "signed note", 1},
	} {
		e := refusal(t, name, tc.text)
		if !strings.Contains(e.Field+": "+e.Problem, tc.want) || !strings.HasPrefix(e.Field, fmt.Sprintf("line %d: ", tc.line)) {
			t.Errorf("%s: want line %d and %q, got %v", name, tc.line, tc.want, e)
		}
		if at := int(e.Offset); at > len(tc.text) || at > 0 && tc.text[at-1] != '\n' {
			t.Errorf("%s: offset %d is not the start of a line", name, at)
		}
	}
}

func TestExpressionsThatAreRefused(t *testing.T) {
	deep := strings.Repeat("(", 200) + "boot.secure_boot" + strings.Repeat(")", 200)
	wide := "boot.events in [" + strings.Repeat("1, ", 1200) + "1]"
	nested := "software.packages.all(a, software.packages.all(b, software.packages.all(c, a + b + c != '')))"
	for name, tc := range map[string]struct{ expr, want string }{
		"syntax":               {"boot.secure_boot &&", "column"},
		"not a bool":           {"boot.events", "is int, want"},
		"a list":               {"software.packages", "is list(string), want"},
		"unknown claim":        {"boot.secure_bot", "did you mean boot.secure_boot?"},
		"unknown in a macro":   {"software.packages.all(p, p != boot.firmwere)", "did you mean boot.firmware?"},
		"unknown group":        {"bot.secure_boot", "did you mean boot.secure_boot?"},
		"claim of a bool":      {"boot.secure_boot.really", "column"},
		"whole group":          {"has(boot.secure_boot)", "may call"},
		"group compared":       {"boot == boot", "boot is a group of claims, such as boot.events"},
		"no claim":             {"1 == 1", "refers to no claim"},
		"constant":             {"true", "refers to no claim"},
		"types differ":         {"boot.events == '44'", "no matching overload"},
		"time":                 {"timestamp(boot.firmware) < timestamp('2026-01-01T00:00:00Z')", ""},
		"time zone":            {"timestamp('2026-01-01T00:00:00Z').getHours('Europe/Berlin') == boot.events", ""},
		"floating point":       {"double(boot.events) > 1.0", ""},
		"floating literal":     {"boot.events > 1.5", ""},
		"dynamic":              {"dyn(boot.events) == '1'", ""},
		"map":                  {"{'a': boot.events}['a'] > 1", ""},
		"map iterated":         {"{'a': 1, 'b': 2}.exists(k, k == boot.firmware)", ""},
		"message":              {"evidence.BootClaims{secure_boot: true}.secure_boot || boot.secure_boot", ""},
		"mixed list":           {"boot.events in [1, 'a']", ""},
		"pattern from a claim": {"boot.firmware.matches(kernel.lockdown)", "not written out"},
		"bad pattern":          {"boot.firmware.matches('(')", ""},
		"huge pattern":         {"boot.firmware.matches('((a{100}){100}){100}')", ""},
		"hiding a group":       {"software.packages.all(boot, boot != '')", "hides"},
		"three macros deep":    {nested, "nesting"},
		"parentheses":          {deep, "recursion"},
		"wide list":            {wide, "node"},
	} {
		e := refusal(t, name, "keystead-policy/1\nname x\nrule a\n  require "+tc.expr+"\n  otherwise b\n")
		if e.Field != "line 4: rule a" || !strings.Contains(e.Problem, tc.want) || e.Problem == "" {
			t.Errorf("%s: want line 4 and %q, got %v", name, tc.want, e)
		}
		t.Logf("%s: %s", name, e.Problem)
	}
}

// TestCostIsBounded runs an expression that would take some 10^8 steps.
func TestCostIsBounded(t *testing.T) {
	p := compile(t, `keystead-policy/1
name bomb
rule quadratic
  require software.packages.all(a, software.packages.all(b, a != b + "x"))
  otherwise wait
rule cheap
  require boot.secure_boot
  otherwise turn Secure Boot on
`)
	claims := good()
	for i := range 10_000 {
		claims.Software.Packages = append(claims.Software.Packages, fmt.Sprint("package-", i))
	}
	start := time.Now()
	results := p.Eval(claims)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("evaluation took %v", took)
	}
	if r := results[0]; r.OK || r.Err == nil || r.Finding().Reason != keystead.ReasonPolicyUnusable {
		t.Errorf("the bomb came to %v, %v", r.OK, r.Err)
	}
	if !results[1].OK {
		t.Error("the bomb took the next rule with it")
	}
}

func TestEvalWithoutAValue(t *testing.T) {
	p := compile(t, "keystead-policy/1\nname x\nrule a\n  require quote.banks[3] == 'sha256'\n  otherwise b\nrule z\n  require 1 / boot.events == 1\n  otherwise b\n")
	for _, r := range p.Eval(evidence.Claims{}) {
		if r.OK || r.Err == nil || r.Finding().Reason != keystead.ReasonPolicyUnusable {
			t.Errorf("rule %s: %v %v", r.Name, r.OK, r.Err)
		}
	}
	for _, claims := range []any{nil, "claims", (*evidence.Claims)(nil), evidence.BootClaims{}} {
		for _, r := range p.Eval(claims) {
			if r.OK || r.Err == nil || r.Values() != nil {
				t.Errorf("claims of type %T: rule %s: %v %v", claims, r.Name, r.OK, r.Err)
			}
		}
	}
}

func TestValues(t *testing.T) {
	p := compile(t, `keystead-policy/1
name x
rule a
  require size(software.packages) > 2 || quote.pcrs.exists(r, r == 10 && key.binding == "activated") && boot.secure_boot && key.binding != ""
  otherwise b
`)
	claims := good()
	claims.Quote.PCRs = []int64{0, 10}
	r := p.Eval(&claims)[0]
	if got, want := fmt.Sprint(r.Values()), `[software.packages = ["bash=5.2", "libc6=2.41"] quote.pcrs = [0, 10] key.binding = "activated" boot.secure_boot = true]`; got != want || !r.OK {
		t.Errorf("values %s, want %s; ok %v, %v", got, want, r.OK, r.Err)
	}
	claims.Key.Binding = strings.Repeat("x", 1<<20)
	if got := p.Eval(claims)[0].Values()[2].Value; len(got) > 1100 || !strings.HasSuffix(got, `x"…`) {
		t.Errorf("a long string prints %d bytes", len(got))
	}
	claims.Software.Packages = make([]string, 1000)
	if got := p.Eval(claims)[0].Values()[0].Value; !strings.HasSuffix(got, `, … 1000 in all]`) || len(got) > 200 {
		t.Errorf("a long list prints as %s", got)
	}
}

func TestEvalInParallel(t *testing.T) {
	text, _ := policy.Shipped("strict")
	p, claims := compile(t, string(text)), good()
	want := fmt.Sprint(failed(p.Eval(evidence.Claims{})))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				results := p.Eval(&claims)
				if bad := failed(results); bad != nil || len(results[1].Values()) != 1 {
					t.Errorf("failed %v", bad)
				}
				if got := fmt.Sprint(failed(p.Eval(evidence.Claims{}))); got != want {
					t.Errorf("failed %s, want %s", got, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestVocabularyIsChecked(t *testing.T) {
	text := []byte("keystead-policy/1\nname x\nrules none\n")
	type inner struct {
		A bool `cel:"a"`
	}
	for name, claims := range map[string]any{
		"nil": nil, "not a struct": 1, "pointer": &evidence.Claims{},
		"no tag": struct{ A bool }{},
		"a float": struct {
			A float64 `cel:"a"`
		}{},
		"twice": struct {
			A inner `cel:"x"`
			B inner `cel:"x"`
		}{},
	} {
		if _, err := policy.Compile(text, policy.Vocabulary{Claims: claims, Levels: vocabulary.Levels}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := policy.Compile(text, policy.Vocabulary{Claims: evidence.Claims{}}); err == nil {
		t.Error("a default level that the vocabulary lacks: accepted")
	}
}

func FuzzCompile(f *testing.F) {
	for _, name := range policy.ShippedNames() {
		text, _ := policy.Shipped(name)
		f.Add(text)
	}
	f.Add([]byte("keystead-policy/1\nname x\nrule a\n  require software.packages.all(p, p.matches('^[a-z]+=')) && 1 / boot.events > 0\n  otherwise b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Compile(text, vocabulary)
		if err != nil {
			var format *keystead.FormatError
			if !errors.As(err, &format) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if !bytes.Equal(p.Text(), text) {
			t.Fatal("the text changed")
		}
		for _, r := range p.Eval(good()) {
			if r.OK && r.Err != nil {
				t.Fatalf("rule %s is met and has no value", r.Name)
			}
			r.Finding()
		}
	})
}

// FuzzRule puts expressions into a policy, past the text's own syntax.
func FuzzRule(f *testing.F) {
	for _, expr := range []string{
		"boot.secure_boot", "1 / boot.events > 0", "software.packages.all(p, p.matches('^[a-z]+='))",
		"[0, 1, 2].all(r, r in quote.pcrs)", "size(software.packages.filter(a, packages.unlisted.exists(b, a == b))) < 3",
		"quote.banks.map(b, b + '!')[0] == 'sha256!' ? true : !boot.secure_boot", "{'a': 1}.a == boot.events", "-9223372036854775808 == -boot.events",
	} {
		f.Add(expr)
	}
	claims := good()
	f.Fuzz(func(t *testing.T, expr string) {
		p, err := policy.Compile([]byte("keystead-policy/1\nname x\nrule a\n  require "+expr+"\n  otherwise b\n"), vocabulary)
		if err != nil {
			return
		}
		for _, r := range p.Eval(&claims) {
			again := p.Eval(&claims)[0]
			if r.OK && r.Err != nil || len(r.Values()) == 0 || again.OK != r.OK || (again.Err == nil) != (r.Err == nil) {
				t.Fatalf("%s: %v %v, then %v %v", expr, r.OK, r.Err, again.OK, again.Err)
			}
		}
	})
}

func BenchmarkEvalStrict(b *testing.B) {
	text, _ := policy.Shipped("strict")
	p, claims := compile(b, string(text)), good()
	b.ReportAllocs()
	for b.Loop() {
		if bad := failed(p.Eval(&claims)); bad != nil {
			b.Fatal(bad)
		}
	}
}

func BenchmarkCompileStrict(b *testing.B) {
	text, _ := policy.Shipped("strict")
	for b.Loop() {
		compile(b, string(text))
	}
}

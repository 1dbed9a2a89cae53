package policy_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
)

var vocabulary = policy.Vocabulary{
	Claims: evidence.Claims{},
	Levels: []string{"none", "test", "measured-os-weak", "measured-os"},
}

func compile(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Compile([]byte(text), vocabulary)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// good are the claims of a machine that meets strict.
func good() evidence.Claims {
	return evidence.Claims{
		Assurance: "measured-os",
		Key:       evidence.KeyClaims{Binding: "activated"},
		Quote:     evidence.QuoteClaims{Banks: []string{"sha256"}, PCRs: []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		Boot:      evidence.BootClaims{Events: 44, SecureBoot: true, SeparatorsAll: true},
		Software:  evidence.SoftwareClaims{Entries: 300, Named: 299, Packages: []string{"bash=5.2", "libc6=2.41"}},
		Packages:  evidence.PackageClaims{Listed: 119},
	}
}

func failed(results []policy.Result) (names []string) {
	for _, r := range results {
		if !r.OK {
			names = append(names, r.Name)
		}
	}
	return names
}

func Example() {
	p, err := policy.Compile([]byte(`keystead-policy/1
name example
minimum-assurance measured-os

rule secure-boot
  require boot.secure_boot && boot.events > 0
  otherwise turn Secure Boot on
`), vocabulary)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range p.Eval(evidence.Claims{Boot: evidence.BootClaims{Events: 44}}) {
		fmt.Println(r.Name, r.OK, r.Values())
		fmt.Println(r.Finding())
	}
	// Output:
	// secure-boot false [boot.secure_boot = false boot.events = 44]
	// rule-failed: rule secure-boot: want boot.secure_boot && boot.events > 0 (turn Secure Boot on), got boot.secure_boot = false, boot.events = 44
}

func TestShippedPolicies(t *testing.T) {
	spoil := map[string]func(*evidence.Claims){
		"key-activated":    func(c *evidence.Claims) { c.Key.Binding = "named" },
		"registers-quoted": func(c *evidence.Claims) { c.Quote.PCRs = c.Quote.PCRs[1:] },
		"firmware-log":     func(c *evidence.Claims) { c.Boot.SeparatorsAll = false },
		"secure-boot":      func(c *evidence.Claims) { c.Boot.SecureBoot = false },
		"files-measured":   func(c *evidence.Claims) { c.Software.Entries = 1 },
		"no-violations":    func(c *evidence.Claims) { c.Software.Violations = 1 },
		"packages-listed":  func(c *evidence.Claims) { c.Packages.Unlisted = []string{"nmap=7.9"} },
	}
	all := []string{"key-activated", "registers-quoted", "firmware-log", "secure-boot", "files-measured", "no-violations", "packages-listed"}
	for _, tc := range []struct {
		name, assurance    string
		everyEntry, booted bool
		rules              []string
	}{
		{"strict", "measured-os", true, true, all},
		{"measured-boot-only", "measured-os-weak", false, false, all[:4]},
		{"demo", "test", true, true, slices.Concat(all[:3], all[4:])},
	} {
		text, ok := policy.Shipped(tc.name)
		if !ok {
			t.Fatalf("%s is not shipped", tc.name)
		}
		p := compile(t, string(text))
		if p.Name() != tc.name || p.MinimumAssurance() != tc.assurance || p.EveryEntry() != tc.everyEntry || p.BootAccepted() != tc.booted || len(p.Rules()) != len(tc.rules) {
			t.Errorf("%s says %s %s %v %v %d rules", tc.name, p.Name(), p.MinimumAssurance(), p.EveryEntry(), p.BootAccepted(), len(p.Rules()))
		}
		if bad := failed(p.Eval(good())); bad != nil {
			t.Errorf("%s refuses a good machine: %v", tc.name, bad)
		}
		if bad := failed(p.Eval(evidence.Claims{})); !slices.Contains(bad, "key-activated") || !slices.Contains(bad, "firmware-log") {
			t.Errorf("%s: a machine without evidence fails only %v", tc.name, bad)
		}
		for rule, f := range spoil {
			claims := good()
			f(&claims)
			var want []string
			if slices.Contains(tc.rules, rule) {
				want = []string{rule}
			}
			if bad := failed(p.Eval(claims)); !slices.Equal(bad, want) {
				t.Errorf("%s, %s spoilt: failed %v, want %v", tc.name, rule, bad, want)
			}
		}
	}
	if names := policy.ShippedNames(); !slices.Equal(names, []string{"any-host", "demo", "measured-boot-only", "strict"}) {
		t.Errorf("shipped: %v", names)
	}
	if _, ok := policy.Shipped("../shipped/strict"); ok {
		t.Error("a path passes for a name")
	}
}

func TestOpen(t *testing.T) {
	member, err := key.NewMember(rand.Reader, "ops")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := key.NewMember(rand.Reader, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := policy.Shipped("strict")
	signed, err := member.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	both, err := stranger.Cosign(signed)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Open(both, vocabulary, member.Public())
	if err != nil {
		t.Fatal(err)
	}
	if p.Digest() != keystead.Sum(text) || !bytes.Equal(p.Text(), text) || !slices.Equal(p.SignedBy(), []key.MemberPublic{member.Public()}) {
		t.Errorf("opened %v by %v", p.Digest(), p.SignedBy())
	}
	for name, note := range map[string][]byte{
		"unsigned":             text,
		"signed by a stranger": must(stranger.Sign(text)),
		"altered":              bytes.Replace(signed, []byte("measured-os\n"), []byte("test\n"), 1),
		"a code set":           must(member.Sign([]byte("keystead-codeset/1\nname x\n"))),
		"trailing text":        append(slices.Clone(signed), "\nminimum-assurance none\n"...),
	} {
		if _, err := policy.Open(note, vocabulary, member.Public()); !errors.Is(err, keystead.ReasonNoteUnsigned) {
			t.Errorf("%s: want note-unsigned, got %v", name, err)
		}
	}
	broken := must(member.Sign([]byte("keystead-policy/1\nname x\n")))
	var format *keystead.FormatError
	if _, err := policy.Open(broken, vocabulary, member.Public()); !errors.As(err, &format) {
		t.Errorf("a signed policy that does not compile: want a FormatError, got %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestSeenClaimsAreTold looks for claims that a rule takes for others that it saw: those
// which differ in where one string ends, in length, in a later claim.
func TestSeenClaimsAreTold(t *testing.T) {
	p := compile(t, `keystead-policy/1
name lists
minimum-assurance test
software report
boot report

rule lists
  require boot.authorities.all(a, a != "ab") && boot.secure_boot && packages.unlisted.all(u, size(u) < 4)
  otherwise mend them
`)
	for round := range 3 {
		for _, tc := range []struct {
			authorities, unlisted []string
			secure, want          bool
		}{
			{nil, nil, true, true},
			{nil, nil, false, false},
			{[]string{"a", "b"}, nil, true, true},
			{[]string{"ab", ""}, nil, true, false},
			{[]string{"", "ab"}, nil, true, false},
			{[]string{"a"}, []string{"b"}, true, true},
			{[]string{"a"}, []string{"long"}, true, false},
			{[]string{"long"}, []string{"a"}, true, true},
		} {
			var c evidence.Claims
			c.Boot.Authorities, c.Packages.Unlisted, c.Boot.SecureBoot = tc.authorities, tc.unlisted, tc.secure
			if r := p.Eval(&c)[0]; r.OK != tc.want || r.Err != nil {
				t.Errorf("round %d: %q, %q, %v: %v, %v, want %v", round, tc.authorities, tc.unlisted, tc.secure, r.OK, r.Err, tc.want)
			}
		}
	}
}

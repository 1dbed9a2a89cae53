// Package policy says what evidence has to establish before a machine is trusted.
//
// A policy is a text (docs/spec/policy.md): a few directives for appraisal, then
// rules, each a CEL expression over the typed claims that appraisal established,
// with advice for whoever fails it. Members sign it as a note; its digest, over the
// text without the signatures, is its name.
//
// The package trusts its caller for the accepted keys and for the claims. It does not
// trust the text: a policy has bounds in size, in nesting and in what evaluation may
// cost, and knows no function whose answer depends on anything but the claims, so the
// same claims give the same results on every machine.
package policy

import (
	"errors"
	"strings"
	"sync/atomic"

	"cel.dev/cel-go/cel"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// A Policy is a compiled policy text. The zero value denies.
// A Policy may be used by several goroutines at once.
type Policy struct {
	text     []byte
	digest   keystead.Digest
	head     header
	rules    []rule
	claims   *claimSet
	signedBy []key.MemberPublic
}

// header holds the directives.
type header struct {
	name             string
	minimumAssurance string
	everyEntry       bool
	bootAccepted     bool
	floors           []Floor
	tee              bool
	teeCurrent       bool
	teeRevocation    bool
	teeDebug         bool
}

// rule is one compiled rule.
type rule struct {
	Rule
	program cel.Program
	refs    []int // claims that the expression names, as indices into claimSet.paths, in order of appearance
	seen    *[seenMost]atomic.Pointer[seen]
}

// Compile reads an unsigned policy text. It fails with a *keystead.FormatError that
// names the line and what is wrong with it; the offset is that of the line.
func Compile(text []byte, vocabulary Vocabulary) (*Policy, error) {
	claims, err := newClaimSet(vocabulary)
	if err != nil {
		return nil, err
	}
	head, rules, err := parse(text, vocabulary.Levels, vocabulary.Formats)
	if err != nil {
		return nil, err
	}
	p := &Policy{text: []byte(string(text)), digest: keystead.Sum(text), head: head, claims: claims}
	env, err := newEnv(claims)
	if err != nil {
		return nil, err
	}
	for _, rt := range rules {
		r, err := compileRule(env, claims, rt)
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// Open compiles a policy that at least one accepted key signed. Without such a
// signature it fails with a DenyError, note-unsigned.
func Open(signed []byte, vocabulary Vocabulary, accepted ...key.MemberPublic) (*Policy, error) {
	text, by, err := key.Open(signed, key.KindPolicy, accepted...)
	if err != nil {
		return nil, err
	}
	p, err := Compile(text, vocabulary)
	if err != nil {
		return nil, err
	}
	p.signedBy = by
	return p, nil
}

// IsZero reports whether p was never compiled.
func (p *Policy) IsZero() bool { return p == nil || p.claims == nil }

// Name returns the name that the policy gives itself. Only the digest identifies it.
func (p *Policy) Name() string { return p.head.name }

// Digest names the policy: SHA-256 of its text without signatures.
func (p *Policy) Digest() keystead.Digest { return p.digest }

// Text returns the text without signatures. The caller must not change it.
func (p *Policy) Text() []byte { return p.text }

// SignedBy returns the accepted keys whose signatures Open found; none after Compile.
func (p *Policy) SignedBy() []key.MemberPublic { return p.signedBy }

// MinimumAssurance returns the level, one of the vocabulary's, that a verdict must reach.
func (p *Policy) MinimumAssurance() string { return p.head.minimumAssurance }

// EveryEntry reports whether every executed file must be named by a package or a
// code set (software every-entry), or is only reported (software report).
func (p *Policy) EveryEntry() bool { return p.head.everyEntry }

// BootAccepted reports whether kernel, initrd and command line must be those of one
// entry of a code set (boot accepted), or are only reported (boot report).
func (p *Policy) BootAccepted() bool { return p.head.bootAccepted }

// A Floor is the oldest version of a package that is accepted.
type Floor struct {
	Format  string `json:"format"` // how versions compare: deb, rpm, apk
	Package string `json:"package"`
	Version string `json:"version"`
}

// Floors returns the floors in the order of the text. The caller must not change them.
func (p *Policy) Floors() []Floor {
	if p.IsZero() {
		return nil
	}
	return p.head.floors
}

// A Rule is a rule as the text states it.
type Rule struct {
	Name   string `json:"name"`
	Expr   string `json:"require"`   // CEL
	Advice string `json:"otherwise"` // what its author tells whoever fails it
}

// Rules returns the rules in the order of the text.
func (p *Policy) Rules() []Rule {
	out := make([]Rule, len(p.rules))
	for i, r := range p.rules {
		out[i] = r.Rule
	}
	return out
}

// Eval evaluates every rule, in the order of the text. The claims are of the
// vocabulary's type, or a pointer to it, and do not change as long as the results are
// in use; of any other type, every rule fails. The zero Policy has one rule, which fails.
func (p *Policy) Eval(claims any) []Result {
	if p.IsZero() {
		return []Result{{Rule: Rule{Name: "any"}, Err: errors.New("there is no policy")}}
	}
	values, err := p.claims.values(claims)
	out := make([]Result, len(p.rules))
	for i := range p.rules {
		r := &p.rules[i]
		out[i] = Result{Rule: r.Rule, Err: err, rule: r, values: values}
		if err == nil {
			out[i].OK, out[i].Err = r.judge(values)
		}
	}
	return out
}

// A Result is what one rule came to.
type Result struct {
	Rule
	OK  bool
	Err error // why the expression has no value; OK is false then

	rule   *rule
	values *valueSet
}

// A Value is a claim that an expression refers to, printed as CEL would write it.
type Value struct {
	Claim string `json:"claim"`
	Value string `json:"value"`
}

// String returns claim = value.
func (v Value) String() string { return v.Claim + " = " + v.Value }

// Values returns the claims that the rule refers to, in order of appearance.
func (r Result) Values() []Value {
	if r.values == nil {
		return nil
	}
	out := make([]Value, len(r.rule.refs))
	for i, ref := range r.rule.refs {
		out[i] = Value{Claim: r.values.set.paths[ref].name, Value: printed(r.values.look(ref))}
	}
	return out
}

// Finding returns the refusal that a failed rule amounts to: rule-failed, or
// policy-unusable where the expression has no value.
func (r Result) Finding() keystead.Finding {
	f := keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "rule " + r.Name, Want: r.Expr + " (" + r.Advice + ")"}
	var got []string
	for _, v := range r.Values() {
		got = append(got, v.String())
	}
	f.Got = strings.Join(got, ", ")
	if r.Err != nil {
		f.Reason, f.Got = keystead.ReasonPolicyUnusable, r.Err.Error()
	}
	return f
}

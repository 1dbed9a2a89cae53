package policy

import "slices"

// Effect says what a change does to which machines pass.
type Effect string

const (
	// Stricter: what passes the new policy passed the old one, as far as this goes.
	Stricter Effect = "stricter"
	// Looser: machines may pass that did not.
	Looser Effect = "looser"
	// Either: one would have to compare the expressions.
	Either Effect = "either way"
	// Neither: no machine is judged otherwise.
	Neither Effect = "no effect"
)

// A Change is one difference between two policies: a directive, or a rule by its name.
type Change struct {
	Where  string `json:"where"`
	Was    string `json:"was"` // "" for what is new
	Is     string `json:"is"`  // "" for what is gone
	Effect Effect `json:"effect"`
}

// Diff tells what changes from one policy to another: directives, then rules in the
// order of the new policy, then the rules that are gone. Comments and spacing are no
// change. Both policies must be compiled with the same vocabulary.
func Diff(from, to *Policy) (out []Change) {
	if from.IsZero() || to.IsZero() {
		return []Change{{Where: "policy", Effect: Either}}
	}
	add := func(where, was, is string, e Effect) {
		if was != is {
			out = append(out, Change{where, was, is, e})
		}
	}
	tighten := func(stricter bool) Effect {
		if stricter {
			return Stricter
		}
		return Looser
	}
	add("name", from.Name(), to.Name(), Neither)
	levels := from.claims.levels
	was, is := from.MinimumAssurance(), to.MinimumAssurance()
	add("minimum-assurance", was, is, tighten(slices.Index(levels, is) > slices.Index(levels, was)))
	add("software", word(from.EveryEntry(), "every-entry"), word(to.EveryEntry(), "every-entry"), tighten(to.EveryEntry()))
	add("boot", word(from.BootAccepted(), "accepted"), word(to.BootAccepted(), "accepted"), tighten(to.BootAccepted()))
	for _, r := range to.Rules() {
		old, known := from.rule(r.Name)
		switch {
		case !known:
			add("rule "+r.Name, "", r.Expr, Stricter)
		case old.Expr == r.Expr:
			add("advice of rule "+r.Name, old.Advice, r.Advice, Neither)
		default:
			add("rule "+r.Name, old.Expr, r.Expr, Either)
		}
	}
	for _, r := range from.Rules() {
		if _, known := to.rule(r.Name); !known {
			add("rule "+r.Name, r.Expr, "", Looser)
		}
	}
	return out
}

func (p *Policy) rule(name string) (Rule, bool) {
	i := slices.IndexFunc(p.rules, func(r rule) bool { return r.Name == name })
	if i < 0 {
		return Rule{}, false
	}
	return p.rules[i].Rule, true
}

// word spells a directive of which the weaker value is report.
func word(strong bool, value string) string {
	if strong {
		return value
	}
	return "report"
}

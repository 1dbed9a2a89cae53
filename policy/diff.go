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
	for _, d := range switches {
		was, is := d.of(from), d.of(to)
		word := map[bool]string{true: d.strict, false: d.loose}
		add(d.name, word[was], word[is], tighten(is))
	}
	for _, f := range to.Floors() {
		if old, known := from.floor(f); !known {
			add("floor "+f.Format+" "+f.Package, "", f.Version, Stricter)
		} else {
			add("floor "+f.Format+" "+f.Package, old.Version, f.Version, Either) // how versions compare, the format says
		}
	}
	for _, f := range from.Floors() {
		if _, known := to.floor(f); !known {
			add("floor "+f.Format+" "+f.Package, f.Version, "", Looser)
		}
	}
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

// floor returns the floor of the same package.
func (p *Policy) floor(of Floor) (Floor, bool) {
	i := slices.IndexFunc(p.head.floors, func(f Floor) bool { return f.Format == of.Format && f.Package == of.Package })
	if i < 0 {
		return Floor{}, false
	}
	return p.head.floors[i], true
}

// switches are the directives of two values, the stricter one first.
var switches = []struct {
	name, strict, loose string
	of                  func(*Policy) bool
}{
	{"software", "every-entry", "report", (*Policy).EveryEntry},
	{"boot", "accepted", "report", (*Policy).BootAccepted},
	{"tee", "none", "accepted", func(p *Policy) bool { return !p.TEE() }},
	{"tee-tcb", "current", "report", (*Policy).TEECurrent},
	{"tee-revocation", "required", "report", (*Policy).TEERevocation},
	{"tee-debug", "refused", "allowed", func(p *Policy) bool { return !p.TEEDebug() }},
}

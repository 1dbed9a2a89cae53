package policy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// Bounds of a policy text.
const (
	MaxText  = 64 << 10 // bytes
	maxLine  = 4 << 10  // bytes
	maxRules = 128
	maxName  = 64  // bytes of a policy's or rule's name
	maxFloor = 256 // floors, and bytes of each word of one
)

// DefaultAssurance is the minimum of a policy that states none. Weaker levels, test
// among them, must be written out.
const DefaultAssurance = "measured-os-weak"

// ruleText is a rule as it stands in the text.
type ruleText struct {
	Rule
	at line // of the expression
}

// line is where in the text a statement stands.
type line struct {
	number int
	offset int64
}

func (l line) fail(field, format string, args ...any) error {
	return &keystead.FormatError{Format: "policy", Offset: l.offset, Field: fmt.Sprintf("line %d: %s", l.number, field), Problem: fmt.Sprintf(format, args...)}
}

// directives of the head, in the order that hints list them.
var directives = []string{"name", "minimum-assurance", "software", "boot", "floor", "tee", "tee-tcb", "tee-revocation", "tee-debug", "rules", "rule"}

// parser reads one statement a line.
type parser struct {
	levels  []string
	formats []string
	head    header
	rules   []ruleText
	none    bool            // rules none
	seen    map[string]line // directives, and rules by name
}

// parse reads the text's statements. Expressions are compiled elsewhere.
func parse(text []byte, levels, formats []string) (header, []ruleText, error) {
	start := line{number: 1}
	switch {
	case len(text) > MaxText:
		return header{}, nil, start.fail("whole", "is %d bytes long, at most %d are accepted", len(text), MaxText)
	case key.IsNote(text):
		return header{}, nil, start.fail("whole", "is a signed note; its signatures have to be checked or taken off first")
	}
	p := parser{levels: levels, formats: formats, head: header{everyEntry: true, bootAccepted: true, teeCurrent: true, teeRevocation: true, minimumAssurance: DefaultAssurance}, seen: map[string]line{}}
	at := start
	for rest := text; ; at.number++ {
		raw, tail, ended := bytes.Cut(rest, []byte("\n"))
		if !ended && len(raw) > 0 {
			return header{}, nil, at.fail("end", "does not end with a newline")
		}
		if !ended {
			break
		}
		if err := p.line(at, raw); err != nil {
			return header{}, nil, err
		}
		at.offset += int64(len(raw)) + 1
		rest = tail
	}
	return p.head, p.rules, p.finish(at)
}

func (p *parser) line(at line, raw []byte) error {
	if len(raw) > maxLine {
		return at.fail("whole", "is %d bytes long, at most %d are accepted", len(raw), maxLine)
	}
	s := string(raw)
	for i, r := range s {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return at.fail("text", "has the character %U in column %d, which not every reader sees", r, i+1)
		}
	}
	if at.number == 1 {
		if s != string(key.KindPolicy) {
			return at.fail("header", "is %.40q, want %s", s, key.KindPolicy)
		}
		return nil
	}
	s = strings.TrimLeft(s, " ")
	indent := len(raw) - len(s)
	s = strings.TrimRight(s, " ")
	if s == "" || s[0] == '#' {
		return nil
	}
	word, value, _ := strings.Cut(s, " ")
	value = strings.TrimLeft(value, " ")
	if value == "" {
		return at.fail(bounded(word), "says nothing; a statement is a word and its value")
	}
	if indent > 0 {
		return p.inRule(at, word, value)
	}
	return p.directive(at, word, value)
}

func (p *parser) directive(at line, word, value string) error {
	if word == "rule" {
		return p.startRule(at, value)
	}
	if !slices.Contains(directives, word) {
		if word == "require" || word == "otherwise" {
			return at.fail(word, "belongs to a rule, and is indented under it")
		}
		return at.fail("directive", "%.40q is not one; did you mean %s?", word, nearest(word, directives))
	}
	if first, twice := p.seen[word]; twice && word != "floor" {
		return at.fail(word, "is stated twice, first in line %d", first.number)
	}
	p.seen[word] = at
	if len(p.rules) > 0 {
		return at.fail(word, "stands below a rule; directives come first")
	}
	var err error
	switch word {
	case "name":
		p.head.name, err = value, checkName(at, word, value)
	case "minimum-assurance":
		p.head.minimumAssurance, err = value, oneOf(at, word, value, p.levels)
	case "software":
		p.head.everyEntry, err = value == "every-entry", oneOf(at, word, value, []string{"every-entry", "report"})
	case "boot":
		p.head.bootAccepted, err = value == "accepted", oneOf(at, word, value, []string{"accepted", "report"})
	case "floor":
		err = p.floor(at, value)
	case "tee":
		p.head.tee, err = value == "accepted", oneOf(at, word, value, []string{"accepted", "none"})
	case "tee-tcb":
		p.head.teeCurrent, err = value == "current", oneOf(at, word, value, []string{"current", "report"})
	case "tee-revocation":
		p.head.teeRevocation, err = value == "required", oneOf(at, word, value, []string{"required", "report"})
	case "tee-debug":
		p.head.teeDebug, err = value == "allowed", oneOf(at, word, value, []string{"allowed", "refused"})
	case "rules":
		p.none, err = true, oneOf(at, word, value, []string{"none"})
	}
	return err
}

// floor reads "FORMAT PACKAGE VERSION", once for each package of a format.
func (p *parser) floor(at line, value string) error {
	f := strings.Fields(value)
	if len(f) != 3 || len(f[0]) > maxFloor || len(f[1]) > maxFloor || len(f[2]) > maxFloor {
		return at.fail("floor", "is %.80q, want a format, a package and a version", value)
	}
	if err := oneOf(at, "floor", f[0], p.formats); err != nil {
		return err
	}
	name := "floor " + f[0] + " " + f[1]
	if first, twice := p.seen[name]; twice {
		return at.fail("floor", "of %.80s is stated twice, first in line %d", f[1], first.number)
	}
	if len(p.head.floors) == maxFloor {
		return at.fail("floor", "is one more than the %d that are accepted", maxFloor)
	}
	p.seen[name] = at
	p.head.floors = append(p.head.floors, Floor{f[0], f[1], f[2]})
	return nil
}

func (p *parser) startRule(at line, name string) error {
	if err := checkName(at, "rule", name); err != nil {
		return err
	}
	if err := p.endRule(at); err != nil {
		return err
	}
	if first, twice := p.seen["rule "+name]; twice {
		return at.fail("rule", "%s is stated twice, first in line %d", name, first.number)
	}
	if len(p.rules) == maxRules {
		return at.fail("rule", "is one more than the %d that are accepted", maxRules)
	}
	p.seen["rule "+name] = at
	p.rules = append(p.rules, ruleText{Rule: Rule{Name: name}})
	return nil
}

func (p *parser) inRule(at line, word, value string) error {
	if len(p.rules) == 0 {
		return at.fail(bounded(word), "is indented, but no rule is above it")
	}
	r := &p.rules[len(p.rules)-1]
	switch {
	case word == "require" && r.Expr == "":
		r.Expr, r.at = value, at
	case word == "otherwise" && r.Advice == "":
		r.Advice = value
	case word == "require" || word == "otherwise":
		return at.fail(word, "is stated twice in rule %s; join conditions with && or write another rule", r.Name)
	default:
		return at.fail("rule "+r.Name, "has require and otherwise, not %.40q", word)
	}
	return nil
}

// endRule checks that the rule above is whole.
func (p *parser) endRule(at line) error {
	if len(p.rules) == 0 {
		return nil
	}
	switch r := p.rules[len(p.rules)-1]; {
	case r.Expr == "":
		return at.fail("rule "+r.Name, "ends here without require")
	case r.Advice == "":
		return at.fail("rule "+r.Name, "ends here without otherwise, which says what to do for whoever fails it")
	}
	return nil
}

func (p *parser) finish(at line) error {
	if err := p.endRule(at); err != nil {
		return err
	}
	switch {
	case at.number == 1:
		return at.fail("header", "is missing, want %s", key.KindPolicy)
	case p.head.name == "":
		return at.fail("name", "is missing")
	case len(p.rules) == 0 && !p.none:
		return at.fail("rule", "is missing; a policy without rules says so: rules none")
	case len(p.rules) > 0 && p.none:
		return p.seen["rules"].fail("rules", "says none, but there are %d", len(p.rules))
	case !slices.Contains(p.levels, p.head.minimumAssurance):
		return at.fail("minimum-assurance", "is missing, and its default %s is not a level of this vocabulary", DefaultAssurance)
	}
	return nil
}

func oneOf(at line, field, value string, names []string) error {
	if slices.Contains(names, value) {
		return nil
	}
	return at.fail(field, "%.40q is not one of %s; did you mean %s?", value, strings.Join(names, ", "), nearest(value, names))
}

// checkName holds names to lower-case kebab words.
func checkName(at line, field, name string) error {
	if len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.Contains(name, " ") || name[0] == '-' {
		return at.fail(field, "%.40q is not a name: at most %d lower-case letters, digits and hyphens", name, maxName)
	}
	return nil
}

func bounded(s string) string { return fmt.Sprintf("%.40s", s) }

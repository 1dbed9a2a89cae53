package policy

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// Bounds of an expression. Cost is CEL's own unit, about one step each; a list of
// 4,096 packages passes through two nested macros only if the inner list is short.
const (
	maxNodes     = 1024
	maxDepth     = 32
	maxIteration = 2 // nested macros
	maxRegex     = 1000
	maxCost      = 1_000_000
)

// functions and macros that expressions may use. Each is a function of its operands
// alone: no time, no time zones, no floating point, no maps and no dynamic types.
var functions = append([]string{
	operators.Conditional, operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot,
	operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
	operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, operators.Negate,
	operators.In, operators.Index, operators.NotStrictlyFalse,
}, named...)

var named = []string{"size", "startsWith", "endsWith", "contains", "matches"}

var macros = []string{operators.All, operators.Exists, operators.ExistsOne, operators.Filter, operators.Map}

func newEnv(claims *claimSet) (*cel.Env, error) {
	subset := &env.LibrarySubset{IncludeMacros: macros}
	for _, f := range functions {
		subset.IncludeFunctions = append(subset.IncludeFunctions, &env.Function{Name: f})
	}
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset)),
		cel.ParserExpressionSizeLimit(maxLine),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserErrorRecoveryLimit(4),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegex),
		cel.ASTValidators(
			cel.ValidateRegexLiterals(),
			cel.ValidateHomogeneousAggregateLiterals(),
			cel.ValidateComprehensionNestingLimit(maxIteration),
		),
	}
	for _, p := range claims.paths {
		options = append(options, cel.Variable(p.name, p.celType))
	}
	return cel.NewCustomEnv(options...)
}

func compileRule(e *cel.Env, claims *claimSet, rt ruleText) (rule, error) {
	fail := func(format string, args ...any) (rule, error) {
		return rule{}, rt.at.fail("rule "+rt.Name, format, args...)
	}
	parsed, issues := e.Parse(rt.Expr)
	if issues.Err() != nil {
		return fail("%s", firstIssue(issues))
	}
	checked, issues := e.Check(parsed)
	if issues.Err() != nil {
		if name := unknownClaim(parsed, claims); name != "" {
			return fail("%s", claims.hint(name))
		}
		return fail("%s", firstIssue(issues))
	}
	if t := checked.OutputType(); !t.IsExactType(types.BoolType) {
		return fail("is %s, want an expression that is true or false", t)
	}
	refs, problem := inspect(checked, claims)
	if problem != "" {
		return fail("%s", problem)
	}
	program, err := e.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return fail("%v", err)
	}
	return rule{Rule: rt.Rule, program: program, refs: refs, seen: new([seenMost]atomic.Pointer[seen])}, nil
}

// eval gives the rule's value, or why it has none.
func (r *rule) eval(values *valueSet) (bool, error) {
	out, _, err := r.program.Eval(values)
	if err != nil {
		return false, fmt.Errorf("%s: %w", r.Expr, err)
	}
	ok, isBool := out.(types.Bool)
	if !isBool {
		return false, fmt.Errorf("%s: has no value", r.Expr)
	}
	return bool(ok), nil
}

// judge gives the rule's value. Machines of a kind make the same claims over and over, so
// what the rule came to is looked up first.
func (r *rule) judge(values *valueSet) (bool, error) {
	var room [512]byte
	claims := room[:0]
	for _, ref := range r.refs {
		claims = values.append(claims, ref)
	}
	place := &r.seen[maphash.Bytes(seed, claims)%uint64(len(r.seen))]
	if s := place.Load(); s != nil && bytes.Equal(s.claims, claims) {
		return s.ok, nil
	}
	ok, err := r.eval(values)
	if err == nil && len(claims) <= maxSeen {
		place.Store(&seen{bytes.Clone(claims), ok})
	}
	return ok, err
}

// Bounds of what a rule keeps: the values of its claims, in bytes, and how many of them.
const (
	maxSeen  = 4096
	seenMost = 16
)

// seen is what a rule came to before, which it comes to whenever the claims are these.
type seen struct {
	claims []byte
	ok     bool
}

var seed = maphash.MakeSeed()

// inspect returns the claims that the expression names, and what the checker lets
// through though no rule may do it.
func inspect(checked *cel.Ast, claims *claimSet) (refs []int, problem string) {
	tree := checked.NativeRep()
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind, ast.SelectKind:
			reference, ok := tree.ReferenceMap()[e.ID()]
			if !ok {
				return
			}
			if i, ok := claims.byName[reference.Name]; ok && !slices.Contains(refs, i) {
				refs = append(refs, i)
			}
		case ast.MapKind, ast.StructKind:
			problem = "builds a map or a message; rules only read claims"
		case ast.ComprehensionKind:
			if v := e.AsComprehension().IterVar(); claims.hides(v) {
				problem = "iterates over a variable " + v + ", which hides the claims of that name"
			}
		case ast.CallKind:
			if c := e.AsCall(); c.FunctionName() == "matches" && len(c.Args()) > 0 && c.Args()[len(c.Args())-1].Kind() != ast.LiteralKind {
				problem = "matches against a pattern that is not written out"
			}
		}
	}))
	if problem == "" && len(refs) == 0 {
		problem = "refers to no claim, so it says the same of every machine; a policy without rules says: rules none"
	}
	return refs, problem
}

// hides reports whether the name is the first word of a claim's name.
func (s *claimSet) hides(name string) bool {
	return slices.ContainsFunc(s.paths, func(p claimPath) bool {
		first, _, _ := strings.Cut(p.name, ".")
		return first == name
	})
}

// unknownClaim returns the first name in an unchecked expression that is neither a
// claim, nor the start of one, nor a macro's variable.
func unknownClaim(parsed *cel.Ast, claims *claimSet) (unknown string) {
	tree := ast.NavigateAST(parsed.NativeRep())
	local := map[string]bool{}
	for _, e := range ast.MatchDescendants(tree, ast.KindMatcher(ast.ComprehensionKind)) {
		c := e.AsComprehension()
		local[c.IterVar()], local[c.IterVar2()], local[c.AccuVar()] = true, true, true
	}
	for _, e := range ast.MatchDescendants(tree, ast.KindMatcher(ast.IdentKind)) {
		if local[e.AsIdent()] {
			continue
		}
		name := e.AsIdent()
		_, known := claims.byName[name]
		for at := e; !known; {
			parent, ok := at.Parent()
			if !ok || parent.Kind() != ast.SelectKind {
				break
			}
			name += "." + parent.AsSelect().FieldName()
			_, known = claims.byName[name]
			at = parent
		}
		if !known {
			return name
		}
	}
	return ""
}

// hint says what may have been meant by a name that is no claim's.
func (s *claimSet) hint(name string) string {
	for _, p := range s.paths {
		if strings.HasPrefix(p.name, name+".") {
			return fmt.Sprintf("%s is a group of claims, such as %s", name, p.name)
		}
	}
	return fmt.Sprintf("no claim is named %.80s; did you mean %s?", name, nearest(name, s.names()))
}

// firstIssue returns CEL's first complaint on one line, with its column where it has one.
func firstIssue(issues *cel.Issues) string {
	first := issues.Errors()[0]
	message, _, _ := strings.Cut(first.Message, "\n")
	message, _, _ = strings.Cut(message, " (in container")
	message = fmt.Sprintf("%.200s", message)
	if strings.HasPrefix(message, "undeclared reference") {
		message += "; expressions may call " + strings.Join(slices.Concat(named, macros), ", ")
	}
	if column := first.Location.Column(); column >= 0 && first.Location.Line() > 0 {
		return fmt.Sprintf("column %d of the expression: %s", column+1, message)
	}
	return message
}

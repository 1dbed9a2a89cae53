package policy

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// A Vocabulary is what policies may speak of.
type Vocabulary struct {
	// Claims is the zero value of the struct of claims: fields of type bool, int64,
	// string or []string with a cel tag, or structs of such fields. Policies name a
	// field by the tags on its way, as in boot.secure_boot.
	Claims any
	// Levels are the names of the assurance levels, in ascending order.
	Levels []string
	// Formats are the package formats whose versions floors may state.
	Formats []string
}

// Names returns the names of all claims in the order of the struct.
func (v Vocabulary) Names() ([]string, error) {
	set, err := newClaimSet(v)
	if err != nil {
		return nil, err
	}
	return set.names(), nil
}

// claimSet is a flattened vocabulary: each leaf of the struct is one CEL variable
// with a dotted name. So a claim is read without reflection inside CEL, and an
// expression can do nothing with a claim but read it.
type claimSet struct {
	goType reflect.Type
	levels []string
	paths  []claimPath
	byName map[string]int
}

type claimPath struct {
	name    string
	index   []int // for reflect.Value.FieldByIndex
	celType *cel.Type
}

func newClaimSet(v Vocabulary) (*claimSet, error) {
	t := reflect.TypeOf(v.Claims)
	if t == nil || t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("policy: the vocabulary's claims are %T, want a struct", v.Claims)
	}
	s := &claimSet{goType: t, levels: v.Levels, byName: map[string]int{}}
	if err := s.add(t, "", nil); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *claimSet) add(t reflect.Type, prefix string, index []int) error {
	for f := range t.Fields() {
		name, at := f.Tag.Get("cel"), append(index[:len(index):len(index)], f.Index...)
		if name == "" || !f.IsExported() {
			return fmt.Errorf("policy: field %s of %v is not exported or has no cel tag", f.Name, t)
		}
		name = prefix + name
		if f.Type.Kind() == reflect.Struct {
			if err := s.add(f.Type, name+".", at); err != nil {
				return err
			}
			continue
		}
		celType, ok := map[reflect.Type]*cel.Type{
			reflect.TypeFor[bool]():     cel.BoolType,
			reflect.TypeFor[int64]():    cel.IntType,
			reflect.TypeFor[string]():   cel.StringType,
			reflect.TypeFor[[]string](): cel.ListType(cel.StringType),
			reflect.TypeFor[[]int64]():  cel.ListType(cel.IntType),
		}[f.Type]
		if _, twice := s.byName[name]; twice || !ok {
			return fmt.Errorf("policy: claim %s is there twice or is a %v, want bool, int64, string or a list of the last two", name, f.Type)
		}
		s.byName[name] = len(s.paths)
		s.paths = append(s.paths, claimPath{name, at, celType})
	}
	return nil
}

func (s *claimSet) names() []string {
	out := make([]string, len(s.paths))
	for i, p := range s.paths {
		out[i] = p.name
	}
	return out
}

// valueSet resolves the variables of one evaluation; a claim is converted when an
// expression first reads it.
type valueSet struct {
	set    *claimSet
	claims reflect.Value
	cached []ref.Val
}

func (s *claimSet) values(claims any) (*valueSet, error) {
	v := reflect.ValueOf(claims)
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if !v.IsValid() || v.Type() != s.goType {
		return nil, fmt.Errorf("claims are %T, want %v", claims, s.goType)
	}
	return &valueSet{set: s, claims: v, cached: make([]ref.Val, len(s.paths))}, nil
}

func (v *valueSet) at(i int) ref.Val {
	if v.cached[i] == nil {
		v.cached[i] = v.look(i)
	}
	return v.cached[i]
}

// look converts a claim without keeping it, so that results may be read by several goroutines.
func (v *valueSet) look(i int) ref.Val { return toCEL(v.claims.FieldByIndex(v.set.paths[i].index)) }

// append appends a claim's value to b: different values of a claim give different bytes.
func (v *valueSet) append(b []byte, i int) []byte {
	return appendValue(b, v.claims.FieldByIndex(v.set.paths[i].index))
}

func appendValue(b []byte, f reflect.Value) []byte {
	switch f.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, f.Bool())
	case reflect.Int64:
		return binary.BigEndian.AppendUint64(b, uint64(f.Int()))
	case reflect.String:
		return append(binary.BigEndian.AppendUint64(b, uint64(f.Len())), f.String()...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(f.Len())) // a list, newClaimSet knows nothing else
	for i := range f.Len() {
		b = appendValue(b, f.Index(i))
	}
	return b
}

func toCEL(f reflect.Value) ref.Val {
	switch x := f.Interface().(type) {
	case bool:
		return types.Bool(x)
	case int64:
		return types.Int(x)
	case string:
		return types.String(x)
	case []string:
		return types.NewStringList(types.DefaultTypeAdapter, x)
	case []int64:
		list := make([]ref.Val, len(x))
		for i, n := range x {
			list[i] = types.Int(n)
		}
		return types.NewRefValList(types.DefaultTypeAdapter, list)
	}
	return types.DefaultTypeAdapter.NativeToValue(f.Interface())
}

// ResolveName and Parent make a valueSet a cel.Activation.
func (v *valueSet) ResolveName(name string) (any, bool) {
	i, ok := v.set.byName[name]
	if !ok {
		return nil, false
	}
	return v.at(i), true
}

// Parent: see ResolveName.
func (v *valueSet) Parent() cel.Activation { return nil }

// Bounds of what Values prints of a claim.
const (
	maxListed = 16   // elements of a list
	maxString = 1024 // bytes of a string
)

func printed(v ref.Val) string {
	switch x := v.(type) {
	case types.Bool:
		return strconv.FormatBool(bool(x))
	case types.Int:
		return strconv.FormatInt(int64(x), 10)
	case types.String:
		if len(x) > maxString {
			return strconv.Quote(string(x[:maxString])) + "…"
		}
		return strconv.Quote(string(x))
	}
	list, ok := v.(interface {
		Get(ref.Val) ref.Val
		Size() ref.Val
	})
	if !ok {
		return fmt.Sprint(v.Value())
	}
	n := int(list.Size().(types.Int))
	var b strings.Builder
	b.WriteByte('[')
	for i := range min(n, maxListed) {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(printed(list.Get(types.Int(i))))
	}
	if n > maxListed {
		fmt.Fprintf(&b, ", … %d in all", n)
	}
	b.WriteByte(']')
	return b.String()
}

// nearest returns the candidate with the least edit distance to word.
func nearest(word string, candidates []string) string {
	word = bounded(word)
	best, least := "", len(word)+maxName
	for _, c := range candidates {
		if d := distance(word, c); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is Levenshtein's, over bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

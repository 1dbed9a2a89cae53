package admit

import (
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// MaxObject is the size of the largest object, in bytes.
const MaxObject = 64 << 20

// Object brings bytes into the domain by their digest, as one of the object kinds. The
// subject is the digest.
type Object struct {
	Domain keystead.Digest
	Digest keystead.Digest
	Base   uint64
	Kind   string
	Recipe []Ingredient // of a reference set: what it is built again from
}

// Ingredient is a file that a reference set is built from. A node takes it from
// wherever it finds it, and verifies it itself: the release by the keyring, indexes by
// the release, packages by an index.
type Ingredient struct {
	Role   string // IngredientKeyring, …
	Digest keystead.Digest
}

// The roles of ingredients.
const (
	IngredientKeyring = "keyring" // OpenPGP keys that the members trust for this set
	IngredientRelease = "release" // InRelease
	IngredientIndex   = "index"   // Packages, as the release names it
	IngredientPackage = "package" // .deb
	IngredientList    = "list"    // the package list (dpkg status) that says which packages
	IngredientRecipe  = "recipe"  // docs/spec/refset.md, which names all of these
)

var ingredients = []string{IngredientKeyring, IngredientRelease, IngredientIndex, IngredientPackage, IngredientList, IngredientRecipe}

const maxRecipe = 4096

func (o *Object) statement() Statement {
	s := Statement{key.KindObject, o.Domain, o.Digest.String(), o.Base, []Field{{"kind", o.Kind}}}
	for _, i := range o.Recipe {
		s.Fields = append(s.Fields, Field{"from", i.Role + " " + i.Digest.String()})
	}
	return s
}

func readObject(s Statement) (Object, error) {
	r := s.reader()
	o := Object{Domain: s.Domain, Base: s.Base, Kind: r.oneOf("kind", objectKinds...)}
	d, err := keystead.ParseDigest(s.Subject)
	if err != nil {
		r.fail("subject", "%v", err)
	}
	o.Digest = d
	for r.is("from") && r.err == nil {
		o.Recipe = append(o.Recipe, readIngredient(r))
	}
	switch n := len(o.Recipe); {
	case n > maxRecipe:
		r.fail("from", "stands there %d times, at most %d are accepted", n, maxRecipe)
	case (n > 0) != (o.Kind == ObjectReferences):
		r.fail("from", "a recipe belongs to a reference set, and every reference set has one")
	}
	return o, r.end()
}

func readIngredient(r *reader) Ingredient {
	role, digest, _ := strings.Cut(r.value("from"), " ")
	d, err := keystead.ParseDigest(digest)
	if err != nil {
		r.fail("from", "%v", err)
	}
	for _, known := range ingredients {
		if role == known {
			return Ingredient{role, d}
		}
	}
	r.fail("from", "%.40q is not one of %v", role, ingredients)
	return Ingredient{}
}

// Text returns the text that members sign.
func (o *Object) Text() ([]byte, error) { return checked(o.statement(), readObject) }

// ParseObject reads the text.
func ParseObject(text []byte) (Object, error) { return parsed(key.KindObject, text, readObject) }

// OpenObject returns the statement on an object that the members signed; see Case.Open.
func OpenObject(signed []byte, c Case) (Object, error) {
	return opened(c, key.KindObject, signed, readObject)
}

// JudgeObject endorses an object that is what its statement says. Content is the
// object's bytes; rebuilt is the digest of the reference set that this node built from
// the recipe, and plays no part for other kinds. Readers parse the objects of systems, by
// their kinds. It writes object/DIGEST, the kind.
func JudgeObject(_ State, c Case, signed, content []byte, rebuilt keystead.Digest, readers map[string]Reader) (Ruling, error) {
	o, err := OpenObject(signed, c)
	if err != nil {
		return Ruling{}, err
	}
	if _, err := fetch(func(keystead.Digest) ([]byte, error) { return content, nil }, Named{o.Digest, o.Kind}); err != nil {
		return Ruling{}, err
	}
	if err := o.check(content, rebuilt, c, readers); err != nil {
		return Ruling{}, err
	}
	text, err := o.Text()
	return Ruling{Content: text, Writes: []Write{{Key: objectKey(o.Digest), Value: []byte(o.Kind)}}}, err
}

// MaxSystemObject is the size of the largest object that terms name for a system, in bytes, and
// MaxContract that of a contract's code.
const (
	MaxSystemObject = 1 << 20
	MaxContract     = 8 << 20
)

// A Reader reports what is wrong with an object of a kind that a system reads.
type Reader func(content []byte) error

func (o *Object) check(content []byte, rebuilt keystead.Digest, c Case, readers map[string]Reader) (err error) {
	if o.Kind == ObjectContract || slices.Contains(systemKinds, o.Kind) {
		read := readers[o.Kind]
		if read == nil {
			return deny(keystead.ReasonRuleFailed, "object "+o.Digest.String(), "a kind that a part of this node reads", o.Kind)
		}
		return read(content)
	}
	switch o.Kind {
	case ObjectPolicy:
		_, err = policy.Compile(content, appraise.Vocabulary())
	case ObjectCodeSet:
		_, err = refval.OpenCodeSet(content, c.Roster.Members...)
	case ObjectRoots:
		_, err = ParseRoots(content)
	case ObjectCollateral:
		_, err = evidence.ParseCollateral(content)
	case ObjectTEERoots:
		_, err = ParseTEERoots(content)
	case ObjectReferences:
		_, err = refval.Parse(content)
		if err == nil && rebuilt != o.Digest {
			err = deny(keystead.ReasonObjectMismatch, ObjectReferences, "the reference set that its recipe gives, "+rebuilt.String(), o.Digest.String())
		}
	}
	return err
}

package admit

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
)

// Terms say by what a role is judged. The subject is the role.
type Terms struct {
	Domain     keystead.Digest // zero in founding terms, which the genesis entry names by digest
	Role       string          // host or node
	Base       uint64
	Policy     keystead.Digest // objects, by the digests of their bytes
	Roots      keystead.Digest
	References []keystead.Digest // ascending, as code sets and collateral
	CodeSets   []keystead.Digest
	Collateral []keystead.Digest // what vendors of TEEs say of their machines
	TEERoots   keystead.Digest   // whose TEEs count; zero: nobody's
	Systems    []Named           // objects that systems read, of each kind one, ascending by kind

	// Until is the domain time from which on a set of either kind counts no more, in whole
	// seconds from 1970 on. A set that is not in it counts for as long as the terms name it.
	Until map[keystead.Digest]time.Time

	// MayExclude is how many of the domain's current nodes may fall out by it, of terms for
	// nodes. It is of the statement alone: what is written has no such line.
	MayExclude uint64
}

// Bounds of terms.
const (
	maxSets       = 64 // of either kind
	maxCollateral = 8
)

func (t *Terms) statement() Statement {
	s := Statement{key.KindTerms, t.Domain, t.Role, t.Base, []Field{{"policy", t.Policy.String()}, {"roots", t.Roots.String()}}}
	for _, d := range t.References {
		s.Fields = append(s.Fields, Field{"references", t.dated(d)})
	}
	for _, d := range t.CodeSets {
		s.Fields = append(s.Fields, Field{"codeset", t.dated(d)})
	}
	for _, d := range t.Collateral {
		s.Fields = append(s.Fields, Field{"collateral", d.String()})
	}
	if !t.TEERoots.IsZero() {
		s.Fields = append(s.Fields, Field{"tee-roots", t.TEERoots.String()})
	}
	for _, o := range t.Systems {
		s.Fields = append(s.Fields, Field{o.Kind, o.Digest.String()})
	}
	return s.mayExclude(t.MayExclude)
}

// dated writes a set's digest and, if there is one, its time.
func (t *Terms) dated(d keystead.Digest) string {
	if until, ok := t.Until[d]; ok {
		return d.String() + untilWord + until.UTC().Format(time.RFC3339)
	}
	return d.String()
}

func readTerms(s Statement) (Terms, error) {
	r := s.reader()
	t := Terms{Domain: s.Domain, Role: s.Subject, Base: s.Base, Policy: r.digest("policy"), Roots: r.digest("roots")}
	until := map[keystead.Digest]time.Time{}
	t.References, t.CodeSets = r.dated("references", until), r.dated("codeset", until)
	for d := range until {
		if slices.Contains(t.References, d) && slices.Contains(t.CodeSets, d) {
			r.fail("codeset", "%v has a time, and is a reference set as well", d)
		}
	}
	if len(until) > 0 {
		t.Until = until
	}
	t.Collateral = r.digests("collateral")
	if r.is("tee-roots") {
		t.TEERoots = r.digest("tee-roots")
	}
	for _, kind := range systemKinds {
		if r.is(kind) {
			t.Systems = append(t.Systems, Named{r.digest(kind), kind})
		}
	}
	t.MayExclude = r.mayExclude(t.Role == RoleNode)
	if t.Role != RoleHost && t.Role != RoleNode {
		r.fail("subject", "%.40q is not a role: %s or %s", t.Role, RoleHost, RoleNode)
	}
	if n := len(t.Collateral); n > maxCollateral {
		r.fail("collateral", "stands there %d times, at most %d are accepted", n, maxCollateral)
	}
	if t.Role != RoleHost && (len(t.Collateral) > 0 || !t.TEERoots.IsZero()) {
		r.fail("tee-roots", "stand in terms for hosts alone: every %s has a TPM", t.Role)
	}
	if t.Role != RoleHost && len(t.Systems) > 0 {
		r.fail(t.Systems[0].Kind, "stand in terms for hosts alone")
	}
	if len(t.References) > maxSets || len(t.CodeSets) > maxSets {
		r.fail("whole", "names %d reference sets and %d code sets, at most %d of each are accepted", len(t.References), len(t.CodeSets), maxSets)
	}
	return t, r.end()
}

// Text returns the text that members sign, or that a genesis entry names.
func (t *Terms) Text() ([]byte, error) {
	for d := range t.Until {
		if !slices.Contains(t.References, d) && !slices.Contains(t.CodeSets, d) {
			return nil, &keystead.FormatError{Format: string(key.KindTerms), Field: "until", Problem: fmt.Sprintf("is given for %v, which is no set of these terms", d)}
		}
	}
	return checked(t.statement(), readTerms)
}

// ParseTerms reads the text.
func ParseTerms(text []byte) (Terms, error) { return parsed(key.KindTerms, text, readTerms) }

// OpenTerms returns the terms that the members signed; see Case.Open.
func OpenTerms(signed []byte, c Case) (Terms, error) {
	return opened(c, key.KindTerms, signed, readTerms)
}

// Object kinds.
const (
	ObjectPolicy     = "policy"     // docs/spec/policy.md, without signatures
	ObjectReferences = "refset"     // docs/spec/refset.md
	ObjectCodeSet    = "codeset"    // docs/spec/codeset.md, a note
	ObjectRoots      = "roots"      // docs/spec/roots.md
	ObjectCollateral = "collateral" // docs/spec/collateral.md
	ObjectTEERoots   = "tee-roots"  // docs/spec/roots.md
	ObjectAppRoots   = "app-roots"  // docs/spec/application.md; a system's
)

// systemKinds are of objects that a system reads, ascending. Terms name one of each at most.
var systemKinds = []string{ObjectAppRoots}

var objectKinds = append([]string{ObjectPolicy, ObjectReferences, ObjectCodeSet, ObjectRoots, ObjectCollateral, ObjectTEERoots}, systemKinds...)

// Named is an object that terms name, and what it has to be.
type Named struct {
	Digest keystead.Digest
	Kind   string
}

// Objects returns every object that the terms name.
func (t *Terms) Objects() []Named {
	out := []Named{{t.Policy, ObjectPolicy}, {t.Roots, ObjectRoots}}
	for _, d := range t.References {
		out = append(out, Named{d, ObjectReferences})
	}
	for _, d := range t.CodeSets {
		out = append(out, Named{d, ObjectCodeSet})
	}
	for _, d := range t.Collateral {
		out = append(out, Named{d, ObjectCollateral})
	}
	if !t.TEERoots.IsZero() {
		out = append(out, Named{t.TEERoots, ObjectTEERoots})
	}
	return append(out, t.Systems...)
}

// System returns the object of a system's kind that the terms name; zero if they name none.
func (t *Terms) System(kind string) keystead.Digest {
	for _, o := range t.Systems {
		if o.Kind == kind {
			return o.Digest
		}
	}
	return keystead.Digest{}
}

// FoundingTerms returns the setting of the genesis entry, NAME=VALUE, that makes a text
// the terms of a role.
func FoundingTerms(role string, text []byte) string {
	d := keystead.Sum(text)
	return FoundingSetting(role) + "=" + hex.EncodeToString(d[:])
}

// FoundingSetting is the name of the genesis entry's setting that names a role's terms.
func FoundingSetting(role string) string { return TypeTerms + "-" + role }

// JudgeTerms endorses terms whose every object is endorsed as what the terms take it
// for, or was named by founding terms, and whose collateral is of one piece (objects has
// it). It writes terms/ROLE, the statement's text without may-exclude.
func JudgeTerms(s State, c Case, signed []byte, objects Objects) (Ruling, error) {
	t, err := OpenTerms(signed, c)
	if err != nil {
		return Ruling{}, err
	}
	var findings []keystead.Finding
	var founding map[keystead.Digest]string // read when the first object is not endorsed
	for _, o := range t.Objects() {
		v, err := s.Judged(objectKey(o.Digest))
		if err != nil {
			return Ruling{}, err
		}
		kind := string(v.Data)
		if kind == "" {
			if founding == nil {
				if founding, err = foundingObjects(s, objects); err != nil {
					return Ruling{}, err
				}
			}
			kind = founding[o.Digest]
		}
		if kind != o.Kind {
			findings = append(findings, unknown(t.Role, o, kind))
		}
	}
	if findings != nil {
		return Ruling{}, keystead.Deny(findings...)
	}
	if _, err := t.joined(objects); err != nil {
		return Ruling{}, err
	}
	text, err := t.Text()
	if err != nil {
		return Ruling{}, err
	}
	t.MayExclude = 0
	written, err := t.Text()
	return Ruling{Content: text, Writes: []Write{{Key: termsKey(t.Role), Value: written}}}, err
}

// joined returns the collateral that the terms name, as one.
func (t *Terms) joined(objects Objects) (*evidence.Collateral, error) {
	var all []*evidence.Collateral
	for _, d := range t.Collateral {
		b, err := fetch(objects, Named{d, ObjectCollateral})
		if err != nil {
			return nil, err
		}
		c, err := evidence.ParseCollateral(b)
		if err != nil {
			return nil, fmt.Errorf("object %v: %w", d, err)
		}
		all = append(all, c)
	}
	return evidence.JoinCollateral(all)
}

func unknown(role string, o Named, kind string) keystead.Finding {
	f := keystead.Finding{Reason: keystead.ReasonObjectUnknown, Where: "terms for " + role, Want: "an endorsed " + o.Kind, Got: o.Digest.String() + ", which is not endorsed"}
	if kind != "" {
		f.Got = fmt.Sprintf("%v, which is a %s", o.Digest, kind)
	}
	return f
}

// foundingObjects returns the objects that founding terms name, with their kinds.
func foundingObjects(s State, objects Objects) (map[keystead.Digest]string, error) {
	out := map[keystead.Digest]string{}
	for _, role := range []string{RoleHost, RoleNode} {
		d, err := foundingDigest(s, role)
		if err != nil || d.IsZero() {
			if err != nil {
				return nil, err
			}
			continue
		}
		text, err := fetch(objects, Named{d, "terms"})
		if err != nil {
			return nil, err
		}
		t, err := ParseTerms(text)
		if err != nil {
			return nil, err
		}
		for _, o := range t.Objects() {
			out[o.Digest] = o.Kind
		}
	}
	return out, nil
}

// foundingDigest returns the digest of a role's founding terms; zero if there are none.
func foundingDigest(s State, role string) (keystead.Digest, error) {
	v, err := s.Founding(FoundingSetting(role))
	if err != nil || v == "" {
		return keystead.Digest{}, err
	}
	return keystead.ParseDigest("sha256:" + v)
}

// fetch returns an object's bytes, held to its digest.
func fetch(objects Objects, o Named) ([]byte, error) {
	b, err := objects(o.Digest)
	switch {
	case err != nil:
		return nil, err
	case b == nil:
		return nil, deny(keystead.ReasonObjectMissing, o.Kind, "object "+o.Digest.String(), "nothing")
	case keystead.Sum(b) != o.Digest:
		return nil, deny(keystead.ReasonObjectMismatch, o.Kind, "object "+o.Digest.String(), "other bytes, "+keystead.Sum(b).String())
	}
	return b, nil
}

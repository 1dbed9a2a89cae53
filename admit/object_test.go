package admit_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/policy"
)

// bring has an object judged.
func (s *state) bring(kind string, content []byte, rebuilt keystead.Digest, recipe ...admit.Ingredient) error {
	s.t.Helper()
	d := s.put(content)
	c := s.on(admit.TypeObject, d.String())
	r, err := admit.JudgeObject(s, c, s.signed(&admit.Object{Domain: s.domain, Digest: d, Base: c.Base, Kind: kind, Recipe: recipe}), content, rebuilt, nil)
	if err == nil {
		s.take(admit.TypeObject, d.String(), r)
	}
	return err
}

// TestObjectRules: an object is what members say it is, by this node's own look.
func TestObjectRules(t *testing.T) {
	s := newState(t)
	text, _ := policy.Shipped("demo")
	must(t, s.bring(admit.ObjectPolicy, text, keystead.Digest{}))
	malformed(t, "a policy that does not compile", s.bring(admit.ObjectPolicy, bytes.Replace(text, []byte("require "), []byte("require no.such.claim && "), 1), keystead.Digest{}))
	malformed(t, "a policy that is signed", s.bring(admit.ObjectPolicy, s.sign(text, "ada"), keystead.Digest{}))
	malformed(t, "roots for a policy", s.bring(admit.ObjectPolicy, []byte("keystead-roots/1\n"), keystead.Digest{}))
	malformed(t, "a policy for roots", s.bring(admit.ObjectRoots, text, keystead.Digest{}))
	malformed(t, "a policy for a reference set", s.bring(admit.ObjectReferences, text, keystead.Sum(text), admit.Ingredient{Role: admit.IngredientRelease, Digest: digestOf(1)}))

	codes := []byte(record().CodeSet)
	demand(t, "a code set that nobody signed", s.bring(admit.ObjectCodeSet, codes, keystead.Digest{}), keystead.ReasonNoteUnsigned)
	demand(t, "a code set that a stranger signed", s.bring(admit.ObjectCodeSet, s.sign(codes, "mallory"), keystead.Digest{}), keystead.ReasonNoteUnsigned)
	must(t, s.bring(admit.ObjectCodeSet, s.sign(codes, "cleo"), keystead.Digest{}))

	set, recipe := record().Reference, admit.Ingredient{Role: admit.IngredientRelease, Digest: digestOf("InRelease")}
	must(t, s.bring(admit.ObjectReferences, set, keystead.Sum(set), recipe))
	demand(t, "a reference set that its recipe does not give", s.bring(admit.ObjectReferences, set, digestOf("another"), recipe), keystead.ReasonObjectMismatch)
	demand(t, "a reference set that was not built", s.bring(admit.ObjectReferences, set, keystead.Digest{}, recipe), keystead.ReasonObjectMismatch)

	d := keystead.Sum(text)
	c := s.on(admit.TypeObject, d.String())
	note := s.signed(&admit.Object{Domain: s.domain, Digest: d, Base: c.Base, Kind: admit.ObjectPolicy})
	_, err := admit.JudgeObject(s, c, note, append(text, '\n'), keystead.Digest{}, nil)
	demand(t, "other bytes than the digest's", err, keystead.ReasonObjectMismatch)
	_, err = admit.JudgeObject(s, c, note, nil, keystead.Digest{}, nil)
	demand(t, "no bytes", err, keystead.ReasonObjectMissing)

	for what, o := range map[string]admit.Object{
		"a policy with a recipe":             {Kind: admit.ObjectPolicy, Digest: d, Recipe: []admit.Ingredient{recipe}},
		"a reference set without a recipe":   {Kind: admit.ObjectReferences, Digest: d},
		"an ingredient of an unknown role":   {Kind: admit.ObjectReferences, Digest: d, Recipe: []admit.Ingredient{{Role: "salt", Digest: d}}},
		"an object of an unknown kind":       {Kind: "book", Digest: d},
		"a reference set of 5,000 packages":  {Kind: admit.ObjectReferences, Digest: d, Recipe: slices.Repeat([]admit.Ingredient{recipe}, 5000)},
		"a reference set of 10,000 packages": {Kind: admit.ObjectReferences, Digest: d, Recipe: slices.Repeat([]admit.Ingredient{recipe}, 10000)},
	} {
		_, err := o.Text()
		malformed(t, what, err)
	}
}

// TestTermsRules: every object of terms is endorsed, or founding.
func TestTermsRules(t *testing.T) {
	s := newState(t)
	judge := func(terms admit.Terms) error {
		t.Helper()
		c := s.on(admit.TypeTerms, terms.Role)
		terms.Domain, terms.Base = s.domain, c.Base
		r, err := admit.JudgeTerms(s, c, s.signed(&terms), s.object)
		if err == nil {
			s.take(admit.TypeTerms, terms.Role, r)
		}
		return err
	}
	_, err := admit.TermsOf(s, admit.RoleHost)
	demand(t, "a role without terms", err, keystead.ReasonTermsMissing)
	terms := s.terms("demo")
	codes := s.sign([]byte(record().CodeSet), "ada")
	terms.CodeSets = []keystead.Digest{keystead.Sum(codes)}
	unknown := keystead.ReasonObjectUnknown
	demand(t, "terms of which no object is endorsed", judge(*terms), unknown, unknown, unknown, unknown)
	must(t, s.bring(admit.ObjectPolicy, s.objects[terms.Policy], keystead.Digest{}))
	must(t, s.bring(admit.ObjectRoots, s.objects[terms.Roots], keystead.Digest{}))
	must(t, s.bring(admit.ObjectCodeSet, codes, keystead.Digest{}))
	demand(t, "terms of which one object is not endorsed", judge(*terms), unknown)
	must(t, s.bring(admit.ObjectReferences, record().Reference, terms.References[0], admit.Ingredient{Role: admit.IngredientRelease, Digest: digestOf(1)}))
	must(t, judge(*terms))
	if r := s.rules(admit.RoleHost); r.Role() != admit.RoleHost || len(r.Roots().Test) != 1 {
		t.Errorf("the rules are for %s, with %d roots", r.Role(), len(r.Roots().Test))
	}
	swapped := *terms
	swapped.Policy, swapped.Roots = terms.Roots, terms.Policy
	demand(t, "roots for a policy and a policy for roots", judge(swapped), unknown, unknown)

	founding := s.terms("demo") // of which the code set is not endorsed, for nobody signed it
	demand(t, "terms that name an object nobody signed", judge(*founding), unknown)
	s.found(founding)
	must(t, judge(*founding))
	delete(s.objects, digestIn(t, s.founding["terms-host"]))
	must(t, judge(*terms))
	demand(t, "terms that name a founding object, of founding terms that are not here", judge(*founding), keystead.ReasonObjectMissing)

	for what, terms := range map[string]admit.Terms{
		"terms for nobody":            {Role: "king", Policy: terms.Policy, Roots: terms.Roots},
		"terms without a policy":      {Role: admit.RoleHost, Roots: terms.Roots},
		"terms without roots":         {Role: admit.RoleHost, Policy: terms.Policy},
		"terms with one set twice":    {Role: admit.RoleHost, Policy: terms.Policy, Roots: terms.Roots, References: slices.Repeat(terms.References, 2)},
		"terms with an all-zero name": {Role: admit.RoleHost, Policy: terms.Policy, Roots: terms.Roots, CodeSets: []keystead.Digest{{}}},
	} {
		_, err := terms.Text()
		malformed(t, what, err)
	}
}

func digestIn(t *testing.T, hex string) keystead.Digest {
	d, err := keystead.ParseDigest("sha256:" + hex)
	must(t, err)
	return d
}

// TestRulesAreHeldToTheirDigests: terms and objects that are not what they are said to be.
func TestRulesAreHeldToTheirDigests(t *testing.T) {
	s := newDomain(t)
	terms, err := admit.TermsOf(s, admit.RoleHost)
	must(t, err)
	for d, b := range s.objects {
		_, err := terms.Open(func(asked keystead.Digest) ([]byte, error) {
			if asked == d {
				return nil, nil
			}
			return s.object(asked)
		})
		demand(t, "an object that is not here", err, keystead.ReasonObjectMissing)
		_, err = terms.Open(func(asked keystead.Digest) ([]byte, error) {
			if asked == d {
				return append(bytes.Clone(b), 'x'), nil
			}
			return s.object(asked)
		})
		demand(t, "an object that was altered", err, keystead.ReasonObjectMismatch)
	}
	down := errors.New("the disk is gone")
	if _, err := terms.Open(func(keystead.Digest) ([]byte, error) { return nil, down }); !errors.Is(err, down) {
		t.Errorf("a disk that fails: %v", err)
	}
	s.founding["terms-node"] = s.founding["terms-host"]
	node, err := admit.TermsOf(s, admit.RoleNode)
	must(t, err)
	_, err = node.Open(s.object)
	demand(t, "terms of another role", err, keystead.ReasonObjectMismatch)
	s.founding["terms-node"] = "zz"
	if _, err := admit.TermsOf(s, admit.RoleNode); err == nil {
		t.Error("founding terms whose digest is none")
	}
}

// TestRootsHaveOneSpelling: the text of endorsement roots.
func TestRootsHaveOneSpelling(t *testing.T) {
	ca, err := authority()
	must(t, err)
	m := start(t, web)
	leaf, err := x509.ParseCertificate(m.ek.Chain[0])
	must(t, err)
	text, err := admit.FormatRoots(tpm2.Roots{Hardware: []*x509.Certificate{leaf}, Test: []*x509.Certificate{ca.Root}})
	must(t, err)
	again, err := admit.ParseRoots(text)
	if err != nil || len(again.Hardware) != 1 || len(again.Test) != 1 || !again.Hardware[0].Equal(leaf) || !again.Test[0].Equal(ca.Root) {
		t.Errorf("read back: %+v, %v", again, err)
	}
	if certs, err := tpm2.ParseCertificates(text); err != nil || len(certs) != 2 {
		t.Errorf("as any PEM: %d certificates, %v", len(certs), err)
	}
	_, err = admit.FormatRoots(tpm2.Roots{Hardware: []*x509.Certificate{ca.Root}, Test: []*x509.Certificate{ca.Root}})
	malformed(t, "one certificate in two kinds", err)
	_, err = admit.FormatRoots(tpm2.Roots{})
	malformed(t, "no certificate", err)
	i := strings.Index(string(text), "test\n")
	for what, text := range map[string]string{
		"nothing":                    "",
		"kinds out of order":         rootsLine + string(text[i:]) + string(text[len(rootsLine):i]),
		"an unknown kind":            strings.Replace(string(text), "test\n", "tests\n", 1),
		"no kind":                    strings.Replace(string(text), "test\n", "", 1),
		"a kind without certificate": string(text) + "test\n",
		"text at the end":            string(text) + "\n",
		"another first line":         strings.Replace(string(text), "roots/1", "roots/2", 1),
		"a header":                   strings.Replace(string(text), "BEGIN CERTIFICATE-----\n", "BEGIN CERTIFICATE-----\nA: b\n\n", 1),
		"another block":              strings.ReplaceAll(string(text), "CERTIFICATE", "PUBLIC KEY"),
		"too much":                   string(text) + strings.Repeat("x", admit.MaxRoots),
		"no DER":                     rootsLine + "test\n-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
	} {
		_, err := admit.ParseRoots([]byte(text))
		malformed(t, what, err)
	}
}

const rootsLine = "keystead-roots/1\n"

// FuzzRoots: what is accepted has one spelling.
func FuzzRoots(f *testing.F) {
	ca, err := authority()
	must(f, err)
	text, err := admit.FormatRoots(tpm2.Roots{Test: []*x509.Certificate{ca.Root}})
	must(f, err)
	f.Add(text)
	f.Add([]byte(rootsLine + "hardware\n-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := admit.ParseRoots(b)
		if err != nil {
			return
		}
		if again, err := admit.FormatRoots(r); err != nil || !bytes.Equal(again, b) {
			t.Errorf("two spellings: %q and %q, %v", b, again, err)
		}
	})
}

package admit

import (
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// InForce names the terms that a role is judged by.
type InForce struct {
	Role    string
	Digest  keystead.Digest // of the text
	Version uint64          // of the entry that made them; 0 for founding terms
	Text    []byte          // nil for founding terms, whose text is an object
}

// TermsOf returns the terms in force for a role: the last judged ones, or those that
// the genesis entry names. A role without terms is refused with terms-missing.
func TermsOf(s State, role string) (InForce, error) {
	v, err := s.Judged(termsKey(role))
	if err != nil {
		return InForce{}, err
	}
	if v.Version != 0 {
		return InForce{role, keystead.Sum(v.Data), v.Version, v.Data}, nil
	}
	d, err := foundingDigest(s, role)
	if err == nil && d.IsZero() {
		err = deny(keystead.ReasonTermsMissing, "role "+role, "terms, from the genesis entry or judged", "none")
	}
	return InForce{Role: role, Digest: d}, err
}

// Rules are terms with their objects read, ready to appraise by. Reading reference sets
// takes a while: whoever judges keeps Rules by their digest. The zero value admits nobody.
type Rules struct {
	role       string
	digest     keystead.Digest
	policy     *policy.Policy
	roots      tpm2.Roots
	sets       []appraise.Dated // of both kinds
	collateral *evidence.Collateral
	teeRoots   evidence.VendorRoots
	memory     *appraise.Memory // what hosts send again and again
}

// What rules remember of hosts is bounded, of each kind: in items, and in bytes, which
// hosts choose.
const (
	remembered      = 1 << 16
	rememberedBytes = 256 << 20
)

// Open reads the terms' text and every object that they name. What makes an object
// good was judged before; here each is held to its digest and parsed. Refusals:
// object-missing, object-mismatch; a *keystead.FormatError for what does not parse.
func (f InForce) Open(objects Objects) (*Rules, error) {
	text := f.Text
	if text == nil {
		var err error
		if text, err = fetch(objects, Named{f.Digest, "terms"}); err != nil {
			return nil, err
		}
	}
	t, err := ParseTerms(text)
	if err != nil {
		return nil, err
	}
	if t.Role != f.Role || keystead.Sum(text) != f.Digest {
		return nil, deny(keystead.ReasonObjectMismatch, "terms", fmt.Sprintf("terms %v for %s", f.Digest, f.Role), fmt.Sprintf("%v for %s", keystead.Sum(text), t.Role))
	}
	r := &Rules{role: t.Role, digest: f.Digest, memory: appraise.NewMemory(remembered, rememberedBytes)}
	if r.collateral, err = t.joined(objects); err != nil {
		return nil, err
	}
	for _, o := range t.Objects() {
		if o.Kind == ObjectCollateral || slices.Contains(systemKinds, o.Kind) {
			continue
		}
		b, err := fetch(objects, o)
		if err != nil {
			return nil, err
		}
		if err := r.add(o.Kind, b, t.Until[o.Digest]); err != nil {
			return nil, fmt.Errorf("object %v: %w", o.Digest, err)
		}
	}
	return r, nil
}

func (r *Rules) add(kind string, b []byte, until time.Time) (err error) {
	switch kind {
	case ObjectPolicy:
		r.policy, err = policy.Compile(b, appraise.Vocabulary())
	case ObjectRoots:
		r.roots, err = ParseRoots(b)
	case ObjectTEERoots:
		r.teeRoots, err = ParseTEERoots(b)
	case ObjectReferences:
		var s *refval.Set
		s, err = refval.Parse(b)
		r.sets = append(r.sets, appraise.Dated{References: s, Until: until})
	case ObjectCodeSet:
		if key.IsNote(b) { // whose signatures were checked when it was endorsed, by the members of then
			if b, _, err = key.Peek(b); err != nil {
				return err
			}
		}
		var c *refval.CodeSet
		c, err = refval.ParseCodeSet(string(b))
		r.sets = append(r.sets, appraise.Dated{CodeSet: c, Until: until})
	}
	return err
}

// Digest names the terms that the rules were opened from.
func (r *Rules) Digest() keystead.Digest { return r.digest }

// Role returns the role that the rules are for.
func (r *Rules) Role() string { return r.role }

// maxEnds is how many ends of sets are told.
const maxEnds = 16

// Ends returns the times after one from which on a set counts no more, ascending: of more than
// 16, the first 15 and the last.
func (r *Rules) Ends(after time.Time) (ends []time.Time) {
	for _, s := range r.sets {
		if s.Until.After(after) {
			ends = append(ends, s.Until)
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	ends = slices.CompactFunc(ends, time.Time.Equal)
	if n := len(ends); n > maxEnds {
		ends = append(ends[:maxEnds-1], ends[n-1])
	}
	return ends
}

// Roots returns the endorsement roots, for credential activation.
func (r *Rules) Roots() tpm2.Roots { return r.roots }

// Knows reports whether a set that counts at a time of the domain clock has a file.
func (r *Rules) Knows(file keystead.Digest, clock time.Time) bool {
	in := r.Input(clock)
	for _, s := range in.References {
		if _, ok := s.Lookup(file); ok {
			return true
		}
	}
	return slices.ContainsFunc(in.CodeSets, func(c *refval.CodeSet) bool { _, ok := c.Lookup(file); return ok })
}

// TEEInput is Input for a host whose evidence is that of a TEE alone: with the vendors'
// roots and what they say of their machines. The verdict on a TPM's host does not name
// them, so that it is the same whatever of them the terms name.
func (r *Rules) TEEInput(clock time.Time) appraise.Input {
	in := r.Input(clock)
	in.Collateral, in.TEERoots = r.collateral, r.teeRoots
	return in
}

// Input returns what appraisal takes from the rules: all but bundle, expected binding,
// key and time. Which sets count is judged as of a time of the domain clock.
func (r *Rules) Input(clock time.Time) appraise.Input {
	in := appraise.Input{EKRoots: r.roots, Policy: r.policy, Memory: r.memory}
	for _, s := range r.sets {
		in.Add(s, clock)
	}
	return in
}

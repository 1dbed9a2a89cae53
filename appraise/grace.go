package appraise

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/refval"
)

// Dated is a reference set, or a code set in its place, and up to when it counts.
type Dated struct {
	References *refval.Set
	CodeSet    *refval.CodeSet
	Until      time.Time // from then on it does not count; zero: it counts for good
}

// Digest names the set.
func (d Dated) Digest() keystead.Digest {
	if d.CodeSet != nil {
		return d.CodeSet.Digest()
	}
	return d.References.Digest()
}

// String says which set it was, and up to when it counted.
func (d Dated) String() string {
	what := fmt.Sprintf("reference set %v", d.Digest())
	if d.CodeSet != nil {
		what = "code set " + d.CodeSet.Name()
	}
	return what + ", which counted until " + d.Until.UTC().Format(time.RFC3339)
}

// Add adds a set as it stands at a time: among those that count, or among the ended.
func (in *Input) Add(d Dated, at time.Time) {
	switch {
	case !d.Until.IsZero() && !at.Before(d.Until):
		in.Ended = append(in.Ended, d)
	case d.CodeSet != nil:
		in.CodeSets = append(in.CodeSets, d.CodeSet)
	default:
		in.References = append(in.References, d.References)
	}
}

// EndedSet names a set that counts no more, among the inputs of a verdict.
type EndedSet struct {
	Set   keystead.Digest `json:"set"`
	Until time.Time       `json:"until"`
}

// ended names the sets that count no more, in order.
func (in *Input) ended() (out []EndedSet) {
	for _, d := range in.Ended {
		out = append(out, EndedSet{d.Digest(), d.Until.UTC()})
	}
	return out
}

// wantAfterGrace is what to do where only an ended set vouched for something.
const wantAfterGrace = "what a set that still counts names: upgrade and reboot the machine, or have members set terms with a later time"

// lapsed is a set that counts no more, with what a code set trusted.
type lapsed struct {
	Dated
	trusted references // vendors and keys alone
}

// lapse takes in a set that counts no more. That its vendors are trusted no more opens
// nothing to others.
func (r *references) lapse(d Dated) {
	l := lapsed{Dated: d}
	if d.CodeSet != nil {
		l.trusted.trust(d.CodeSet)
	}
	for _, v := range l.trusted.vendors {
		r.closed = append(r.closed, v.Format)
	}
	r.ended = append(r.ended, l)
}

// vouchedOnce finds the ended set by which an entry that is refused would have passed. It
// lets nothing pass, and gives the refusal its reason.
func (r *references) vouchedOnce(e *ima.Entry, refused owner) (owner, *lapsed) {
	for i := range r.ended {
		if o, ok := r.namedBy(&r.ended[i], e, refused); ok {
			return o, &r.ended[i]
		}
	}
	return owner{}, nil
}

// namedBy reports whether an ended set would have the entry pass, and whose the file was.
func (r *references) namedBy(l *lapsed, e *ima.Entry, refused owner) (owner, bool) {
	if o, ok := l.trusted.signed(e); ok {
		return o, true
	}
	if e.Alg != "sha256" || buffer(e) {
		return owner{}, false
	}
	d := keystead.Digest(e.FileDigest)
	if l.CodeSet != nil {
		if _, ok := l.CodeSet.Lookup(d); ok {
			return owner{code: l.CodeSet.Name()}, true
		}
		for _, s := range r.sets {
			if _, ok := r.shippedOnce(s, d, l.trusted.vendors); ok {
				return refused, true
			}
		}
		return owner{}, false
	}
	if l.References.Header().Selection.Boots() {
		return owner{}, false
	}
	vendors := slices.Clone(r.vendors)
	for i := range r.ended { // which may have ended at the same time
		vendors = append(vendors, r.ended[i].trusted.vendors...)
	}
	return r.shippedOnce(l.References, d, vendors)
}

// shippedOnce finds a package of a set that ships the content, is not below a floor, and
// behind which one of the vendors stands, where any are named.
func (r *references) shippedOnce(s *refval.Set, d keystead.Digest, vendors []vendor) (owner, bool) {
	h := s.Header()
	for source := range s.Sources(d) {
		p := &h.Packages[source.Number]
		if r.floors.below(p) == "" && (r.vouched(p, h.Repositories) || signedBy(vendors, p, h.Repositories)) {
			return owner{pkg: p}, true
		}
	}
	return owner{}, false
}

// overdue is a refusal of a boot, by its own words or, where ended sets would have
// accepted it, by these: each alone, or all together.
func (a *appraisal) overdue(f keystead.Finding, accepts func(*appraisal) bool) keystead.Finding {
	var tries [][]Dated
	for i := range a.in.Ended {
		tries = append(tries, a.in.Ended[i:i+1])
	}
	for _, counted := range append(tries, a.in.Ended) {
		b := *a
		b.prior, b.refs, b.faulty = nil, nil, nil // they know what counts now
		b.in.References, b.in.CodeSets = slices.Clone(a.in.References), slices.Clone(a.in.CodeSets)
		var names []string
		for _, d := range counted {
			names = append(names, d.String())
			d.Until = time.Time{}
			b.in.Add(d, a.in.Time)
		}
		if len(counted) > 0 && accepts(&b) {
			return keystead.Finding{Reason: keystead.ReasonGraceEnded, Where: f.Where, Want: wantAfterGrace, Got: f.Got + "; accepted by " + strings.Join(names, " and ")}
		}
	}
	return f
}

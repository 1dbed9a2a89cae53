package admit_test

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/refval"
)

// graceful is a domain whose terms have the recorded reference set count for a minute
// from now, and the time of its end in Unix milliseconds.
func graceful(t *testing.T) (s *state, end uint64) {
	t.Helper()
	s = newDomain(t)
	until := time.UnixMilli(int64(s.clock)).UTC().Truncate(time.Second).Add(time.Minute)
	terms := s.terms("demo")
	terms.Until = map[keystead.Digest]time.Time{terms.References[0]: until}
	s.found(terms)
	return s, uint64(until.UnixMilli())
}

// TestDatedTerms: the texts of terms with times, in their one spelling, and what is none.
func TestDatedTerms(t *testing.T) {
	d := digestOf("object")
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	plain := admit.Terms{Role: admit.RoleHost, Policy: d, Roots: d, References: []keystead.Digest{digestOf("refs")}, CodeSets: []keystead.Digest{digestOf("codes")}}
	before, err := plain.Text()
	must(t, err)
	dated := plain
	dated.Until = map[keystead.Digest]time.Time{digestOf("refs"): at, digestOf("codes"): at.Add(time.Second).In(time.FixedZone("", 3600))}
	text, err := dated.Text()
	must(t, err)
	want := strings.NewReplacer(digestOf("refs").String(), digestOf("refs").String()+" until 2026-12-01T00:00:00Z", digestOf("codes").String(), digestOf("codes").String()+" until 2026-12-01T00:00:01Z").Replace(string(before))
	if string(text) != want {
		t.Errorf("%s\nwant\n%s", text, want)
	}
	for what, tc := range map[string]struct {
		text  []byte
		until map[keystead.Digest]time.Time
	}{
		"with times": {text, map[keystead.Digest]time.Time{digestOf("refs"): at, digestOf("codes"): at.Add(time.Second)}},
		"as ever":    {before, nil},
	} {
		again, err := admit.ParseTerms(tc.text)
		must(t, err)
		if !reflect.DeepEqual(again.Until, tc.until) || len(again.References) != 1 || len(again.CodeSets) != 1 {
			t.Errorf("%s: %+v", what, again)
		}
	}
	line := " until 2026-12-01T00:00:00Z"
	for _, other := range []string{
		" until 2026-12-01T00:00:00+00:00", " until 2026-12-01T01:00:00+01:00", " until 2026-12-01T00:00:00.5Z", " until 2026-12-01T00:00:00.0Z", " until 2026-12-01", " until ",
		" until 1764547200000", " until never", " until 1970-01-01T00:00:00Z", " until 0001-01-01T00:00:00Z", " until 2026-02-30T00:00:00Z", " until  2026-12-01T00:00:00Z",
		" until 2026-12-01T00:00:00Z until 2026-12-01T00:00:00Z", " until 2026-12-01T00:00:00Z ", " before 2026-12-01T00:00:00Z", line[1:],
	} {
		_, err := admit.ParseTerms([]byte(strings.Replace(string(text), line, other, 1)))
		malformed(t, "references …"+other, err)
	}
	_, err = admit.ParseTerms([]byte(strings.Replace(string(text), "policy "+d.String(), "policy "+d.String()+line, 1)))
	malformed(t, "a policy with a time", err)
	stray := plain
	stray.Until = map[keystead.Digest]time.Time{digestOf("another"): at}
	_, err = stray.Text()
	malformed(t, "a time for no set", err)
	both := dated
	both.CodeSets = both.References
	both.Until = map[keystead.Digest]time.Time{digestOf("refs"): at}
	_, err = both.Text()
	malformed(t, "one set of both kinds, with a time", err)
}

// TestGraceEnds: a host that was admitted in the grace of what it runs is renewed to its
// end, by the time of the nonce's tick, and no further: neither by what its logs have
// gained nor by all of them, nor is it admitted anew.
func TestGraceEnds(t *testing.T) {
	s, end := graceful(t)
	m := start(t, web)
	must(t, s.enrol("web-1", m.id, false))
	d, err := admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
	must(t, err)
	s.take(admit.TypeLease, "web-1", d.Ruling())
	renew := func(clock uint64, prior *appraise.State) (admit.Decision, error) {
		t.Helper()
		s.clock = clock
		a := s.apply(m, "web-1", evidence.PurposeRenewal)
		if prior != nil {
			b, err := evidence.Continue(a.Bundle.Parts(), prior.Reference())
			must(t, err)
			a.Bundle, a.Prior = b, prior
		}
		return admit.Renew(s, a)
	}
	last, err := renew(end-1, d.State())
	must(t, err)
	r, ok := last.Renewal()
	if !ok || last.State() == nil {
		t.Fatal("a renewal without what it goes on from")
	}
	s.renewals["web-1"] = r
	whole, err := renew(end-1, nil)
	demand(t, "the same time again", err, keystead.ReasonRenewalReplayed)
	if whole.Against() {
		t.Error("a replayed renewal speaks against the host")
	}
	for _, state := range []*appraise.State{d.State(), last.State()} {
		rides, err := renew(end, state)
		demand(t, "a continuation from within the grace", err, keystead.ReasonLogUnknown)
		if _, ok := rides.Renewal(); ok || rides.Against() || rides.State() != nil {
			t.Errorf("it rides on: %+v", rides)
		}
	}
	whole, err = renew(end, nil)
	refused(t, "the whole", err)
	if _, ok := whole.Renewal(); ok || !whole.Against() {
		t.Error("the whole does not speak against the host")
	}
	_, err = admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
	refused(t, "an admission after the end", err)

	later, end := graceful(t)
	must(t, later.enrol("web-1", m.id, false))
	later.clock = end
	terms := later.terms("demo")
	terms.Until = map[keystead.Digest]time.Time{terms.References[0]: time.UnixMilli(int64(end)).Add(time.Second)}
	later.found(terms)
	_, err = admit.Decide(later, later.apply(m, "web-1", evidence.PurposeAdmission))
	must(t, err)
}

// TestDatedVerdictIsRecomputed: the verdict of an admission names the time and what had
// ended by then, and comes out of the terms again whenever it is recomputed.
func TestDatedVerdictIsRecomputed(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	until := time.UnixMilli(int64(s.clock)).UTC().Truncate(time.Second)
	terms := s.terms("demo")
	codes, err := refval.NewCodeSet("build-1", []refval.Code{{Digest: digestOf("program"), Path: "/opt/own", Version: "1"}}, nil)
	must(t, err)
	ended := s.put([]byte(codes.Text()))
	terms.CodeSets = append(terms.CodeSets, ended)
	slices.SortFunc(terms.CodeSets, func(a, b keystead.Digest) int { return slices.Compare(a[:], b[:]) })
	terms.Until = map[keystead.Digest]time.Time{ended: until, terms.References[0]: until.Add(time.Minute)}
	s.found(terms)
	must(t, s.enrol("web-1", m.id, false))
	a := s.apply(m, "web-1", evidence.PurposeAdmission)
	d, err := admit.Decide(s, a)
	must(t, err)
	named := d.Verdict().Inputs()
	if len(named.Ended) != 1 || named.Ended[0] != (appraise.EndedSet{Set: codes.Digest(), Until: until}) || len(named.References) != 1 || len(named.CodeSets) != 1 {
		t.Errorf("inputs %+v", named)
	}
	again := func(clock time.Time) []byte {
		in := s.rules(admit.RoleHost).Input(clock)
		in.Bundle, in.Key, in.Time = a.Bundle, named.Key, named.Time
		in.Expect = evidence.Binding{Purpose: named.Purpose, Nonce: named.Nonce, SubjectKey: named.SubjectKey}
		return appraise.Appraise(in).Bytes()
	}
	if !bytes.Equal(again(named.Time), d.Verdict().Bytes()) {
		t.Error("the same inputs give another verdict")
	}
	for _, clock := range []time.Time{until.Add(-time.Second), until.Add(time.Minute)} {
		if bytes.Equal(again(clock), d.Verdict().Bytes()) {
			t.Errorf("at %v the same sets count as at %v", clock, named.Time)
		}
	}
}

// refused wants a refusal in which every file of the ended set is told by name.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	var d *keystead.DenyError
	if !errors.As(err, &d) {
		t.Fatalf("%s: %v", what, err)
	}
	files := 0
	for _, f := range d.Findings {
		switch f.Reason {
		case keystead.ReasonGraceEnded:
			files++
			if !strings.HasPrefix(f.Where, "/") || !strings.Contains(f.Got, " of package ") || !strings.Contains(f.Got, "reference set "+keystead.Sum(record().Reference).String()+", which counted until ") {
				t.Errorf("%s: %v", what, f)
			}
		case keystead.ReasonFileUnknown, keystead.ReasonFileAltered:
			t.Errorf("%s: %v", what, f)
		}
	}
	if files == 0 {
		t.Errorf("%s: %v", what, err)
	}
}

// TestEnds tells the times at which sets of terms end, each once, whatever ends first.
func TestEnds(t *testing.T) {
	s := newDomain(t)
	now := time.UnixMilli(int64(s.clock)).UTC().Truncate(time.Second)
	terms := s.terms("demo")
	first, second := now.Add(time.Minute), now.Add(time.Hour)
	other := s.put([]byte(strings.Replace(record().CodeSet, "name ", "name other-", 1)))
	terms.CodeSets = append(terms.CodeSets, other)
	slices.SortFunc(terms.CodeSets, func(a, b keystead.Digest) int { return bytes.Compare(a[:], b[:]) })
	terms.Until = map[keystead.Digest]time.Time{terms.References[0]: second, terms.CodeSets[0]: first, terms.CodeSets[1]: second}
	s.found(terms)
	r := s.rules(admit.RoleHost)
	for _, tc := range []struct {
		after time.Time
		want  []time.Time
	}{{now, []time.Time{first, second}}, {first, []time.Time{second}}, {second, nil}} {
		if got := r.Ends(tc.after); !slices.EqualFunc(got, tc.want, time.Time.Equal) {
			t.Errorf("after %v: %v, want %v", tc.after, got, tc.want)
		}
	}
}

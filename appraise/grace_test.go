package appraise_test

import (
	"bytes"
	"crypto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/refval"
)

// graceEnd is when the old version's grace ends in these tests.
var graceEnd = time.Date(2026, 11, 15, 12, 0, 0, 0, time.UTC)

// older is a reference set of one package's version before an update.
func older(t testing.TB, content, path string) *refval.Set {
	t.Helper()
	return offered(t, refval.SelectAll, map[string]keystead.Digest{"coreutils " + path: keystead.Sum([]byte(content))})
}

// at is the input as of a time, with sets that count up to graceEnd.
func at(in appraise.Input, when time.Time, sets ...appraise.Dated) appraise.Input {
	in.Time, in.Ended = when, nil
	in.References, in.CodeSets = slices.Clone(in.References), slices.Clone(in.CodeSets)
	for _, d := range sets {
		d.Until = graceEnd
		in.Add(d, when)
	}
	return in
}

// TestGraceEnds: what only a set vouched for that counted up to a time passes until the
// moment before, and from the time on is refused in words for a person.
func TestGraceEnds(t *testing.T) {
	old := keystead.Sum([]byte("old whoami"))
	ran := func(path string) appraise.Input {
		in := newForger(t).input(t, machine{ima: [][]byte{measured("sha256", old[:], path)}})
		return in
	}
	key, accepted := imaKey(t, "build-farm")
	signed := newForger(t).input(t, machine{ima: [][]byte{entry("ima-sig", append([]byte("sha256:\x00"), old[:]...), []byte("/opt/own\x00"), digsig(t, key, crypto.SHA256, 4, old[:]))}})
	codes, err := refval.NewCodeSet("build-1", []refval.Code{{Digest: old, Path: "/opt/own", Version: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	farm, err := codes.WithTrust(nil, []refval.IMAKey{accepted})
	if err != nil {
		t.Fatal(err)
	}
	farmOnly, err := refval.NewCodeSet("farm", []refval.Code{{Digest: keystead.Sum([]byte("other")), Path: "/opt/other", Version: "1"}}, nil)
	if err == nil {
		farmOnly, err = farmOnly.WithTrust(nil, []refval.IMAKey{accepted})
	}
	if err != nil {
		t.Fatal(err)
	}
	set := older(t, "old whoami", "/usr/bin/whoami")
	until := "which counted until 2026-11-15T12:00:00Z"
	reference := "reference set " + set.Digest().String() + ", " + until
	for what, tc := range map[string]struct {
		in   appraise.Input
		sets []appraise.Dated
		got  string
	}{
		"a package's old version, replaced":     {ran("/usr/bin/whoami"), []appraise.Dated{{References: set}}, old.String() + " of package coreutils 6.12.9-1: " + reference},
		"a package's old version, removed":      {ran("/usr/bin/gone"), []appraise.Dated{{References: set}}, old.String() + " of package coreutils 6.12.9-1: " + reference},
		"an old build":                          {ran("/opt/own"), []appraise.Dated{{CodeSet: codes}}, old.String() + ": code set build-1, " + until},
		"an old build, among other ended sets":  {ran("/opt/own"), []appraise.Dated{{CodeSet: farmOnly}, {References: older(t, "x", "/x")}, {CodeSet: farm}}, old.String() + ": code set build-1, " + until},
		"what a key of an old code set signed":  {signed, []appraise.Dated{{CodeSet: farmOnly}}, old.String() + ": code set farm, " + until},
		"one that two sets named, both of them": {ran("/usr/bin/whoami"), []appraise.Dated{{References: set}, {CodeSet: codes}}, old.String() + " of package coreutils 6.12.9-1: " + reference},
	} {
		for _, before := range []time.Duration{time.Millisecond, time.Hour} {
			demand(t, what+", in its grace", at(tc.in, graceEnd.Add(-before), tc.sets...))
		}
		for _, after := range []time.Duration{0, time.Millisecond, 10000 * time.Hour} {
			in := at(tc.in, graceEnd.Add(after), tc.sets...)
			f := first(demand(t, what, in, keystead.ReasonGraceEnded))
			if f.Got != tc.got || !strings.HasPrefix(f.Where, "/") || !strings.Contains(f.Want, "upgrade and reboot") {
				t.Errorf("%s: %+v, want %s", what, f, tc.got)
			}
			if c := appraise.Appraise(in).Claims().Software; c.Named != 0 || c.Unknown+c.Altered != 1 {
				t.Errorf("%s: claims %+v", what, c)
			}
		}
	}
	// What no set ever named is as unknown as before, and one that still counts suffices.
	in := at(newForger(t).input(t, machine{ima: [][]byte{measured("sha256", bytes.Repeat([]byte{1}, 32), "/tmp/x"), measured("sha512", make([]byte, 64), "/opt/own"), measured("sha1", make([]byte, 20), "/opt/own")}}), graceEnd, appraise.Dated{References: set}, appraise.Dated{CodeSet: farm})
	demand(t, "an unknown file beside ended sets", in, keystead.ReasonFileUnknown, keystead.ReasonFileUnknown, keystead.ReasonDigestWeak)
	in = at(ran("/usr/bin/whoami"), graceEnd, appraise.Dated{References: set})
	in.CodeSets = append(in.CodeSets, codes)
	demand(t, "what another set names that counts", in)
}

// TestGraceOfBoots: a boot that only an ended set accepts.
func TestGraceOfBoots(t *testing.T) {
	in, _ := small(t)
	boots := appraise.Dated{CodeSet: in.CodeSets[len(in.CodeSets)-1]}
	in.CodeSets = nil
	demand(t, "in its grace", at(in, graceEnd.Add(-time.Second), boots))
	for what, sets := range map[string][]appraise.Dated{
		"alone":          {boots},
		"beside another": {{References: older(t, "x", "/x")}, boots},
	} {
		f := first(demand(t, what, at(in, graceEnd, sets...), keystead.ReasonGraceEnded, keystead.ReasonBootUnaccepted))
		if !strings.HasSuffix(f.Got, "; accepted by code set small, which counted until 2026-11-15T12:00:00Z") || !strings.Contains(f.Where, "kernel") {
			t.Errorf("%s: %+v", what, f)
		}
	}
	demand(t, "none accepts it", at(in, graceEnd, appraise.Dated{References: older(t, "x", "/x")}), keystead.ReasonBootUnaccepted, keystead.ReasonBootUnaccepted)

	d := recordedTD(t)
	td := at(d.input(t, firmware(t)), graceEnd, appraise.Dated{CodeSet: d.bootsOf(t, nil)})
	if f := first(demand(t, "a TD's boot", td, keystead.ReasonGraceEnded)); !strings.HasSuffix(f.Got, "; accepted by code set fleet, which counted until 2026-11-15T12:00:00Z") {
		t.Errorf("a TD's boot: %+v", f)
	}
	td = at(d.input(t, d.bootsOf(t, nil)), graceEnd, appraise.Dated{CodeSet: firmware(t)})
	demand(t, "a TD's firmware", td, keystead.ReasonGraceEnded)
}

// TestEndedVendorsOpenNothing: once the code set that named the vendors of a format has
// ended, packages of other vendors do not come to count.
func TestEndedVendorsOpenNothing(t *testing.T) {
	ref := record().set.Ref(0)
	in := newForger(t).input(t, machine{ima: [][]byte{measured("sha256", ref.Digest[:], ref.Source.Path)}})
	third := trusting(t, []refval.Vendor{{Name: "third-party", Format: refval.FormatDeb, Packages: []string{"*"}, Key: theHost(t).stranger}})
	in.Time = graceEnd
	demand(t, "no vendors are named", in)
	demand(t, "another vendor", at(in, graceEnd.Add(-time.Second), appraise.Dated{CodeSet: third}), keystead.ReasonPackageForeign)
	demand(t, "another vendor, whose time is over", at(in, graceEnd, appraise.Dated{CodeSet: third}), keystead.ReasonPackageForeign)
}

// TestGraceOfVendors: packages of a vendor whom only an ended code set accepts.
func TestGraceOfVendors(t *testing.T) {
	acme := refval.Vendor{Name: "acme", Format: refval.FormatDeb, Packages: []string{"*"}, Key: theHost(t).vendor}
	signers, err := acme.Signers()
	if err != nil {
		t.Fatal(err)
	}
	d := keystead.Sum([]byte("tool"))
	b := refval.NewBuilder(refval.SelectAll)
	err = b.Add(refval.Package{Name: "tool", Version: "1", Architecture: "amd64", Strength: refval.StrengthRepositoryRehash},
		[]refval.Repository{{Origin: "acme", Signers: signers[:1]}}, []refval.File{{Path: "/usr/bin/tool", Digest: d}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := b.Set()
	if err != nil {
		t.Fatal(err)
	}
	in := newForger(t).input(t, machine{ima: [][]byte{measured("sha256", d[:], "/usr/bin/tool")}})
	in.References = nil
	parts := in.Bundle.Parts()
	parts.Packages.Data = []byte("Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n")
	in.Bundle = bundle(t, parts)
	vendors, refs := appraise.Dated{CodeSet: trusting(t, []refval.Vendor{acme})}, appraise.Dated{References: set}
	demand(t, "in the grace", at(in, graceEnd.Add(-1), vendors, refs))
	for what, tc := range map[string]struct {
		forGood appraise.Input
		ended   []appraise.Dated
		by      string
	}{
		"the vendor's time is over":        {func() appraise.Input { in := in; in.References = []*refval.Set{set}; return in }(), []appraise.Dated{vendors}, "code set " + vendors.CodeSet.Name()},
		"the vendor's and the set's alike": {in, []appraise.Dated{vendors, refs}, "reference set " + set.Digest().String()},
	} {
		f := first(demand(t, what, at(tc.forGood, graceEnd, tc.ended...), keystead.ReasonGraceEnded))
		if f.Got != d.String()+" of package tool 1: "+tc.by+", which counted until 2026-11-15T12:00:00Z" {
			t.Errorf("%s: %+v", what, f)
		}
	}
	h := theHost(t)
	rpms := h.input(t, h.list, "*", ran("good", "2.0"))
	ended := appraise.Dated{CodeSet: rpms.CodeSets[0], Until: rpms.Time}
	rpms.CodeSets = []*refval.CodeSet{record().codes}
	rpms.Add(ended, rpms.Time)
	demand(t, "packages that prove themselves, of a vendor whose time is over", rpms, keystead.ReasonPackageForeign)
}

// TestGraceEndsForContinuations: a machine that was replayed in the grace can not ride on
// by bringing suffixes; what it has from before is asked for whole, and refused. After
// the end a continuation's verdict is that of the whole again.
func TestGraceEndsForContinuations(t *testing.T) {
	g := grow(t, 30)
	old := keystead.Sum([]byte("old whoami"))
	set := appraise.Dated{References: older(t, "old whoami", "/usr/bin/whoami")}
	rode := *g
	rode.ima = slices.Insert(slices.Clone(g.ima), 3, measured("sha256", old[:], "/usr/bin/whoami"))
	rode.in = at(rode.in, graceEnd.Add(-time.Minute), set)
	s := rode.begin(t, 10)
	s = rode.same(t, rode.parts(t, 12, 1), s) // a continuation in the grace
	base := rode.in
	base.References = base.References[:1]
	for _, after := range []time.Duration{0, time.Second, time.Hour} {
		rode.in = at(base, graceEnd.Add(after), set)
		for _, n := range []int{12, 15} { // with and without new entries
			v, next := appraise.Follow(rode.input(continued(t, rode.parts(t, n, 0), s.Reference()), s))
			if f := v.Findings(); len(f) != 1 || f[0].Reason != keystead.ReasonLogUnknown || v.Established() || next != nil {
				t.Errorf("%v after the end, %d entries: %v, want log-unknown alone; state %v", after, n, f, next)
			}
		}
		demand(t, "the whole", rode.input(bundle(t, rode.parts(t, 15, 0)), nil), keystead.ReasonGraceEnded)
	}
	// A machine that rebooted into the new version goes on, and a state of after the end
	// does not go back before it.
	fresh := *g
	fresh.in = at(g.in, graceEnd, set)
	after := fresh.begin(t, 10)
	after = fresh.same(t, fresh.parts(t, 12, 0), after)
	bad := fresh
	bad.ima = slices.Insert(slices.Clone(g.ima), 13, measured("sha256", old[:], "/usr/bin/whoami"))
	if next := bad.same(t, bad.parts(t, 15, 0), after); next != nil {
		t.Error("a state of evidence that was refused")
	}
	demand(t, "the old version, run after the end", bad.input(continued(t, bad.parts(t, 15, 0), after.Reference()), after), keystead.ReasonGraceEnded)
	fresh.in = at(g.in, graceEnd.Add(-time.Second), set)
	demand(t, "before the end again", fresh.input(continued(t, fresh.parts(t, 14, 0), after.Reference()), after), keystead.ReasonLogUnknown)
	fresh.in = at(g.in, graceEnd)
	demand(t, "terms without the set", fresh.input(continued(t, fresh.parts(t, 14, 0), after.Reference()), after), keystead.ReasonLogUnknown)
}

// TestEndedSetsAreInputs: the verdict names what ended, so that it can be computed again.
func TestEndedSetsAreInputs(t *testing.T) {
	in, _ := small(t)
	set := appraise.Dated{References: older(t, "x", "/x")}
	v := appraise.Appraise(at(in, graceEnd, set))
	want := `"ended":[{"set":"` + set.Digest().String() + `","until":"2026-11-15T12:00:00Z"}]`
	if got := v.Inputs().Ended; len(got) != 1 || got[0].Set != set.Digest() || !got[0].Until.Equal(graceEnd) || !bytes.Contains(v.Bytes(), []byte(want)) || !v.Allowed() {
		t.Errorf("%s\nwant %s", v.Bytes(), want)
	}
	v = appraise.Appraise(at(in, graceEnd.Add(-time.Second), set))
	if bytes.Contains(v.Bytes(), []byte(`"ended"`)) || !slices.Contains(v.Inputs().References, set.Digest()) {
		t.Errorf("in the grace: %s", v.Bytes())
	}
}

package appraise_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// TestZeroVerdictDenies: also the one that can not be minted.
func TestZeroVerdictDenies(t *testing.T) {
	in, _ := onStage(t).input(t, "packaged")
	in.Key.Activated = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) // has no text form
	for what, v := range map[string]appraise.Verdict{"zero": {}, "not minted": appraise.Appraise(in)} {
		text, err := json.Marshal(v)
		if v.Allowed() || v.Established() || v.Assurance() != evidence.AssuranceNone || !errors.Is(v.Err(), keystead.ReasonEvidenceMissing) || string(text) != "null" || err != nil {
			t.Errorf("%s: allowed %t, established %t, error %v, JSON %s", what, v.Allowed(), v.Established(), v.Err(), text)
		}
	}
	read := map[string]appraise.Verdict{} // as in an answer of an API
	good, _ := onStage(t).input(t, "packaged")
	text := []byte(`{"Verdict":` + string(appraise.Appraise(good).Bytes()) + "}")
	if err := json.Unmarshal(text, &read); err == nil && read["Verdict"].Allowed() {
		t.Error("a verdict was minted by reading JSON")
	}
}

// TestNothingIsNeeded: no input makes appraisal fail otherwise than by a finding.
func TestNothingIsNeeded(t *testing.T) {
	demand(t, "nothing at all", appraise.Input{}, keystead.ReasonPolicyUnusable, keystead.ReasonEvidenceMissing)
	in, _ := onStage(t).input(t, "packaged")
	in.References = append(in.References, nil, new(refval.Set))
	in.CodeSets = append(in.CodeSets, nil, new(refval.CodeSet))
	demand(t, "nil and zero sets", in)
	if refs := appraise.Appraise(in).Inputs().References; len(refs) != 2 {
		t.Errorf("want the nil set left out of the inputs, got %v", refs)
	}
	in.References, in.CodeSets = nil, nil
	if v := appraise.Appraise(in); v.Allowed() || v.Claims().Software.Unknown != v.Claims().Software.Entries-1 {
		t.Errorf("no sets: %+v", v.Claims().Software)
	}
	for what, edit := range map[string]func(*evidence.Parts){
		"no TPM":        func(p *evidence.Parts) { p.TPM = nil },
		"an empty TPM":  func(p *evidence.Parts) { p.TPM = new(evidence.TPM) },
		"no signature":  func(p *evidence.Parts) { p.TPM.Signature = nil },
		"no attest":     func(p *evidence.Parts) { p.TPM.Attest = nil },
		"no registers":  func(p *evidence.Parts) { p.TPM.PCRs = nil },
		"empty logs":    func(p *evidence.Parts) { p.EventLog, p.IMALog = []byte{}, []byte{} },
		"an empty list": func(p *evidence.Parts) { p.Packages = new(evidence.PackageList) },
	} {
		if v := appraise.Appraise(onStage(t).edited(t, edit)); v.Allowed() || v.Err() == nil {
			t.Errorf("%s: allowed", what)
		}
	}
}

// TestSameInputSameBytes: run after run, in parallel, from another copy of the
// bundle, with the time in another zone.
func TestSameInputSameBytes(t *testing.T) {
	in, parts := onStage(t).input(t, "unknown")
	in.CodeSets = append(in.CodeSets, bootsWith(t, func(*refval.Boot, *[]refval.Code) {})...)
	want := appraise.Appraise(in)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			again := in
			again.Time = in.Time.In(time.FixedZone("elsewhere", 3600))
			again.Key.Activated = in.Key.Activated.In(time.FixedZone("elsewhere", 3600))
			raw := bytes.Clone(in.Bundle.Bytes())
			for range 8 {
				var err error
				if again.Bundle, err = evidence.Parse(raw); err != nil {
					t.Error(err)
				}
				if got := appraise.Explain(again, func(appraise.File) {}); !bytes.Equal(got.Bytes(), want.Bytes()) || got.Digest() != want.Digest() {
					t.Errorf("want\n%s\ngot\n%s", want.Bytes(), got.Bytes())
				}
			}
		})
	}
	wg.Wait()
	parts.Origin.Note = "another bundle"
	in.Bundle = bundle(t, parts)
	if appraise.Appraise(in).Digest() == want.Digest() {
		t.Error("another bundle has the same verdict")
	}
}

// TestVerdictIsItsOwn: who reads a verdict can not change it.
func TestVerdictIsItsOwn(t *testing.T) {
	in, _ := onStage(t).input(t, "altered")
	v := appraise.Appraise(in)
	v.Findings()[0].Reason = "none"
	if v.Findings()[0].Reason != keystead.ReasonFileAltered {
		t.Error("a finding was changed from outside")
	}
}

// TestStrangersPolicy: what strangers sign is not opened, and without a policy
// nothing is allowed.
func TestStrangersPolicy(t *testing.T) {
	member, stranger := newMember(t, "member"), newMember(t, "stranger")
	text, _ := policy.Shipped("demo")
	for what, open := range map[string]func(signed []byte) error{
		"policy":   func(b []byte) error { _, err := policy.Open(b, appraise.Vocabulary(), member.Public()); return err },
		"code set": func(b []byte) error { _, err := refval.OpenCodeSet(b, member.Public()); return err },
	} {
		body := text
		if what == "code set" {
			body = []byte(record().CodeSet)
		}
		signed := func(m key.Member) []byte {
			b, err := m.Sign(body)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if err := open(signed(member)); err != nil {
			t.Errorf("%s by a member: %v", what, err)
		}
		if err := open(signed(stranger)); !errors.Is(err, keystead.ReasonNoteUnsigned) {
			t.Errorf("%s by a stranger: want note-unsigned, got %v", what, err)
		}
		changed := bytes.Replace(signed(member), []byte("name "), []byte("name x"), 1)
		if err := open(changed); !errors.Is(err, keystead.ReasonNoteUnsigned) {
			t.Errorf("%s changed after signing: want note-unsigned, got %v", what, err)
		}
	}
	in, _ := onStage(t).input(t, "packaged")
	for _, p := range []*policy.Policy{nil, {}} {
		in.Policy = p
		demand(t, "no policy", in, keystead.ReasonPolicyUnusable)
	}
}

func newMember(t *testing.T, name string) key.Member {
	t.Helper()
	m, err := key.NewMember(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestShippedPoliciesDenyTest: a software TPM without Secure Boot passes the demo's
// policy alone, and each of the others says all that is lacking.
func TestShippedPoliciesDenyTest(t *testing.T) {
	in, _ := onStage(t).input(t, "packaged")
	for _, name := range []string{"strict", "measured-boot-only"} {
		in.Policy = shipped(t, name)
		f := first(demand(t, name, in, keystead.ReasonAssuranceLow, keystead.ReasonRuleFailed))
		if !strings.Contains(f.Got, "a hardware TPM") || !strings.HasPrefix(f.Got, "test") {
			t.Errorf("%s: the finding does not say what is lacking: %v", name, f)
		}
	}
	if got := slices.Sorted(slices.Values(policy.ShippedNames())); !slices.Equal(got, []string{"any-host", "demo", "measured-boot-only", "strict"}) { // TestOnePolicy has the first
		t.Errorf("shipped are %v: test each here", got)
	}
	in.Policy = compile(t, named+"\n")
	demand(t, "a level of the policy's own", in)
}

// TestNamedFilesCostNothing: a file that is named is not allocated for.
func TestNamedFilesCostNothing(t *testing.T) {
	list := entries(t, record().Phases[0].IMALog)[1:]
	cost := func(n int) float64 {
		in := newForger(t).input(t, machine{ima: slices.Concat(slices.Repeat([][][]byte{list}, n)...)})
		demand(t, "named files", in)
		return testing.AllocsPerRun(10, func() { appraise.Appraise(in) })
	}
	if once, often := cost(1), cost(50); often > once+10 {
		t.Errorf("%d files take %.0f allocations, 50 times as many take %.0f", len(list), once, often)
	}
}

package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// Admission is what an effective entry says of an admission.
type Admission struct {
	Host    string
	Record  admit.Record
	Verdict []byte // the endorsed verdict's JSON
	Inputs  appraise.Inputs
}

// ReadAdmission reads an effective entry by which a host was admitted. Entries of other
// kinds and types are subject-mismatch. It checks no signature.
func ReadAdmission(entry []byte) (a Admission, err error) {
	kind, _, err := receipt.Split(entry)
	if err != nil {
		return a, err
	}
	no := func(got string) (Admission, error) {
		return Admission{}, deny(keystead.ReasonSubjectMismatch, "entry", "the admission of a host", got)
	}
	if kind != receipt.KindEffective {
		return no("an entry of kind " + kind.String())
	}
	e, err := ledger.ParseEffective(entry)
	if err != nil {
		return a, err
	}
	if e.Verdict.Type != admit.TypeLease {
		return no("an effective " + e.Verdict.Type)
	}
	a.Host = e.Verdict.Subject
	written := map[string][]byte{}
	for _, w := range e.Verdict.Writes {
		written[w.Key] = w.Value
	}
	if a.Record, err = admit.ParseRecord(written[admit.LeaseKey(a.Host)]); err != nil {
		return Admission{}, err
	}
	a.Verdict = written[admit.VerdictKey(a.Host)]
	if got := keystead.Sum(a.Verdict); got != a.Record.Verdict {
		return no("a lease upon verdict " + a.Record.Verdict.String() + " beside verdict " + got.String())
	}
	var named struct {
		Inputs appraise.Inputs `json:"inputs"`
	}
	if err := json.Unmarshal(a.Verdict, &named); err != nil {
		return Admission{}, &keystead.FormatError{Format: "verdict", Field: "inputs", Problem: err.Error()}
	}
	a.Inputs = named.Inputs
	return a, nil
}

// Replayed is what came of a replay that came to the endorsed verdict.
type Replayed struct {
	Proven  receipt.Proven
	Host    string
	Verdict keystead.Digest
	Time    time.Time // of judgement
	Build   string    // that archived the inputs, as the record says
}

// Replay judges an archived admission again and wants the endorsed verdict, byte by
// byte. The receipt is verified by v, from the genesis digest; the question, the
// accepted key and the time are those of the endorsed verdict; the bundle, the terms
// and what they name are held to the digests on the ledger. Build names the build that
// replays. Refusals: those of the receipt; subject-mismatch; archive-altered,
// object-missing; replay-differs, or build-differs if another build archived the inputs.
func Replay(v *receipt.Verifier, f *File, build string) (Replayed, error) {
	p, err := v.Verify(f.Receipt)
	if err != nil {
		return Replayed{}, err
	}
	a, err := ReadAdmission(p.Entry)
	if err != nil {
		return Replayed{}, err
	}
	r, err := ParseRecord(f.Record)
	if err != nil {
		return Replayed{}, err
	}
	bundle, err := a.holds(&r)
	if err != nil {
		return Replayed{}, err
	}
	terms := admit.InForce{Role: a.Record.Role, Digest: a.Record.Terms}
	rules, err := terms.Open(func(d keystead.Digest) ([]byte, error) { return f.object(d), nil })
	if err != nil {
		return Replayed{}, err
	}
	got := a.appraise(bundle, rules, a.Inputs.Time)
	if !bytes.Equal(got.Bytes(), a.Verdict) {
		return Replayed{}, differs(a.Verdict, got.Bytes(), r.Build, build)
	}
	return Replayed{p, a.Host, a.Record.Verdict, a.Inputs.Time, r.Build}, nil
}

// Appraise judges what a host was admitted by under other rules, as of a time of the domain clock for
// what sets count: the record is held to what the ledger names.
func (a *Admission) Appraise(r *Record, rules *admit.Rules, clock time.Time) (appraise.Verdict, error) {
	bundle, err := a.holds(r)
	if err != nil {
		return appraise.Verdict{}, err
	}
	return a.appraise(bundle, rules, clock), nil
}

// appraise asks the question of then, at its time.
func (a *Admission) appraise(bundle evidence.Bundle, rules *admit.Rules, clock time.Time) appraise.Verdict {
	in := rules.Input(clock)
	if !a.Record.Guest.IsZero() {
		in = rules.TEEInput(clock)
	}
	in.Bundle, in.Key, in.Time = bundle, a.Inputs.Key, a.Inputs.Time
	in.Expect = evidence.Binding{Purpose: a.Inputs.Purpose, Nonce: a.Inputs.Nonce, SubjectKey: a.Inputs.SubjectKey}
	return appraise.Appraise(in)
}

// holds holds a record to what the ledger names, and returns its bundle.
func (a *Admission) holds(r *Record) (evidence.Bundle, error) {
	var findings []keystead.Finding
	find := func(what string, want, got any) {
		if want != got {
			findings = append(findings, keystead.Finding{Reason: keystead.ReasonArchiveAltered, Where: "archived record: " + what, Want: fmt.Sprintf("%v, as on the ledger", want), Got: fmt.Sprint(got)})
		}
	}
	find("host", a.Host, r.Host)
	find("verdict", a.Record.Verdict, r.Verdict)
	find("terms", a.Record.Terms, r.Terms)
	find("time", a.Record.Issued, r.Time)
	find("bundle", a.Inputs.Bundle, keystead.Sum(r.Bundle))
	if findings != nil {
		return evidence.Bundle{}, keystead.Deny(findings...)
	}
	return evidence.Parse(r.Bundle)
}

// maxDiffering bounds how many members a refusal names.
const maxDiffering = 8

func differs(endorsed, got []byte, archived, now string) error {
	members := Differences(endorsed, got)
	if more := len(members) - maxDiffering; more > 0 {
		members = append(members[:maxDiffering], fmt.Sprintf("and %d more", more))
	}
	f := keystead.Finding{Reason: keystead.ReasonReplayDiffers, Where: "verdict", Want: keystead.Sum(endorsed).String(),
		Got: fmt.Sprintf("%v; these differ: %q", keystead.Sum(got), members)}
	if archived != now {
		f.Reason, f.Where = keystead.ReasonBuildDiffers, "verdict by "+now
		f.Want += " by " + archived
	}
	return keystead.Deny(f)
}

// Differences returns the members in which two verdicts differ, as paths, ascending.
func Differences(x, y []byte) (out []string) {
	var a, b any
	if json.Unmarshal(x, &a) != nil || json.Unmarshal(y, &b) != nil {
		return []string{"text"}
	}
	walk(a, b, "", &out)
	if out == nil { // the same members, written otherwise
		out = []string{"text"}
	}
	slices.Sort(out)
	return out
}

func walk(a, b any, path string, out *[]string) {
	x, isX := a.(map[string]any)
	y, isY := b.(map[string]any)
	if !isX || !isY {
		if !reflect.DeepEqual(a, b) {
			*out = append(*out, path)
		}
		return
	}
	all := maps.Clone(x)
	maps.Copy(all, y)
	for name := range all {
		inside := name
		if path != "" {
			inside = path + "." + name
		}
		walk(x[name], y[name], inside, out)
	}
}

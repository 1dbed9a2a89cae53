package appraise_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/refval"
)

// grown is a machine whose log grows: a quote of each length that is asked for.
type grown struct {
	forger
	machine
	in appraise.Input
}

func grow(t testing.TB, n int) *grown {
	t.Helper()
	in, _ := small(t)
	g := &grown{forger: newForger(t), in: in}
	g.eventLog = in.Bundle.Parts().EventLog
	g.in.Policy = compile(t, "keystead-policy/1\nname named\nminimum-assurance test\nsoftware every-entry\nboot accepted\nrules none\n")
	var status []byte
	for i := range min(n, record().set.Len()) {
		ref := record().set.Ref(i)
		g.ima = append(g.ima, measured("sha256", ref.Digest[:], ref.Source.Path))
		stanza := "Package: " + ref.Source.Package + "\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n"
		if !bytes.Contains(status, []byte(stanza)) {
			status = append(status, stanza...)
		}
	}
	parts := in.Bundle.Parts()
	parts.Packages = &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: status}
	g.in.Bundle = bundle(t, parts)
	return g
}

// parts are evidence of the first n entries; more follow in the log, unquoted.
func (g *grown) parts(t testing.TB, n, more int) evidence.Parts {
	t.Helper()
	quoted := machine{eventLog: g.eventLog, ima: g.ima[:n]}
	imaLog, registers := quoted.registers(t)
	p := g.in.Bundle.Parts()
	p.TPM, p.EventLog = g.quote(t, question.QualifyingData(), registers), g.eventLog
	p.IMALog = append(imaLog, bytes.Join(g.ima[n:n+more], nil)...)
	return p
}

func (g *grown) input(b evidence.Bundle, prior *appraise.State) appraise.Input {
	in := g.in
	in.Bundle, in.Prior = b, prior
	return in
}

// begin has the first n entries appraised.
func (g *grown) begin(t testing.TB, n int) *appraise.State {
	t.Helper()
	v, s := appraise.Follow(g.input(bundle(t, g.parts(t, n, 0)), nil))
	if !v.Allowed() || s == nil {
		t.Fatalf("the whole: %v, state %v", v.Err(), s)
	}
	return s
}

func continued(t testing.TB, p evidence.Parts, from evidence.Reference) evidence.Bundle {
	t.Helper()
	b, err := evidence.Continue(p, from)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// same judges a continuation, and the whole logs under its name, and wants one verdict.
func (g *grown) same(t testing.TB, p evidence.Parts, s *appraise.State) *appraise.State {
	t.Helper()
	b := continued(t, p, s.Reference())
	v, next := appraise.Follow(g.input(b, s))
	whole, err := b.Complete(p)
	if err != nil {
		t.Fatal(err)
	}
	want, fresh := appraise.Follow(g.input(whole, nil))
	if !bytes.Equal(v.Bytes(), want.Bytes()) {
		t.Fatalf("the continuation's verdict\n%s\nis not that of the whole\n%s", v.Bytes(), want.Bytes())
	}
	if next.Reference() != fresh.Reference() {
		t.Fatalf("the next reference is %+v, of the whole %+v", next.Reference(), fresh.Reference())
	}
	return next
}

// TestContinuation cuts a growing log at random places: each verdict is that of the
// whole log, byte for byte, and so is what the next one goes on from.
func TestContinuation(t *testing.T) {
	g := grow(t, 60)
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		n := random.IntN(20)
		s := g.begin(t, n)
		for range 8 {
			n += random.IntN(min(10, len(g.ima)-n) + 1)
			s = g.same(t, g.parts(t, n, random.IntN(len(g.ima)-n+1)), s)
		}
	}
}

// TestContinuationGoesBad: what a machine ran since is judged as in the whole log:
// file, words and number. Nothing is kept of it.
func TestContinuationGoesBad(t *testing.T) {
	g := grow(t, 12)
	s := g.begin(t, 5)
	ref := record().set.Ref(100)
	bad := map[keystead.Reason][]byte{
		keystead.ReasonFileUnknown: measured("sha256", bytes.Repeat([]byte{1}, 32), "/tmp/x"),
		keystead.ReasonFileAltered: measured("sha256", bytes.Repeat([]byte{2}, 32), ref.Source.Path),
		keystead.ReasonDigestWeak:  measured("sha1", bytes.Repeat([]byte{3}, 20), "/usr/bin/x"),
		keystead.ReasonViolation:   violated(measured("sha256", ref.Digest[:], ref.Source.Path)),
	}
	for reason, entry := range bad {
		h := *g
		h.ima = slices.Insert(slices.Clone(g.ima), 7, entry)
		p := h.parts(t, 9, 2)
		if next := h.same(t, p, s); next != nil {
			t.Errorf("%s: a state of evidence that was refused", reason)
		}
		demand(t, string(reason), h.input(continued(t, p, s.Reference()), s), reason)
	}
}

// TestContinuationOfAnother: whatever a state does not lead to is not judged by it; the
// whole logs are asked for, and nothing else is said.
func TestContinuationOfAnother(t *testing.T) {
	g := grow(t, 30)
	s := g.begin(t, 10)
	good := g.parts(t, 12, 0)
	if v := appraise.Appraise(g.input(continued(t, good, s.Reference()), s)); !v.Allowed() {
		t.Fatal(v.Err())
	}
	other := grow(t, 30)
	other.ima[3], other.ima[4] = other.ima[4], other.ima[3]
	stranger := other.begin(t, 10)
	edited := func(edit func(*appraise.Input)) appraise.Input {
		in := g.input(continued(t, good, s.Reference()), s)
		edit(&in)
		return in
	}
	parts := func(edit func(*evidence.Parts)) appraise.Input {
		p := good
		edit(&p)
		return g.input(continued(t, p, s.Reference()), s)
	}
	reference := func(edit func(*evidence.Reference)) appraise.Input {
		from := s.Reference()
		edit(&from)
		return g.input(continued(t, good, from), s)
	}
	rebooted := *g
	rebooted.eventLog = slices.Concat(g.eventLog, event(7, 6, []byte("another boot"), nil))
	begin := int(s.Reference().Bytes)
	for name, in := range map[string]appraise.Input{
		"no state":                edited(func(in *appraise.Input) { in.Prior = nil }),
		"a state of another host": edited(func(in *appraise.Input) { in.Prior = stranger }),
		"a zero state":            edited(func(in *appraise.Input) { in.Prior = new(appraise.State) }),
		"another host's logs":     other.input(continued(t, other.parts(t, 12, 0), stranger.Reference()), s),
		"earlier than before":     edited(func(in *appraise.Input) { in.Time = in.Time.Add(-time.Hour) }),
		"another policy":          edited(func(in *appraise.Input) { in.Policy = compile(t, named+"\n") }),
		"no references":           edited(func(in *appraise.Input) { in.References = nil }),
		"other code sets":         edited(func(in *appraise.Input) { in.CodeSets = append([]*refval.CodeSet{record().codes}, in.CodeSets...) }),
		"an entry is missing":     parts(func(p *evidence.Parts) { p.IMALog = p.IMALog[:begin+len(g.ima[10])] }),
		"an entry is cut":         parts(func(p *evidence.Parts) { p.IMALog = p.IMALog[:len(p.IMALog)-1] }),
		"entries are swapped": parts(func(p *evidence.Parts) {
			p.IMALog = slices.Concat(p.IMALog[:begin], g.ima[11], g.ima[10])
		}),
		"no entry":            parts(func(p *evidence.Parts) { p.IMALog = p.IMALog[:begin] }),
		"bytes that no parse": parts(func(p *evidence.Parts) { p.IMALog = append(slices.Clone(p.IMALog), 0xff, 0xff, 0xff, 0xff) }),
		"more entries named":  reference(func(r *evidence.Reference) { r.Entries++ }),
		"fewer bytes named":   reference(func(r *evidence.Reference) { r.Bytes-- }),
		"another prefix":      reference(func(r *evidence.Reference) { r.IMALog[0]++ }),
		"another event log":   reference(func(r *evidence.Reference) { r.EventLog[0]++ }),
		"another boot":        rebooted.input(continued(t, rebooted.parts(t, 12, 0), s.Reference()), s),
		"the quote of before": g.input(continued(t, func() evidence.Parts { p := g.parts(t, 8, 4); return p }(), s.Reference()), s),
	} {
		v, next := appraise.Follow(in)
		if f := v.Findings(); len(f) != 1 || f[0].Reason != keystead.ReasonLogUnknown || v.Established() || next != nil {
			t.Errorf("%s: %v, want log-unknown alone; state %v", name, f, next)
		}
	}
	// The root of trust comes first: a state opens nothing for whoever has not the key.
	in := g.input(continued(t, good, s.Reference()), s)
	in.Expect.Nonce = []byte("another question")
	demand(t, "another question", in, keystead.ReasonBundleReplayed)
	// A whole bundle is judged whole, whatever state there is.
	want, got := appraise.Appraise(g.input(bundle(t, good), nil)), appraise.Appraise(g.input(bundle(t, good), stranger))
	if !bytes.Equal(want.Bytes(), got.Bytes()) {
		t.Error("a whole bundle's verdict depends on a state")
	}
}

// TestContinuationForms: a continuation brings no more than it says.
func TestContinuationForms(t *testing.T) {
	g := grow(t, 12)
	s := g.begin(t, 5)
	p := g.parts(t, 6, 0)
	p.Packages = &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: []byte("Package: new\n")}
	if _, err := evidence.Continue(p, s.Reference()); err == nil {
		t.Error("a package list that changed is left out")
	}
	p = g.parts(t, 6, 0)
	p.IMALog = p.IMALog[:10]
	if _, err := evidence.Continue(p, s.Reference()); err == nil {
		t.Error("a log that is shorter than what it goes on from")
	}
	b := continued(t, g.parts(t, 6, 0), s.Reference())
	if _, err := b.Complete(grow(t, 3).parts(t, 3, 0)); err == nil {
		t.Error("completed by other logs")
	}
	var format *keystead.FormatError
	for cut := range b.Bytes() {
		if _, err := evidence.Parse(b.Bytes()[:cut]); err != nil && !errors.As(err, &format) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

// FuzzContinuation: whatever bytes go on from a state, the verdict is that of the whole
// logs under the same name, or asks for them.
func FuzzContinuation(f *testing.F) {
	g := grow(f, 12)
	s := g.begin(f, 5)
	before := g.parts(f, 5, 0)
	for n := 5; n < 8; n++ {
		p := g.parts(f, n, 1)
		f.Add(continued(f, p, s.Reference()).Bytes())
		p.IMALog = p.IMALog[:len(p.IMALog)-3]
		f.Add(continued(f, p, s.Reference()).Bytes())
	}
	bad := *g
	bad.ima = slices.Insert(slices.Clone(g.ima), 6, measured("sha256", bytes.Repeat([]byte{1}, 32), "/tmp/x"))
	f.Add(continued(f, bad.parts(f, 8, 0), s.Reference()).Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := evidence.Parse(raw)
		if err != nil {
			return
		}
		if _, ok := b.Continues(); !ok {
			return
		}
		v, next := appraise.Follow(g.input(b, s))
		if errors.Is(v.Err(), keystead.ReasonLogUnknown) {
			if next != nil || v.Allowed() {
				t.Fatal("asks for the whole and goes on")
			}
			return
		}
		whole, err := b.Complete(before)
		if err != nil {
			if v.Established() {
				t.Fatalf("established on other logs: %v", err)
			}
			return
		}
		if want := appraise.Appraise(g.input(whole, nil)); !bytes.Equal(v.Bytes(), want.Bytes()) {
			t.Fatalf("%s\nof the whole\n%s", v.Bytes(), want.Bytes())
		}
	})
}

package appraise_test

import (
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// aggregate is the entry of a kernel that starts: the first of the machine's log.
func (m machine) aggregate(t testing.TB) []byte {
	t.Helper()
	log, _ := m.registers(t)
	return entries(t, log)[0]
}

// kexec is a machine on which kexec started another kernel after n entries of its log:
// the register goes on, and the log is the new kernel's alone.
func (g *grown) kexec(t testing.TB, n int) evidence.Parts {
	t.Helper()
	all := slices.Concat(g.ima[:n], [][]byte{g.aggregate(t)}, g.ima[n:n+3])
	log, registers := machine{eventLog: g.eventLog, ima: all}.registers(t)
	p := g.in.Bundle.Parts()
	p.TPM, p.EventLog = g.quote(t, question.QualifyingData(), registers), g.eventLog
	p.IMALog = slices.Concat(entries(t, log)[n+1:]...)
	return p
}

// TestLogLost: a log that is lost over kexec leads nowhere. That it is kexec, or a log that
// was rewritten, and not one that was cut, follows from what the same boot showed before.
func TestLogLost(t *testing.T) {
	g := grow(t, 20)
	s := g.begin(t, 8)
	seen := appraise.BootOf(evidence.QuoteClaims{}, s)
	in := g.input(bundle(t, g.kexec(t, 10)), nil)
	demand(t, "nothing is known of the boot", in, keystead.ReasonLogTruncated)
	in.Seen = &seen
	if f := first(demand(t, "kexec", in, keystead.ReasonLogLost)); f.Where != "ima-log" {
		t.Errorf("kexec: %v", f)
	}
	rewritten := g.parts(t, 12, 0)
	list := entries(t, rewritten.IMALog)
	rewritten.IMALog = slices.Concat(slices.Delete(slices.Clone(list), 3, 5)...)
	in.Bundle = bundle(t, rewritten)
	demand(t, "a log that was rewritten before its seen end", in, keystead.ReasonLogLost)

	cut := g.parts(t, 12, 0)
	cut.IMALog = slices.Concat(list[:10]...)
	in.Bundle = bundle(t, cut)
	demand(t, "a log that begins as it did and is cut", in, keystead.ReasonLogTruncated)
	for what, other := range map[string]appraise.Boot{
		"another boot":        {Resets: 1, LogBytes: seen.LogBytes, Log: seen.Log},
		"a later clock":       {Clock: 1, LogBytes: seen.LogBytes, Log: seen.Log},
		"a boot without logs": {},
	} {
		in.Bundle, in.Seen = bundle(t, g.kexec(t, 10)), &other
		demand(t, what, in, keystead.ReasonLogTruncated)
	}
	in.Seen = &seen
	in.Bundle = bundle(t, g.parts(t, 12, 0))
	demand(t, "what was seen, and more", in)
	in.Seen = &appraise.Boot{LogBytes: 7, Log: keystead.Sum([]byte("another"))}
	v := appraise.Appraise(in)
	in.Seen = nil
	if want := appraise.Appraise(in); !v.Allowed() || v.Digest() != want.Digest() {
		t.Errorf("what was seen changes a verdict that allows: %v", v.Err())
	}
}

// TestKexecCarriesTheLog: a kernel that goes on with the log of the one before leads to
// the register. What is known of the kernel that the firmware started is not known of it.
func TestKexecCarriesTheLog(t *testing.T) {
	g := grow(t, 12)
	s := g.begin(t, 5)
	carried := *g
	carried.ima = slices.Concat(g.ima[:7], [][]byte{g.aggregate(t)}, g.ima[7:])
	for what, text := range map[string]string{
		"every entry":     "keystead-policy/1\nname n\nminimum-assurance test\nsoftware every-entry\nboot report\nrules none\n",
		"accepted boot":   "keystead-policy/1\nname n\nminimum-assurance test\nsoftware report\nboot accepted\nrules none\n",
		"both, as before": named,
	} {
		in := carried.input(bundle(t, carried.parts(t, 10, 0)), nil)
		in.Policy = compile(t, text)
		if f := first(demand(t, what, in, keystead.ReasonKernelReplaced)); f.Where != "measurement list, entry 9" {
			t.Errorf("%s: %v", what, f)
		}
	}
	if carried.same(t, carried.parts(t, 10, 0), s) != nil {
		t.Error("a state of evidence that was refused")
	}
	report := *g
	report.in.Policy = compile(t, "keystead-policy/1\nname n\nminimum-assurance test\nsoftware report\nboot report\nrules none\n")
	s = report.begin(t, 5)
	report.ima = carried.ima
	if report.same(t, report.parts(t, 10, 0), s) != nil {
		t.Error("a state of a machine whose kernel is not known")
	}
	v, next := appraise.Follow(report.input(bundle(t, report.parts(t, 10, 0)), nil))
	if c := v.Claims(); !v.Allowed() || c.Kernel.Accepted || c.Kernel.Lockdown != "" || c.Software.Unknown != 1 || next != nil {
		t.Errorf("%v: %+v, %+v", v.Err(), c.Kernel, c.Software)
	}
	lockdown := report
	lockdown.in.Policy = compile(t, "keystead-policy/1\nname n\nminimum-assurance test\nsoftware report\nboot report\nrule accepted\n  require kernel.accepted\n  otherwise boot an accepted kernel\n")
	demand(t, "a rule about the kernel", lockdown.input(bundle(t, lockdown.parts(t, 10, 0)), nil), keystead.ReasonRuleFailed)
}

// TestBoots: which boots follow each other, and what became of the machine in between.
func TestBoots(t *testing.T) {
	log := []byte("a log")
	was := appraise.Boot{Resets: 5, Restarts: 2, Clock: 1000, Firmware: 7, LogBytes: uint64(len(log)), Log: keystead.Sum(log)}
	with := func(edit func(*appraise.Boot)) appraise.Boot { b := was; edit(&b); return b }
	for what, tc := range map[string]struct {
		now     appraise.Boot
		follows bool
		since   []string
	}{
		"the same":                       {was, true, nil},
		"later":                          {with(func(b *appraise.Boot) { b.Clock++ }), true, nil},
		"resumed":                        {with(func(b *appraise.Boot) { b.Restarts++ }), true, []string{"resumed"}},
		"rebooted":                       {with(func(b *appraise.Boot) { b.Resets, b.Restarts = 6, 0 }), false, []string{"rebooted"}},
		"lost power":                     {with(func(b *appraise.Boot) { b.Resets, b.Unsafe, b.Clock = 6, true, 900 }), false, []string{"rebooted", "clock-unsafe"}},
		"cleared":                        {with(func(b *appraise.Boot) { b.Resets, b.Restarts, b.Clock = 0, 0, 3 }), false, []string{"tpm-cleared"}},
		"cleared, and booted often":      {with(func(b *appraise.Boot) { b.Resets, b.Restarts, b.Clock = 9, 0, 3 }), false, []string{"tpm-cleared"}},
		"a clock that was set back":      {with(func(b *appraise.Boot) { b.Clock-- }), false, nil},
		"fewer restarts":                 {with(func(b *appraise.Boot) { b.Restarts-- }), false, nil},
		"other firmware":                 {with(func(b *appraise.Boot) { b.Firmware++ }), true, []string{"firmware-changed"}},
		"other firmware, and a new boot": {with(func(b *appraise.Boot) { b.Resets, b.Firmware = 6, 8 }), false, []string{"rebooted", "firmware-changed"}},
	} {
		if got := was.Follows(tc.now); got != tc.follows {
			t.Errorf("%s: follows %t", what, got)
		}
		if got := tc.now.Since(was); !slices.Equal(got, tc.since) {
			t.Errorf("%s: %q", what, got)
		}
	}
	for what, tc := range map[string]struct {
		log  string
		want bool
	}{"itself": {"a log", true}, "more": {"a log, and more", true}, "less": {"a lo", false}, "another": {"b log", false}, "none": {"", false}} {
		if got := was.Began([]byte(tc.log)); got != tc.want {
			t.Errorf("%s: began %t", what, got)
		}
	}
	if !(appraise.Boot{}).Began(nil) {
		t.Error("a boot of which no log is known began with another")
	}
}

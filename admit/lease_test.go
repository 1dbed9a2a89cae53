package admit_test

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence"
)

// TestZeroLeaseDenies: what nobody minted opens nothing.
func TestZeroLeaseDenies(t *testing.T) {
	var l admit.Lease
	demand(t, "the zero lease", l.Err(), keystead.ReasonLeaseUnknown)
	demand(t, "the zero lease at a time", l.At(0), keystead.ReasonLeaseUnknown)
	if l.Until() != 0 || l.Assurance() != evidence.AssuranceNone || l.Host() != "" || len(l.SubjectKey()) != 0 {
		t.Errorf("the zero lease has %+v", l)
	}
	var d admit.Decision
	if _, ok := d.Record(); ok || d.Against() || len(d.Ruling().Writes) != 0 || d.Verdict().Allowed() {
		t.Error("the zero decision admits")
	}
	if _, ok := d.Renewal(); ok {
		t.Error("the zero decision renews")
	}
}

// lease puts a record on the ledger as if a majority had endorsed it.
func (s *state) lease(host string, edit func(*admit.Record)) {
	s.t.Helper()
	e, version, err := admit.Enrolled(s, host)
	must(s.t, err)
	r := admit.Record{Until: s.clock + 60_000, Issued: s.clock, Role: admit.RoleHost, EK: e.EK, SubjectKey: []byte("key"), Assurance: evidence.AssuranceTest,
		Enrolment: version, Denials: []string{admit.DenyEK(e.EK)}}
	edit(&r)
	s.take(admit.TypeLease, host, admit.Ruling{Writes: []admit.Write{{Key: admit.LeaseKey(host), Value: r.Bytes()}}})
}

// TestLeaseEnds: everything that ends a lease, and what does not.
func TestLeaseEnds(t *testing.T) {
	s := newState(t)
	ek := digestOf("ek")
	current := func(what string, want ...keystead.Reason) {
		t.Helper()
		l, err := admit.Current(s, "web-1")
		demand(t, what, err, want...)
		if (l.Err() == nil) != (len(want) == 0) {
			t.Errorf("%s: the lease says %v", what, l.Err())
		}
		st, err := admit.Look(s, "web-1")
		must(t, err)
		demand(t, what+", looked at", st.Err, want...)
	}
	current("nobody", keystead.ReasonHostUnenrolled)
	must(t, s.enrol("web-1", ek, false))
	current("not admitted", keystead.ReasonLeaseUnknown)
	s.lease("web-1", func(*admit.Record) {})
	first := s.version
	current("admitted")

	s.suspensions["web-1"] = admit.Suspension{Lease: first - 1, Node: "node-1", Reason: "old"}
	s.renewals["web-1"] = admit.Renewal{Lease: first - 1, Until: s.clock + 1_000_000}
	current("beside a suspension and a renewal of the lease before")
	s.clock += 60_000
	current("at its end", keystead.ReasonLeaseExpired)
	s.renewals["web-1"] = admit.Renewal{Lease: first, Issued: s.clock - 1, Until: s.clock + 10}
	current("renewed")
	l, err := admit.Current(s, "web-1")
	must(t, err)
	must(t, l.At(s.clock+9))
	demand(t, "the lease later on", l.At(s.clock+10), keystead.ReasonLeaseExpired)
	s.suspensions["web-1"] = admit.Suspension{Lease: first, Node: "node-1", Reason: "file-unknown: /run/x"}
	current("suspended", keystead.ReasonLeaseSuspended)
	s.clock += 10
	current("suspended, and over", keystead.ReasonLeaseSuspended, keystead.ReasonLeaseExpired)

	s.lease("web-1", func(*admit.Record) {})
	current("admitted anew")
	must(t, s.deny(admit.DenyEK(ek), false))
	current("denied", keystead.ReasonHardwareDenied)
	must(t, s.deny(admit.DenyEK(ek), true))
	must(t, s.enrol("web-1", ek, false))
	current("under an enrolment before the last one", keystead.ReasonLeaseUnknown)
	s.lease("web-1", func(*admit.Record) {})
	must(t, s.enrol("web-1", ek, true))
	current("revoked", keystead.ReasonHostRevoked)
	must(t, s.enrol("web-1", ek, false))
	current("enrolled again, and not admitted since", keystead.ReasonLeaseUnknown)
}

// TestCorruptRecords: a record that does not parse is an error and no lease.
func TestCorruptRecords(t *testing.T) {
	s := newState(t)
	must(t, s.enrol("web-1", digestOf("ek"), false))
	for what, edit := range map[string]func(*admit.Record){
		"role":      func(r *admit.Record) { r.Role = "king" },
		"denial":    func(r *admit.Record) { r.Denials = []string{"x"} },
		"assurance": func(r *admit.Record) { r.Assurance = 99 },
	} {
		s.lease("web-1", edit)
		_, err := admit.Current(s, "web-1")
		malformed(t, what, err)
	}
	s.lease("web-1", func(*admit.Record) {})
	good := s.judged["lease/host/web-1"]
	for n := range good.Data {
		s.judged["lease/host/web-1"] = admit.Value{Version: good.Version, Data: good.Data[:n]}
		l, err := admit.Current(s, "web-1")
		var f *keystead.FormatError
		if !errors.As(err, &f) || l.Err() == nil {
			t.Fatalf("%d bytes of a record: %v", n, err)
		}
	}
	s.judged["enrolment/host/web-1"] = admit.Value{Version: 1, Data: []byte("x")}
	_, err := admit.Current(s, "web-1")
	malformed(t, "an enrolment that is none", err)
}

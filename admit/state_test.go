package admit_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// state is what the ledger would hold: rulings are taken as if a majority had
// endorsed them.
type state struct {
	t           testing.TB
	domain      keystead.Digest
	members     map[string]key.Member
	roster      receipt.Roster
	judged      map[string]admit.Value
	subjects    map[string]uint64
	founding    map[string]string
	objects     map[keystead.Digest][]byte
	renewals    map[string]admit.Renewal
	suspensions map[string]admit.Suspension
	clock       uint64
	version     uint64
}

const epoch = 1_790_000_000_000 // Unix milliseconds

func newState(t testing.TB) *state {
	s := &state{t: t, domain: keystead.Sum([]byte("a genesis entry")), members: map[string]key.Member{}, judged: map[string]admit.Value{}, subjects: map[string]uint64{},
		founding: map[string]string{}, objects: map[keystead.Digest][]byte{}, renewals: map[string]admit.Renewal{}, suspensions: map[string]admit.Suspension{}, clock: epoch, version: 10}
	for _, name := range []string{"ada", "ben", "cleo", "mallory"} {
		m, err := key.NewMember(fixed(name), name)
		must(t, err)
		s.members[name] = m
		if name != "mallory" {
			s.roster.Members = append(s.roster.Members, m.Public())
		}
	}
	s.roster.Threshold = 2
	return s
}

func (s *state) Judged(key string) (admit.Value, error)           { return s.judged[key], nil }
func (s *state) Founding(setting string) (string, error)          { return s.founding[setting], nil }
func (s *state) Clock() (uint64, error)                           { return s.clock, nil }
func (s *state) Renewal(host string) (admit.Renewal, error)       { return s.renewals[host], nil }
func (s *state) Suspension(host string) (admit.Suspension, error) { return s.suspensions[host], nil }
func (s *state) object(d keystead.Digest) ([]byte, error)         { return s.objects[d], nil }
func (s *state) put(b []byte) keystead.Digest                     { d := keystead.Sum(b); s.objects[d] = b; return d }
func fixed(seed string) io.Reader                                 { return rand.NewChaCha8(sha256.Sum256([]byte(seed))) }

// take makes a ruling effective.
func (s *state) take(kind, subject string, r admit.Ruling) {
	s.t.Helper()
	if len(r.Writes) == 0 {
		s.t.Fatal("a ruling that writes nothing")
	}
	s.version++
	s.subjects[kind+"/"+subject] = s.version
	for _, w := range r.Writes {
		if len(w.Key) <= len(kind) || w.Key[:len(kind)+1] != kind+"/" {
			s.t.Errorf("%s writes %q, outside of its prefix", kind, w.Key)
		}
		if w.Delete {
			delete(s.judged, w.Key)
		} else {
			s.judged[w.Key] = admit.Value{Version: s.version, Data: w.Value}
		}
	}
}

// sign returns a note of the text.
func (s *state) sign(text []byte, members ...string) []byte {
	s.t.Helper()
	out, err := s.members[members[0]].Sign(text)
	for _, m := range members[1:] {
		must(s.t, err)
		out, err = s.members[m].Cosign(out)
	}
	must(s.t, err)
	return out
}

// signed returns a statement that ada and ben signed.
func (s *state) signed(x interface{ Text() ([]byte, error) }) []byte {
	s.t.Helper()
	text, err := x.Text()
	must(s.t, err)
	return s.sign(text, "ada", "ben")
}

func (s *state) on(kind, subject string) admit.Case {
	return admit.Case{Domain: s.domain, Subject: subject, Base: s.subjects[kind+"/"+subject], Roster: &s.roster}
}

// enrol has members enrol a host, or revoke it.
func (s *state) enrol(host string, ek keystead.Digest, revoked bool) error {
	s.t.Helper()
	c := s.on(admit.TypeEnrolment, host)
	r, err := admit.JudgeEnrolment(s, c, s.signed(&admit.Enrolment{Domain: s.domain, Host: host, Base: c.Base, Role: admit.RoleHost, EK: ek, Revoked: revoked}))
	if err == nil {
		s.take(admit.TypeEnrolment, host, r)
	}
	return err
}

// deny has members deny a subject, or lift that.
func (s *state) deny(subject string, lifted bool) error {
	s.t.Helper()
	c := s.on(admit.TypeDenial, subject)
	r, err := admit.JudgeDenial(s, c, s.signed(&admit.Denial{Domain: s.domain, Subject: subject, Base: c.Base, Lifted: lifted, Because: "advisory 2026-1"}))
	if err == nil {
		s.take(admit.TypeDenial, subject, r)
	}
	return err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// demand wants a refusal with exactly these reasons, in order, each with what was wanted,
// found and where.
func demand(t testing.TB, what string, err error, want ...keystead.Reason) {
	t.Helper()
	var d *keystead.DenyError
	var got []keystead.Reason
	if errors.As(err, &d) {
		for _, f := range d.Findings {
			got = append(got, f.Reason)
			if f.Want == "" || f.Got == "" || f.Where == "" {
				t.Errorf("%s: %+v does not say what was wanted, found and where", what, f)
			}
		}
	}
	if !slices.Equal(got, want) || (err == nil) != (len(want) == 0) {
		t.Errorf("%s: want %v, got %v: %v", what, want, got, err)
	}
}

// malformed wants a FormatError.
func malformed(t testing.TB, what string, err error) {
	t.Helper()
	var f *keystead.FormatError
	if !errors.As(err, &f) {
		t.Errorf("%s: want a FormatError, got %v", what, err)
	}
}

func digestOf(what ...any) keystead.Digest { return keystead.Sum(fmt.Append(nil, what...)) }

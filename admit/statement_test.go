package admit_test

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// TestStatementsOfTooFew: the threshold of the roster's members signs, each once.
func TestStatementsOfTooFew(t *testing.T) {
	s := newState(t)
	e := admit.Enrolment{Domain: s.domain, Host: "web-1", Role: admit.RoleHost, EK: digestOf("ek")}
	text, err := e.Text()
	must(t, err)
	twice := func(note []byte) []byte {
		lines := strings.SplitAfter(strings.TrimSuffix(string(note), "\n"), "\n")
		return append(bytes.Clone(note), lines[len(lines)-1]+"\n"...)
	}
	forged := bytes.Replace(s.sign(text, "ada", "ben"), []byte("host web"), []byte("host web"), 1)
	forged = bytes.Replace(forged, []byte("subject web-1"), []byte("subject web-2"), 1)
	for _, tc := range []struct {
		what string
		note []byte
		want keystead.Reason
	}{
		{"one member", s.sign(text, "ada"), keystead.ReasonThresholdMissing},
		{"one member twice", twice(s.sign(text, "ada")), keystead.ReasonThresholdMissing},
		{"one member and a stranger", s.sign(text, "ada", "mallory"), keystead.ReasonThresholdMissing},
		{"a stranger", s.sign(text, "mallory"), keystead.ReasonNoteUnsigned},
		{"nobody", text, keystead.ReasonNoteUnsigned},
		{"members, of another text", forged, keystead.ReasonNoteUnsigned},
		{"members, as a setting", s.sign((&admit.Statement{Kind: key.KindSetting, Domain: s.domain, Subject: "web-1"}).Text(), "ada", "ben"), keystead.ReasonNoteUnsigned},
	} {
		_, err := admit.JudgeEnrolment(s, s.on(admit.TypeEnrolment, "web-1"), tc.note)
		demand(t, tc.what, err, tc.want)
	}
	_, err = admit.JudgeEnrolment(s, s.on(admit.TypeEnrolment, "web-1"), s.sign(text, "ben", "cleo"))
	must(t, err)
	c := s.on(admit.TypeEnrolment, "web-1")
	c.Roster = nil
	_, err = admit.JudgeEnrolment(s, c, s.sign(text, "ada", "ben"))
	demand(t, "no roster", err, keystead.ReasonThresholdMissing)
}

// TestStatementsElsewhere: for another domain, on another subject, upon another version.
func TestStatementsElsewhere(t *testing.T) {
	s := newState(t)
	good := admit.Enrolment{Domain: s.domain, Host: "web-1", Role: admit.RoleHost, EK: digestOf("ek")}
	for _, tc := range []struct {
		what string
		edit func(*admit.Enrolment)
		want keystead.Reason
	}{
		{"another domain", func(e *admit.Enrolment) { e.Domain = digestOf("other") }, keystead.ReasonDomainMismatch},
		{"no domain", func(e *admit.Enrolment) { e.Domain = keystead.Digest{} }, keystead.ReasonDomainMismatch},
		{"another host", func(e *admit.Enrolment) { e.Host = "web-2" }, keystead.ReasonSubjectMismatch},
		{"a version that is not there yet", func(e *admit.Enrolment) { e.Base = 99 }, keystead.ReasonSubjectChanged},
	} {
		e := good
		tc.edit(&e)
		_, err := admit.JudgeEnrolment(s, s.on(admit.TypeEnrolment, "web-1"), s.signed(&e))
		demand(t, tc.what, err, tc.want)
	}
	c := s.on(admit.TypeEnrolment, "web-1")
	c.Domain = keystead.Digest{}
	e := good
	e.Domain = keystead.Digest{}
	_, err := admit.JudgeEnrolment(s, c, s.signed(&e))
	demand(t, "a statement for no domain, to a node of none", err, keystead.ReasonDomainMismatch)
}

// TestStatementsHaveOneSpelling lets members sign what is no statement.
func TestStatementsHaveOneSpelling(t *testing.T) {
	s := newState(t)
	e := admit.Enrolment{Domain: s.domain, Host: "web-1", Role: admit.RoleHost, EK: digestOf("ek")}
	text, err := e.Text()
	must(t, err)
	edit := func(old, new string) string { return strings.Replace(string(text), old, new, 1) }
	for what, text := range map[string]string{
		"a leading zero":        edit("base 0", "base 00"),
		"two spaces":            edit("role host", "role  host"),
		"fields out of order":   "keystead-enrolment/1\n" + strings.Join([]string{lineOf(text, 1), lineOf(text, 2), lineOf(text, 3), lineOf(text, 5), lineOf(text, 4)}, "\n") + "\n",
		"a field twice":         string(text) + lineOf(text, 5) + "\n",
		"a field that is none":  string(text) + "note nothing\n",
		"revoked false":         string(text) + "revoked false\n",
		"a word without value":  string(text) + "revoked\n",
		"an unknown role":       edit("role host", "role king"),
		"a digest in capitals":  edit("ek sha256:", "ek SHA256:"),
		"no base":               edit("base 0\n", ""),
		"a host with a slash":   edit("subject web-1", "subject web/1"),
		"a host with a capital": edit("subject web-1", "subject Web-1"),
		"a blank line":          edit("role", "\nrole"),
		"a domain of two words": edit("domain keystead/", "domain keystead/ "),
	} {
		_, err := admit.ParseEnrolment([]byte(text))
		malformed(t, what, err)
		if _, err := admit.JudgeEnrolment(s, s.on(admit.TypeEnrolment, "web-1"), s.sign([]byte(text), "ada", "ben")); err == nil {
			t.Errorf("%s: endorsed", what)
		}
	}
	long := admit.Denial{Domain: s.domain, Subject: admit.DenyEK(digestOf("ek")), Because: strings.Repeat("x", 2000)}
	_, err = long.Text()
	malformed(t, "a reason of 2,000 bytes", err)
	if _, err := (&admit.Enrolment{Host: "", Role: admit.RoleHost, EK: digestOf("ek")}).Text(); err == nil {
		t.Error("an enrolment of no host has a text")
	}
	if _, err := (&admit.Enrolment{Host: "web-1", Role: admit.RoleHost}).Text(); err == nil {
		t.Error("an enrolment of no hardware has a text")
	}
}

// TestMayExclude: how many nodes may fall out stands at the end, and only where one can; what is
// written to the ledger does not have it.
func TestMayExclude(t *testing.T) {
	s := newState(t)
	ek := admit.DenyEK(digestOf("ek"))
	d := admit.Denial{Domain: s.domain, Subject: ek, Because: "stolen", MayExclude: 1}
	r, err := admit.JudgeDenial(s, s.on(admit.TypeDenial, ek), s.signed(&d))
	must(t, err)
	d.MayExclude = 0
	bare, err := d.Text()
	must(t, err)
	if !bytes.Equal(r.Writes[0].Value, bare) || string(r.Content) != string(bare)+"may-exclude 1\n" {
		t.Errorf("the ruling writes %q, and says %q", r.Writes[0].Value, r.Content)
	}
	for what, line := range map[string]string{"none": "may-exclude 0\n", "a leading zero": "may-exclude 01\n", "twice": "may-exclude 1\nmay-exclude 1\n", "no number": "may-exclude all\n"} {
		_, err := admit.ParseDenial([]byte(string(bare) + line))
		malformed(t, what, err)
	}
	for what, x := range map[string]interface{ Text() ([]byte, error) }{
		"a lifted denial": &admit.Denial{Domain: s.domain, Subject: ek, Because: "x", Lifted: true, MayExclude: 1},
		"terms for hosts": &admit.Terms{Domain: s.domain, Role: admit.RoleHost, Policy: digestOf("p"), Roots: digestOf("r"), MayExclude: 1},
	} {
		_, err := x.Text()
		malformed(t, what, err)
	}
}

func lineOf(text []byte, n int) string { return strings.Split(string(text), "\n")[n] }

// TestEnrolmentRules: an identity has one name, and a revoked enrolment does not come
// back by the signatures of then.
func TestEnrolmentRules(t *testing.T) {
	s := newState(t)
	one, two := digestOf("ek 1"), digestOf("ek 2")
	first := s.signed(&admit.Enrolment{Domain: s.domain, Host: "web-1", Role: admit.RoleHost, EK: one})
	demand(t, "a revocation before the enrolment", s.enrol("web-1", one, true), keystead.ReasonHostUnenrolled)
	must(t, s.enrol("web-1", one, false))
	demand(t, "one identity under two names", s.enrol("web-2", one, false), keystead.ReasonHardwareTaken)
	demand(t, "a revocation of another identity", s.enrol("web-1", two, true), keystead.ReasonHardwareForeign)
	_, err := admit.JudgeEnrolment(s, s.on(admit.TypeEnrolment, "web-1"), first)
	demand(t, "the enrolment once more", err, keystead.ReasonSubjectChanged)

	must(t, s.enrol("web-1", one, true))
	_, err = admit.JudgeEnrolment(s, s.on(admit.TypeEnrolment, "web-1"), first)
	demand(t, "the enrolment replayed after the revocation", err, keystead.ReasonSubjectChanged)
	demand(t, "a second revocation", s.enrol("web-1", one, true), keystead.ReasonHostUnenrolled)
	must(t, s.enrol("web-2", one, false)) // the machine has another name now
	demand(t, "its old name", s.enrol("web-1", one, false), keystead.ReasonHardwareTaken)

	must(t, s.enrol("web-2", two, false)) // a new mainboard
	if name, err := admit.HostOf(s, one); name != "" || err != nil {
		t.Errorf("the old mainboard is still %q, %v", name, err)
	}
	must(t, s.enrol("web-1", one, false))
	e, version, err := admit.Enrolled(s, "web-1")
	if err != nil || e.EK != one || version != s.subjects["enrolment/web-1"] {
		t.Errorf("web-1 is %+v at %d, %v", e, version, err)
	}
	c := s.on(admit.TypeEnrolment, "web-1")
	_, err = admit.JudgeEnrolment(s, c, s.signed(&admit.Enrolment{Domain: s.domain, Host: "web-1", Base: c.Base, Role: admit.RoleNode, EK: one, Revoked: true}))
	demand(t, "a revocation of another role", err, keystead.ReasonRuleFailed)
	for _, host := range []string{"", "Web", "a/b", "identity/x", "web-3"} {
		if _, version, err := admit.Enrolled(s, host); version != 0 || err != nil {
			t.Errorf("%q is enrolled at %d, %v", host, version, err)
		}
	}
}

// TestHostNamesAreSegments has members sign an enrolment whose SVID would name the domain
// itself, or the path above all hosts.
func TestHostNamesAreSegments(t *testing.T) {
	s := newState(t)
	for _, name := range []string{".", "..", "a/b", "Web"} {
		e := admit.Enrolment{Domain: s.domain, Host: name, Role: admit.RoleHost, EK: digestOf("ek")}
		var format *keystead.FormatError
		if _, err := e.Text(); !errors.As(err, &format) || format.Field != "subject" {
			t.Errorf("%q is a host's name: %v", name, err)
		}
	}
}

// TestDenialRules: what can be denied, and lifted.
func TestDenialRules(t *testing.T) {
	s := newState(t)
	for _, subject := range []string{admit.DenyEK(digestOf("ek")), admit.DenyIssuer(digestOf("ca")), admit.DenyFirmware("7.2-rc1"), admit.DenyFirmware("ver 1, draft"), admit.DenyFirmware("")} {
		demand(t, "lifting what is not denied: "+subject, s.deny(subject, true), keystead.ReasonRuleFailed)
		must(t, s.deny(subject, false))
		must(t, s.deny(subject, true))
		must(t, s.deny(subject, false))
	}
	if admit.DenyFirmware("ver 1, draft") == admit.DenyFirmware("ver 2, draft") {
		t.Error("two firmware versions have one subject")
	}
	for _, subject := range []string{"", "ek", "ek/", "ek/00", "host/web-1", "firmware/", "firmware/a/b", "issuer/sha256:00", "ek/" + (keystead.Digest{}).String()} {
		_, err := (&admit.Denial{Domain: s.domain, Subject: subject, Because: "x"}).Text()
		malformed(t, "a denial of "+subject, err)
	}
}

// TestSettingRules: known names within bounds, and what leases last then.
func TestSettingRules(t *testing.T) {
	s := newState(t)
	set := func(name string, value uint64) error {
		c := s.on(admit.TypeSetting, name)
		r, err := admit.JudgeSetting(s, c, s.signed(&admit.Setting{Domain: s.domain, Name: name, Base: c.Base, Value: value}))
		if err == nil {
			s.take(admit.TypeSetting, name, r)
		}
		return err
	}
	lasts := func(want string) {
		t.Helper()
		if d, err := admit.LeaseDuration(s); err != nil || d.String() != want {
			t.Errorf("a lease lasts %v, want %s, %v", d, want, err)
		}
	}
	lasts("1m0s")
	s.founding[admit.LeaseSeconds] = "30"
	lasts("30s")
	demand(t, "4 s", set(admit.LeaseSeconds, 4), keystead.ReasonRuleFailed)
	demand(t, "two days", set(admit.LeaseSeconds, 2*86400), keystead.ReasonRuleFailed)
	demand(t, "a setting that is none", set("colour", 7), keystead.ReasonRuleFailed)
	lasts("30s")
	must(t, set(admit.LeaseSeconds, 20))
	lasts("20s")
	s.judged["setting/lease-seconds"] = admit.Value{Version: 1, Data: []byte("+7")}
	s.founding[admit.LeaseSeconds] = "999999"
	lasts("1m0s")
}

// TestEntryVersion: a node endorses versions that its build knows, and none below the one in force.
func TestEntryVersion(t *testing.T) {
	s := newState(t)
	set := func(value uint64) error {
		c := s.on(admit.TypeSetting, admit.EntryVersion)
		r, err := admit.JudgeSetting(s, c, s.signed(&admit.Setting{Domain: s.domain, Name: admit.EntryVersion, Base: c.Base, Value: value}))
		if err == nil {
			s.take(admit.TypeSetting, admit.EntryVersion, r)
		}
		return err
	}
	demand(t, "a version without a vote", set(3), keystead.ReasonRuleFailed)
	demand(t, "a version of later builds", set(receipt.Version+1), keystead.ReasonRuleFailed)
	must(t, set(4))
	must(t, set(receipt.Version))
	s.founding[admit.EntryVersion] = strconv.Itoa(receipt.Version + 3) // by a later build, and in force
	demand(t, "lower than the founding one", set(4), keystead.ReasonRuleFailed)
	delete(s.founding, admit.EntryVersion)
	s.judged["setting/entry-version"] = admit.Value{Version: 1, Data: []byte("9")}
	demand(t, "lower than the judged one", set(receipt.Version), keystead.ReasonRuleFailed)
	for _, tc := range []struct {
		judged, founding string
		want             uint8
	}{{"", "", 3}, {"4", "", 4}, {"", "4", 4}, {"4", "5", 5}, {"5", "4", 5}, {"2", "1", 3}, {"x", "999", 3}, {"-1", "+7", 3}} {
		if got := admit.ParseEntryVersion(tc.judged, tc.founding); got != tc.want {
			t.Errorf("judged %q, founding %q: %d, want %d", tc.judged, tc.founding, got, tc.want)
		}
	}
}

package admit_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
)

// TestReadings lets those read archived evidence whom the domain names, as many of them
// as it wants, for one admission, in time.
func TestReadings(t *testing.T) {
	s := newState(t)
	id := keystead.Sum([]byte("an admission"))
	ask := func(until uint64, by ...string) error {
		x := admit.Reading{Domain: s.domain, Transaction: id, Nonce: [16]byte{1}, Until: until, Because: "audit 7"}
		text, err := x.Text()
		must(t, err)
		_, err = admit.OpenReading(s, s.domain, id, &s.roster, s.sign(text, by...))
		return err
	}
	set := func(need uint64, names ...string) error {
		c := s.on(admit.TypeSetting, admit.ArchiveReaders)
		x := admit.Setting{Domain: s.domain, Name: admit.ArchiveReaders, Base: c.Base, Value: need, Members: names}
		r, err := admit.JudgeSetting(s, c, s.signed(&x))
		if err == nil {
			s.take(admit.TypeSetting, admit.ArchiveReaders, r)
		}
		return err
	}
	soon := uint64(epoch + 60_000)
	demand(t, "before anybody is named", ask(soon, "ada", "ben"), keystead.ReasonReaderUnnamed)
	demand(t, "names nobody, wants one", set(1), keystead.ReasonRuleFailed)
	demand(t, "wants more than it names", set(3, "ada", "ben"), keystead.ReasonRuleFailed)
	demand(t, "wants none of those it names", set(0, "ada"), keystead.ReasonRuleFailed)
	demand(t, "names a stranger", set(1, "mallory"), keystead.ReasonRuleFailed)
	must(t, set(2, "ada", "ben"))
	must(t, ask(soon, "ada", "ben"))
	must(t, ask(soon, "ada", "ben", "cleo"))
	demand(t, "one of two", ask(soon, "ben"), keystead.ReasonThresholdMissing)
	demand(t, "one who is named and one who is not", ask(soon, "ada", "cleo"), keystead.ReasonThresholdMissing)
	demand(t, "a member who is not named", ask(soon, "cleo"), keystead.ReasonReaderUnnamed)
	demand(t, "a stranger", ask(soon, "mallory"), keystead.ReasonNoteUnsigned)
	demand(t, "too late", ask(epoch, "ada", "ben"), keystead.ReasonRequestExpired)
	demand(t, "two days ahead", ask(epoch+2*admit.MaxReadingAhead, "ada", "ben"), keystead.ReasonRequestExpired)
	all := s.roster.Members
	s.roster.Members = all[1:] // ada leaves
	demand(t, "who has left", ask(soon, "ada", "ben"), keystead.ReasonThresholdMissing)
	s.roster.Members = all
	must(t, set(0))
	demand(t, "once nobody is named", ask(soon, "ben"), keystead.ReasonReaderUnnamed)

	x := admit.Setting{Domain: s.domain, Name: admit.LeaseSeconds, Value: 60, Members: []string{"ada"}}
	_, err := x.Text()
	malformed(t, "members of another setting", err)
	x = admit.Setting{Domain: s.domain, Name: admit.ArchiveReaders, Value: 1, Members: []string{"ben", "ada"}}
	_, err = x.Text()
	malformed(t, "members out of order", err)
	_, err = (&admit.Reading{Domain: s.domain, Transaction: id, Until: soon}).Text()
	malformed(t, "a reading without a reason", err)
}

// TestArchiveTime: how long evidence is archived, as founded, as set, and without either.
func TestArchiveTime(t *testing.T) {
	s := newState(t)
	lasts := func(days int) {
		t.Helper()
		if d, err := admit.ArchiveTime(s); err != nil || d != time.Duration(days)*24*time.Hour {
			t.Errorf("%v, want %d days, %v", d, days, err)
		}
	}
	lasts(365)
	s.founding[admit.ArchiveDays] = "30"
	lasts(30)
	c := s.on(admit.TypeSetting, admit.ArchiveDays)
	r, err := admit.JudgeSetting(s, c, s.signed(&admit.Setting{Domain: s.domain, Name: admit.ArchiveDays, Base: c.Base}))
	must(t, err)
	s.take(admit.TypeSetting, admit.ArchiveDays, r)
	lasts(0)
	c = s.on(admit.TypeSetting, admit.ArchiveDays)
	if _, err := admit.JudgeSetting(s, c, s.signed(&admit.Setting{Domain: s.domain, Name: admit.ArchiveDays, Base: c.Base, Value: 36501})); !errors.Is(err, keystead.ReasonRuleFailed) {
		t.Errorf("more than 100 years: %v", err)
	}
}

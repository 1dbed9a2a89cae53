package admit_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
)

// FuzzStatement gives every reader of statements the same text: none panics, and what
// is accepted has one spelling.
func FuzzStatement(f *testing.F) {
	d := keystead.Sum([]byte("domain"))
	for _, x := range []interface{ Text() ([]byte, error) }{
		&admit.Setting{Domain: d, Name: admit.LeaseSeconds, Value: 60},
		&admit.Setting{Domain: d, Name: admit.ArchiveReaders, Value: 1, Members: []string{"ada", "ben"}},
		&admit.Reading{Domain: d, Transaction: d, Until: 1, Because: "audit 7"},
		&admit.Enrolment{Domain: d, Host: "web-1", Role: admit.RoleHost, EK: d},
		&admit.Enrolment{Domain: d, Host: "web-1", Base: 7, Role: admit.RoleNode, EK: d, Revoked: true},
		&admit.Enrolment{Domain: d, Host: "web-1", Role: admit.RoleHost, TEE: evidence.TEEHost{Kind: evidence.KindSNP, Machine: "ab", Key: d}},
		&admit.Denial{Domain: d, Subject: admit.DenyEK(d), Because: "stolen"},
		&admit.Denial{Domain: d, Subject: admit.DenyFirmware("7.2.1"), Base: 3, Lifted: true, Because: "updated"},
		&admit.Denial{Domain: d, Subject: admit.DenyEK(d), Because: "stolen", MayExclude: 1},
		&admit.Terms{Role: admit.RoleNode, Policy: d, Roots: d, MayExclude: 2},
		&admit.Terms{Role: admit.RoleHost, Policy: d, Roots: d, References: []keystead.Digest{d}, CodeSets: []keystead.Digest{d}},
		&admit.Terms{Role: admit.RoleHost, Policy: d, Roots: d, Collateral: []keystead.Digest{d}, TEERoots: d},
		&admit.Terms{Role: admit.RoleNode, Policy: d, Roots: d, References: []keystead.Digest{d}, Until: map[keystead.Digest]time.Time{d: time.Unix(1_800_000_000, 0)}},
		&admit.Object{Domain: d, Digest: d, Kind: admit.ObjectPolicy},
		&admit.Object{Domain: d, Digest: d, Kind: admit.ObjectTEERoots},
		&admit.Object{Domain: d, Digest: d, Kind: admit.ObjectReferences, Recipe: []admit.Ingredient{{Role: admit.IngredientRelease, Digest: d}}},
	} {
		text, err := x.Text()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("keystead-setting/1\ndomain none\nsubject x\nbase 0\nvalue 7\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		same := func(what string, again []byte, err error) {
			if err != nil || !bytes.Equal(again, text) {
				t.Errorf("%s has two spellings: %q and %q, %v", what, text, again, err)
			}
		}
		first, _, _ := bytes.Cut(text, []byte("\n"))
		if s, err := admit.ParseStatement(key.Kind(first), text); err == nil {
			same("a statement", s.Text(), nil)
		}
		if x, err := admit.ParseSetting(text); err == nil {
			again, err := x.Text()
			same("a setting", again, err)
		}
		if x, err := admit.ParseReading(text); err == nil {
			again, err := x.Text()
			same("a reading", again, err)
		}
		if x, err := admit.ParseEnrolment(text); err == nil {
			again, err := x.Text()
			same("an enrolment", again, err)
		}
		if x, err := admit.ParseDenial(text); err == nil {
			again, err := x.Text()
			same("a denial", again, err)
		}
		if x, err := admit.ParseTerms(text); err == nil {
			again, err := x.Text()
			same("terms", again, err)
		}
		if x, err := admit.ParseObject(text); err == nil {
			again, err := x.Text()
			same("an object", again, err)
		}
	})
}

// FuzzRecord reads lease records: what is accepted has one encoding, and the times that
// the ledger reads are the record's.
func FuzzRecord(f *testing.F) {
	r := admit.Record{Until: 60_000, Issued: 1, Role: admit.RoleHost, SubjectKey: []byte("key"), Denials: []string{admit.DenyFirmware("1")}}
	f.Add(r.Bytes())
	f.Add(firstVersion(&r))
	r.Guest = keystead.Sum([]byte("guest"))
	f.Add(r.Bytes())
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		until, issued := admit.RecordTimes(b)
		r, err := admit.ParseRecord(b)
		if err == nil && (!bytes.Equal(r.Bytes(), b) || until != r.Until || issued != r.Issued) {
			t.Errorf("%x is read as %x, from %d until %d, and %d, %d", b, r.Bytes(), r.Issued, r.Until, issued, until)
		}
	})
}

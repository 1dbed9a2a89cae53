package keyring_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
)

// lease is a lease as this test wants it.
type lease struct {
	err    error
	judged uint64
}

func (l lease) Host() string     { return "web" }
func (l lease) Role() string     { return "host" }
func (l lease) At(uint64) error  { return l.err }
func (l lease) Evidence() uint64 { return l.judged }

func verdict(assurance string) evidence.Claims { return evidence.Claims{Assurance: assurance} }

const strictPolicy = `keystead-policy/1
name strict
minimum-assurance test
rule path
  require release.application.path == "/usr/bin/app" && release.application.uid == 33
  otherwise ask from the application itself
rule young
  require release.age_seconds <= 20 && release.host == "web" && release.role == "host"
  otherwise renew the lease
`

// TestRelease asks for a key in every way that must be refused, and demands the reasons.
func TestRelease(t *testing.T) {
	w := newWorld(t, 61, 3)
	w.agree()
	w.demand("plain", 1, nil)
	w.demand("strict", 1, func(s *keyring.Spec) {
		s.Level, s.Policy, s.Hold, s.Evidence = keyring.LevelPeer, []byte(strictPolicy), 30, 15
	})
	w.demand("silent", 1, func(s *keyring.Spec) { s.Policy = []byte("keystead-policy/1\nname silent\nrules none\n") })
	w.agree()
	w.demand("unborn", 1, nil)
	app := keyring.Application{Level: keyring.LevelPeer, Path: "/usr/bin/app", Digest: "sha256:00", UID: 33}
	const now = 100_000
	fresh := lease{judged: now - 5_000}
	over := lease{judged: now, err: keystead.Deny(keystead.Finding{Reason: keystead.ReasonClockStale})}
	ring := w.nodes["n1"].ring
	for name, tc := range map[string]struct {
		ask  keyring.Ask
		want []keystead.Reason
	}{
		"no lease":               {keyring.Ask{Key: "plain"}, []keystead.Reason{keystead.ReasonEvidenceMissing}},
		"a lease that is over":   {keyring.Ask{Lease: over, Claims: verdict("test"), Key: "plain"}, []keystead.Reason{keystead.ReasonClockStale}},
		"no such key":            {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "other"}, []keystead.Reason{keystead.ReasonKeyUnknown}},
		"a key not agreed yet":   {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "unborn"}, []keystead.Reason{keystead.ReasonKeyUnknown}},
		"no such version":        {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "plain", Version: 9}, []keystead.Reason{keystead.ReasonKeyUnknown}},
		"no verdict":             {keyring.Ask{Lease: fresh, Key: "plain"}, []keystead.Reason{keystead.ReasonAssuranceLow}},
		"test, by default":       {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "silent"}, []keystead.Reason{keystead.ReasonAssuranceLow}},
		"no application":         {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "strict"}, []keystead.Reason{keystead.ReasonLevelLow, keystead.ReasonRuleFailed}},
		"a made-up level":        {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "plain", Application: keyring.Application{Level: "root"}}, []keystead.Reason{keystead.ReasonLevelLow}},
		"a level without a path": {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "plain", Application: keyring.Application{Level: "launched"}}, []keystead.Reason{keystead.ReasonLevelLow}},
		"a path without a level": {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "plain", Application: keyring.Application{Path: "/x"}}, []keystead.Reason{keystead.ReasonLevelLow}},
		"another application": {keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "strict", Application: keyring.Application{Level: "peer", Path: "/bin/sh", Digest: "sha256:00", UID: 33}},
			[]keystead.Reason{keystead.ReasonRuleFailed}},
		"old evidence": {keyring.Ask{Lease: lease{judged: now - 15_001}, Claims: verdict("test"), Key: "strict", Application: app}, []keystead.Reason{keystead.ReasonEvidenceOld}},
		"older evidence": {keyring.Ask{Lease: lease{judged: now - 60_000}, Claims: verdict("test"), Key: "strict", Application: app},
			[]keystead.Reason{keystead.ReasonEvidenceOld, keystead.ReasonRuleFailed}},
		"everything": {keyring.Ask{Lease: over, Key: "strict"},
			[]keystead.Reason{keystead.ReasonClockStale, keystead.ReasonLevelLow, keystead.ReasonAssuranceLow, keystead.ReasonRuleFailed}},
	} {
		g, err := ring.Release(w.board, &tc.ask, now)
		var d *keystead.DenyError
		if !errors.As(err, &d) || !g.Secret().IsZero() {
			t.Errorf("%s: want a refusal, got %v and %v", name, g.Version(), err)
			continue
		}
		var got []keystead.Reason
		for _, f := range d.Findings {
			got = append(got, f.Reason)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: want %v, got %v", name, tc.want, d.Findings)
		}
	}
	g, err := ring.Release(w.board, &keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "strict", Application: app}, now)
	if err != nil || g.Version() != 1 || g.Hold() != 30*time.Second || len(g.Secret().Encode()) != keyring.SecretSize {
		t.Errorf("a good request: %v", err)
	}
	if _, err := ring.Release(w.board, &keyring.Ask{Lease: fresh, Claims: verdict("measured-os"), Key: "silent"}, now); err != nil {
		t.Errorf("measured-os: %v", err)
	}
	// the specification of now counts, whatever was compiled before
	w.demand("plain", 1, func(s *keyring.Spec) { s.Level = keyring.LevelLaunched })
	if _, err := ring.Release(w.board, &keyring.Ask{Lease: fresh, Claims: verdict("test"), Key: "plain"}, now); !errors.Is(err, keystead.ReasonLevelLow) {
		t.Errorf("an old specification was applied: %v", err)
	}
}

// TestVocabularyHoldsTheVerdicts keeps release policies able to say what appraisal
// policies can.
func TestVocabularyHoldsTheVerdicts(t *testing.T) {
	want, err := appraise.Vocabulary().Names()
	if err != nil {
		t.Fatal(err)
	}
	got, err := keyring.Vocabulary().Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("release policies lack the claim %s", name)
		}
	}
}

// TestSpecsRefused hands in specifications that no node may endorse.
func TestSpecsRefused(t *testing.T) {
	w := newWorld(t, 71, 3)
	if _, err := w.specify("storage", 2, nil); !errors.Is(err, keystead.ReasonRuleFailed) {
		t.Errorf("a version that would take two rounds: %v", err)
	}
	good := keyring.Spec{Domain: w.domain, Name: "storage", Version: 1, Level: "none", Policy: []byte("keystead-policy/1\nname any\nrules none\n")}
	mallory, err := key.NewMember(w.random, "mallory")
	if err != nil {
		t.Fatal(err)
	}
	judge := func(m key.Member, subject string, base uint64, change func(*keyring.Spec)) error {
		s := good
		change(&s)
		text, err := s.Text()
		if err != nil {
			t.Fatal(err)
		}
		signed, err := m.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = keyring.JudgeSpec(w.board, &w.at.Roster, w.domain, subject, base, signed)
		return err
	}
	none := func(*keyring.Spec) {}
	for name, tc := range map[string]struct {
		err  error
		want keystead.Reason
	}{
		"signed by a stranger": {judge(mallory, "storage", 0, none), keystead.ReasonNoteUnsigned},
		"on another subject":   {judge(w.member, "backup", 0, none), keystead.ReasonRuleFailed},
		"replayed":             {judge(w.member, "storage", 5, none), keystead.ReasonSubjectChanged},
		"of another domain":    {judge(w.member, "storage", 0, func(s *keyring.Spec) { s.Domain[0] ^= 1 }), keystead.ReasonDomainMismatch},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: want %s, got %v", name, tc.want, tc.err)
		}
	}
	w.at.Threshold = 2
	if err := judge(w.member, "storage", 0, none); !errors.Is(err, keystead.ReasonThresholdMissing) {
		t.Errorf("one of two: %v", err)
	}
	text, _ := good.Text()
	for name, bad := range map[string]string{
		"empty":                     "",
		"a policy that fails":       strings.Replace(string(text), "rules none", "rules some", 1),
		"no policy":                 string(text[:bytes.Index(text, []byte("policy\n"))]),
		"another level":             strings.Replace(string(text), "level none", "level root", 1),
		"version 0":                 strings.Replace(string(text), "version 1", "version 0", 1),
		"a number of two spellings": strings.Replace(string(text), "version 1", "version 01", 1),
		"lines out of order":        strings.Replace(string(text), "base 0\nversion 1\n", "version 1\nbase 0\n", 1),
		"a bad name":                strings.Replace(string(text), "subject storage", "subject a/b", 1),
		"an unknown claim":          strings.Replace(string(text), "rules none", "rule x\n  require release.hots == \"a\"\n  otherwise no", 1),
	} {
		var format *keystead.FormatError
		if _, err := keyring.ParseSpec([]byte(bad)); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSecretsAreNeverPrinted formats everything that holds a secret.
func TestSecretsAreNeverPrinted(t *testing.T) {
	w := newWorld(t, 81, 1)
	w.agree()
	w.demand("storage", 1, nil)
	w.agree()
	ring := w.nodes["n1"].ring
	g, err := ring.Release(w.board, &keyring.Ask{Lease: lease{}, Claims: verdict("test"), Key: "storage"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	s := g.Secret()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		for _, x := range []any{s, &s, g, &g, []any{s, g}, struct {
			S keyring.Secret
			G keyring.Grant
		}{s, g}} {
			fmt.Fprintf(&out, verb, x)
		}
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "s", s, "g", g, "p", &s)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "s", s, "g", g, "p", &s)
	if _, err := json.Marshal(s); err == nil {
		t.Error("a secret encodes as JSON")
	}
	raw := s.Encode()
	held := ring.Held()
	for _, b := range [][]byte{raw, held[len(held)-32:]} {
		for _, leak := range []string{string(b), fmt.Sprintf("%x", b), fmt.Sprintf("%X", b), fmt.Sprint(b)[1:20], string(b[:8])} {
			if strings.Contains(out.String(), leak) {
				t.Errorf("a secret was printed: %q", leak)
			}
		}
	}
	for _, x := range []any{keyring.Secret{}, keyring.Grant{}, keyring.Wrapping{}} {
		if reflect.TypeOf(x).Comparable() {
			t.Errorf("%T compares with ==", x)
		}
	}
	if (keyring.Grant{}).Secret().Encode() != nil {
		t.Error("the zero Grant holds something")
	}
}

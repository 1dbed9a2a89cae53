package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	const text = "keystead-policy/1\nname a\nminimum-assurance measured\nsoftware report\n\nrule one\n  require boot.secure\n  otherwise turn it on\n\nrule two\n  require boot.events > 1\n  otherwise boot\n"
	vocabulary := Vocabulary{Formats: []string{"deb"}, Levels: []string{"none", "weak", "measured"}, Claims: struct {
		Boot struct {
			Secure bool  `cel:"secure"`
			Events int64 `cel:"events"`
		} `cel:"boot"`
	}{}}
	compile := func(text string) *Policy {
		p, err := Compile([]byte(text), vocabulary)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	from := compile(text)
	for _, tc := range []struct {
		old, with string
		want      []Change
	}{
		{"name a\n", "name a\n# a comment changes nothing\n", nil},
		{"name a", "name b", []Change{{"name", "a", "b", Neither}}},
		{"assurance measured", "assurance weak", []Change{{"minimum-assurance", "measured", "weak", Looser}}},
		{"software report\n", "", []Change{{"software", "report", "every-entry", Stricter}}},
		{"software report\n", "software report\nboot report\n", []Change{{"boot", "accepted", "report", Looser}}},
		{"software report\n", "software report\ntee accepted\ntee-debug allowed\n", []Change{{"tee", "none", "accepted", Looser}, {"tee-debug", "refused", "allowed", Looser}}},
		{"software report\n", "software report\nfloor deb openssl 3.0.7-1\n", []Change{{"floor deb openssl", "", "3.0.7-1", Stricter}}},
		{"boot.events > 1", "boot.events > 2", []Change{{"rule two", "boot.events > 1", "boot.events > 2", Either}}},
		{"otherwise boot", "otherwise boot again", []Change{{"advice of rule two", "boot", "boot again", Neither}}},
		{"rule two", "rule three", []Change{{"rule three", "", "boot.events > 1", Stricter}, {"rule two", "boot.events > 1", "", Looser}}},
	} {
		if got := Diff(from, compile(strings.Replace(text, tc.old, tc.with, 1))); !slices.Equal(got, tc.want) {
			t.Errorf("%q for %q: got %v", tc.with, tc.old, got)
		}
	}
	floor := func(version string) *Policy {
		return compile(strings.Replace(text, "software report\n", "floor deb openssl "+version+"\n", 1))
	}
	if got := Diff(floor("3.0.7-1"), floor("3.0.8-1")); !slices.Equal(got, []Change{{"floor deb openssl", "3.0.7-1", "3.0.8-1", Either}}) {
		t.Errorf("another floor: got %v", got)
	}
	if got := Diff(floor("3.0.7-1"), from); !slices.Equal(got, []Change{{"software", "every-entry", "report", Looser}, {"floor deb openssl", "3.0.7-1", "", Looser}}) {
		t.Errorf("no floor: got %v", got)
	}
	if got := Diff(from, nil); !slices.Equal(got, []Change{{Where: "policy", Effect: Either}}) {
		t.Errorf("no policy: got %v", got)
	}
}

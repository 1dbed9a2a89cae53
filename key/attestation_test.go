package key

import (
	"strings"
	"testing"
)

func TestAKDigestText(t *testing.T) {
	d := DigestAK([]byte("a public area"))
	for _, want := range []AKDigest{d, {}} {
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		got := d
		if err := got.UnmarshalText(text); err != nil || got != want || got.None() != (want == AKDigest{}) {
			t.Errorf("round trip of %s: %v, %v", text, got, err)
		}
	}
	s := d.String()
	for _, bad := range []string{"", "ak:", "none", s[3:], s[:len(s)-1], s + "0", " " + s, "ak:NONE", strings.ToUpper(s), "ak:" + strings.ToUpper(s[3:]), "ak:" + strings.Repeat("0", 64), "ak:" + strings.Repeat("x", 64)} {
		if _, err := ParseAKDigest(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

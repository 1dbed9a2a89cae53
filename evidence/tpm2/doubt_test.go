package tpm2_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead/evidence/tpm2"
)

// TestDoubts: what certifies software TPMs is not taken for a vendor's without a word.
func TestDoubts(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	root := func(name string, made time.Time, years int) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, Issuer: pkix.Name{CommonName: name}, NotBefore: made, NotAfter: made.AddDate(years, 0, 0)}
	}
	old := now.AddDate(-8, 0, 0)
	for _, tc := range []struct {
		what string
		root *x509.Certificate
		want string // "" for no doubt
	}{
		{"a vendor's", root("Example Trusted Platform Module Root CA", old, 20), ""},
		{"swtpm's own", root("swtpm-localca-rootca", old, 20), `"swtpm"`},
		{"of practice machines", root("Software TPM test authority", now, 1), `"software tpm"`},
		{"a virtual machine's", root("Example vTPM Root", old, 20), `"vtpm"`},
		{"made for the occasion", root("Fine Root CA", now.AddDate(0, -2, 0), 30), "less than a year ago"},
		{"that lasts a year", root("Fine Root CA", old, 9), "vendors' last for decades"},
	} {
		got := tpm2.Roots{Hardware: []*x509.Certificate{tc.root}}.Doubts(now)
		if len(got) > 1 || (len(got) == 0) != (tc.want == "") || len(got) == 1 && !strings.Contains(got[0], tc.want) {
			t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
		}
		if got := (tpm2.Roots{Test: []*x509.Certificate{tc.root}}).Doubts(now); got != nil {
			t.Errorf("%s, among the test roots: %q", tc.what, got)
		}
	}
}

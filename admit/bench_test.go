package admit_test

import (
	"testing"

	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence"
)

// BenchmarkDecide judges evidence of a whole recorded boot; one op is one decision of
// one node, with the bundle parsed and the terms opened.
func BenchmarkDecide(b *testing.B) {
	s, m := newDomain(b), start(b, web)
	must(b, s.enrol("web-1", m.id, false))
	admission := s.apply(m, "web-1", evidence.PurposeAdmission)
	s.admitted(m, "web-1")
	renewal := s.apply(m, "web-1", evidence.PurposeRenewal)
	b.Run("admission", func(b *testing.B) {
		for b.Loop() {
			_, err := admit.Decide(s, admission)
			must(b, err)
		}
	})
	b.Run("renewal", func(b *testing.B) {
		for b.Loop() {
			_, err := admit.Renew(s, renewal)
			must(b, err)
		}
	})
	b.Run("current", func(b *testing.B) {
		for b.Loop() {
			_, err := admit.Current(s, "web-1")
			must(b, err)
		}
	})
}

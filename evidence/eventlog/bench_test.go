package eventlog

import (
	"testing"

	"github.com/google/go-eventlog/tcg"
)

// BenchmarkOpen parses and replays the 44 events of a real quote's log.
func BenchmarkOpen(b *testing.B) {
	raw, covered := realQuote(b, "gce-cos-85-no-nonce.pb")
	b.Run("keystead", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Open(raw, covered); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("claims", func(b *testing.B) {
		l, err := Open(raw, covered)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			l.Boot()
		}
	})
	peer := mrs(covered[0])
	b.Run("go-eventlog", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tcg.ParseAndReplay(raw, peer, tcg.ParseOpts{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

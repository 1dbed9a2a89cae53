package ima

import (
	"testing"

	"github.com/keystead/keystead/evidence"
)

// BenchmarkOpen parses and replays 100,000 entries and visits them; ns/op over
// 100,000 is the cost of an entry.
func BenchmarkOpen(b *testing.B) {
	items := host(100_000)
	raw := write(items)
	for name, banks := range map[string][]evidence.Bank{"sha256": {evidence.SHA256}, "sha256+sha384": {evidence.SHA256, evidence.SHA384}} {
		quoted := quote(items, banks...)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l, err := Open(raw, quoted, Register)
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for _, e := range l.All() {
					n += len(e.FileDigest) / 32
				}
				if n != len(items) {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(b.N*len(items))/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

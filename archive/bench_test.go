package archive_test

import (
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/archive"
	"github.com/keystead/keystead/internal/recording"
)

// BenchmarkSeal seals the kernel's log of a recorded boot, as one admission does.
func BenchmarkSeal(b *testing.B) {
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		b.Fatal(err)
	}
	r := sample()
	r.Bundle = append(append(append([]byte{}, rec.EventLog...), rec.Phases[0].IMALog...), rec.Status...)
	k := newKey(1)
	var size int
	for b.Loop() {
		sealed, _, err := archive.Seal(keystead.Sum(nil), &r, k)
		if err != nil {
			b.Fatal(err)
		}
		size = len(sealed)
	}
	b.SetBytes(int64(len(r.Bundle)))
	b.ReportMetric(float64(size), "B-sealed")
}

package process_test

import (
	"crypto/sha256"
	"testing"

	"github.com/keystead/keystead/collect/process"
	"github.com/keystead/keystead/internal/specimen"
)

// BenchmarkMeasure measures a process with 6 MiB of code beyond its own, in both ways; asks
// again, which scans its pages; and, beside them in the same run, hashes as many bytes as a
// measurement does (the fixed section and the file).
func BenchmarkMeasure(b *testing.B) {
	a := specimen.NewAuthority(b)
	p := start(b, a.Sign(b, specimen.Build(b, specimen.CLarge), "player"))
	m, err := p.Measure(ctx, process.Options{})
	if err != nil {
		b.Fatal(err)
	}
	size := int64(m.Program.Note.Size)
	for _, s := range m.Program.Image.Fixed {
		size += int64(s.Size)
	}
	b.Run("hash", func(b *testing.B) {
		bytes := make([]byte, size)
		b.SetBytes(size)
		for b.Loop() {
			sha256.Sum256(bytes)
		}
	})
	for name, o := range map[string]process.Options{"pages": {}, "memory": {ReadMemory: true}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if _, err := p.Measure(ctx, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			if err := m.Again(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

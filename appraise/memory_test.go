package appraise_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// TestMemory appraises with a memory, fresh and warm, at times on both sides of the
// ends of the endorsement certificate: verdicts are those without one, bit by bit.
func TestMemory(t *testing.T) {
	in, _ := onStage(t).input(t, "packaged")
	memory := appraise.NewMemory(1, 1<<30)
	for _, after := range []time.Duration{0, time.Second, -time.Hour, 48 * time.Hour, 24 * 365 * 50 * time.Hour, -24 * 365 * 50 * time.Hour, 0} {
		plain := in
		plain.Time = in.Time.Add(after)
		warm := plain
		warm.Memory = memory
		want := appraise.Appraise(plain).Bytes()
		for range 2 {
			if got := appraise.Appraise(warm).Bytes(); !bytes.Equal(got, want) {
				t.Errorf("%v after, with a memory:\n%s\nwithout:\n%s", after, got, want)
			}
		}
	}
}

// TestMemoryIsBounded: a host that sends another package list each time fills the memory
// to its bound and no further, whichever of the formats it sends.
func TestMemoryIsBounded(t *testing.T) {
	const most, lists, packages = 1 << 20, 64, 4000
	in := newForger(t).input(t, machine{})
	parts := in.Bundle.Parts()
	formats := map[string]func(i, n int) string{
		evidence.FormatDpkgStatus: func(i, n int) string {
			return fmt.Sprintf("Package: p%d-%d\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n", i, n)
		},
		evidence.FormatAPKInstalled: func(i, n int) string { return fmt.Sprintf("P:p%d-%d\nV:1\nA:noarch\n\n", i, n) },
	}
	for format, line := range formats {
		in.Memory = appraise.NewMemory(1<<16, most)
		before := heap()
		for i := range lists {
			var list bytes.Buffer
			for n := range packages {
				list.WriteString(line(i, n))
			}
			parts.Packages = &evidence.PackageList{Format: format, Data: list.Bytes()}
			in.Bundle = bundle(t, parts)
			demand(t, format, in)
		}
		in.Bundle, parts.Packages = evidence.Bundle{}, nil
		if kept := heap() - before; kept > 4*most {
			t.Errorf("%s: %d lists of %d packages keep %d bytes, at most %d are to be kept", format, lists, packages, kept, most)
		}
		runtime.KeepAlive(in.Memory)
	}
}

// heap is how much memory is in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

package appraise_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/keystead/keystead/appraise"
)

// TestMemory appraises with a memory, fresh and warm, at times on both sides of the
// ends of the endorsement certificate: verdicts are those without one, bit by bit.
func TestMemory(t *testing.T) {
	in, _ := onStage(t).input(t, "packaged")
	memory := appraise.NewMemory(1)
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

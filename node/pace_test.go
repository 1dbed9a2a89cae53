package node

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
)

// TestPace begins to compare clocks at moments of every kind.
func TestPace(t *testing.T) {
	const start = 1_000_000 // domain clock
	var p pace
	check := func(what string, boot uint64, fresh bool) {
		t.Helper()
		if err := p.watch.Check(boot); (err == nil) != fresh || err != nil && !errors.Is(err, keystead.ReasonClockStale) {
			t.Errorf("%s: want fresh %v, got %v", what, fresh, err)
		}
	}
	p.observe(start, 100)
	check("before it has caught up", 100, false)
	p.caughtUp = true
	check("caught up with a clock that stands still", 60_000, false)
	p.observe(start+50_000, 60_000) // the first tick after; it is 10 s late
	check("at the first tick", 60_000, true)
	p.observe(start+61_000, 61_000)
	check("the clock was late at first", 61_000, true)
	p.observe(start+62_000, 62_500)
	check("within the limit", 64_000, true)
	check("behind", 64_500, false)
	p.observe(start+80_000, 80_000)
	check("back at its pace", 80_000, true)
	p.observe(start+91_000, 95_000)
	check("behind: the point of comparison does not move back", 95_000, false)
	p.observe(start+100_000, 100_000)
	check("at its pace once it has settled", 100_000, true)
	p.observe(start+110_000, 101_000)
	check("ahead once it has settled", 101_000, false)
}

package serve

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keystead/keystead"
)

// TestPlacesOfOneAddress: whoever waits from one address leaves room for others.
func TestPlacesOfOneAddress(t *testing.T) {
	w := places{what: "who wait", most: 64, of: 16}
	var leaves []func()
	enter := func(remote string, want error) {
		t.Helper()
		leave, err := w.enter(Source(remote))
		if !errors.Is(err, want) {
			t.Fatalf("%s, %d taken: %v, want %v", remote, w.taken, err, want)
		}
		if err == nil {
			leaves = append(leaves, leave)
		}
	}
	for port := range w.of {
		enter(fmt.Sprintf("192.0.2.1:%d", 1000+port), nil)
	}
	enter("192.0.2.1:1", keystead.ReasonOverloaded)
	for n := range w.of {
		enter(fmt.Sprintf("[2001:db8::%x]:1000", n+1), nil) // which one machine has whole
	}
	enter("[2001:db8::ffff]:1", keystead.ReasonOverloaded)
	for port := range w.of {
		enter(fmt.Sprintf("127.0.0.2:%d", 1000+port), nil)
	}
	enter("127.0.0.2:1", keystead.ReasonOverloaded) // only 127.0.0.1 is this machine's own
	enter("192.0.2.2:1", nil)
	for w.taken < w.most {
		enter("127.0.0.1:1", nil)
	}
	enter("192.0.2.3:1", keystead.ReasonOverloaded)
	leaves[0]()
	enter("192.0.2.1:1", nil)
	for _, leave := range leaves[1:] {
		leave()
	}
	if w.taken != 0 || len(w.by) != 0 {
		t.Errorf("%d are left, of %d addresses", w.taken, len(w.by))
	}
}

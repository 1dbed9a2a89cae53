package serve

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keystead/keystead"
)

// TestRate spends allowances of several addresses, by a clock of the test's own.
func TestRate(t *testing.T) {
	now := time.Unix(1000, 0)
	r := NewRate(10)
	r.now = func() time.Time { return now }
	spend := func(what, remote string, n, want int) {
		t.Helper()
		allowed := 0
		for range n {
			err := r.Take(remote)
			if err == nil {
				allowed++
			} else if !errors.Is(err, keystead.ReasonOverloaded) {
				t.Errorf("%s: want overloaded, got %v", what, err)
			}
		}
		if allowed != want {
			t.Errorf("%s: %d of %d allowed, want %d", what, allowed, n, want)
		}
	}
	spend("at once", "192.0.2.1:1000", 15, 10)
	spend("from another port", "192.0.2.1:1001", 5, 0)
	spend("the same address mapped into IPv6", "[::ffff:192.0.2.1]:1001", 5, 0)
	spend("another address", "192.0.2.2:1000", 15, 10)
	spend("an address of IPv6", "[2001:db8::1]:1", 15, 10)
	spend("another one of its /64", "[2001:db8::2]:1", 5, 0)
	spend("one of another /64", "[2001:db8:0:1::2]:1", 5, 5)
	spend("loopback", "127.0.0.1:1", 1000, 1000)
	spend("loopback of IPv6", "[::1]:1", 1000, 1000)
	now = now.Add(300 * time.Millisecond)
	spend("a little later", "192.0.2.1:1000", 15, 3)
	now = now.Add(time.Hour)
	spend("an hour later", "192.0.2.1:1000", 15, 10)
	for i := range 2 * maxAddresses {
		_ = r.Take(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
	}
	if len(r.by) > maxAddresses+1 {
		t.Errorf("%d addresses are remembered", len(r.by))
	}
	now = now.Add(time.Hour)
	spend("from an address that is new after a flood", "192.0.2.9:1", 15, 10)
	none := NewRate(0)
	for range 1000 {
		if err := none.Take("192.0.2.1:1"); err != nil {
			t.Fatal(err)
		}
	}
}

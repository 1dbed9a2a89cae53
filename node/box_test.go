package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keystead/keystead"
)

// TestOneHostDoesNotFillTheBox has a host hand in large evidence again and again, each
// another's: that of others has room all the same, until so many hosts are at it that
// memory ends, and again when theirs is old.
func TestOneHostDoesNotFillTheBox(t *testing.T) {
	t.Parallel()
	var b box
	now := time.Now()
	large := make([]byte, 16<<20)
	put := func(host string, n byte, at time.Time) (keystead.Digest, error) {
		large[0], large[1] = n, host[len(host)-1]
		return b.put(host, append([]byte(nil), large...), at)
	}
	var last keystead.Digest
	for i := range 40 {
		d, err := put("bad", byte(i), now)
		if err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
		last = d
	}
	if _, here := b.get(last); !here || b.held != boxOfOne*len(large) || len(b.items) != boxOfOne {
		t.Errorf("%d bytes of %d bundles are held of one host, its last among them: %t", b.held, len(b.items), here)
	}
	var full error
	for i := 0; full == nil && i < 40; i++ {
		_, full = put(fmt.Sprintf("host-%c", 'a'+i), 0, now)
	}
	if !errors.Is(full, keystead.ReasonOverloaded) || b.held > boxBytes {
		t.Errorf("%d bytes, %v", b.held, full)
	}
	if _, err := put("host-z", 0, now.Add(boxAge+time.Second)); err != nil || len(b.items) != 1 || len(b.of) != 1 || len(b.order) != 1 || b.held != len(large) {
		t.Errorf("old evidence is kept: %d bundles, %d hosts, %d in order, %d bytes, %v", len(b.items), len(b.of), len(b.order), b.held, err)
	}
}

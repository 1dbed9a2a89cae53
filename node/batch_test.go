package node

import (
	"fmt"
	"testing"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/ledger"
)

// TestBatches takes what waits in batches: each host once, none beyond the bounds, and
// only what the bounds keep out makes a batch full, which the next follows at once.
func TestBatches(t *testing.T) {
	waits := func(host string, size int) *renewal {
		return &renewal{item: ledger.RenewalItem{Host: host}, asked: &apiv1.Renewal{Bundle: make([]byte, size)}}
	}
	many := func(n, size int) (out []*renewal) {
		for i := range n {
			out = append(out, waits(fmt.Sprintf("host-%05d", i), size))
		}
		return out
	}
	type batch struct {
		size int
		full bool
	}
	repeated := append([]*renewal{waits("a", batchBytes), waits("a", batchBytes)}, waits("b", 0))
	for _, c := range []struct {
		name    string
		waiting []*renewal
		want    []batch
	}{
		{"nothing", nil, []batch{{0, false}}},
		{"a few", many(3, 10), []batch{{3, false}, {0, false}}},
		{"as many as an entry has", many(ledger.MaxRenewals, 10), []batch{{ledger.MaxRenewals, false}, {0, false}}},
		{"more than an entry has", many(ledger.MaxRenewals+1, 10), []batch{{ledger.MaxRenewals, true}, {1, false}, {0, false}}},
		{"whole logs", many(5, batchBytes/2), []batch{{2, true}, {2, true}, {1, false}}},
		{"one larger than the bound", many(2, batchBytes+1), []batch{{1, true}, {1, false}}},
		{"one host again and again, another behind it", repeated, []batch{{2, false}, {1, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newRenewer(nil)
			b.add(c.waiting...)
			for i, want := range c.want {
				got, full := b.take()
				if len(got) != want.size || full != want.full {
					t.Errorf("batch %d: %d renewals, full %v; want %d, %v", i, len(got), full, want.size, want.full)
				}
			}
		})
	}
}

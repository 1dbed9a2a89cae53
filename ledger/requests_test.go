package ledger

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
)

func TestRequestsAreBounded(t *testing.T) {
	q := requests{buckets: map[uint64]map[[16]byte]uint64{}}
	r := RequestID{Deadline: 1500}
	if err := q.check(r, 1000); err != nil {
		t.Fatal(err)
	}
	q.add(r, 7)
	q.n += MaxRequests - 1
	if err := q.check(r, 1000); !errors.Is(err, keystead.ReasonOverloaded) {
		t.Errorf("want overloaded, got %v", err)
	}
	q.forget(1999)
	if leaf, found := q.find(r); !found || leaf != 7 {
		t.Error("forgotten before its second was over")
	}
	q.forget(2000)
	if err := q.check(RequestID{Deadline: 2500}, 2000); err != nil || q.n != MaxRequests-1 {
		t.Errorf("room was not given back: %v, %d", err, q.n)
	}
}

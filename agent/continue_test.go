package agent

import (
	"slices"
	"testing"

	"github.com/keystead/keystead"
)

// renewals are what was asked for since a moment, and accepted or not: c for a
// continuation, w for the whole logs, in capitals if it was accepted.
func (d *domain) renewalsFrom(n int) (word string) {
	for _, a := range d.asked[min(n, len(d.asked)):] {
		letter := map[bool]string{true: "c", false: "w"}[a.continues]
		if a.accepted {
			letter = map[bool]string{true: "C", false: "W"}[a.continues]
		}
		word += letter
	}
	return word
}

// awaitRenewals waits for so many renewals asked for from a moment on.
func (d *domain) awaitRenewals(from, count int) (word string) {
	d.t.Helper()
	d.await("renewals", func() bool { word = d.renewalsFrom(from); return len(word) >= count })
	return word[:count]
}

// frugal demands that no nonce was answered more often than by a continuation and the
// whole.
func (d *domain) frugal() {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	by := map[uint64]int{}
	for _, a := range d.asked {
		if by[a.tick]++; by[a.tick] > 2 {
			d.t.Errorf("%d requests under one nonce", by[a.tick])
		}
	}
}

func fast(c *Config) { c.Evidence.IntervalMS = 100 }

// TestAgentContinues: it sends what its logs have gained; nodes that lost what they had
// replayed are sent the whole once, within the same attempt.
func TestAgentContinues(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, fast)
	d.enrol(a)
	d.phase(a, Admitted)
	if got := d.awaitRenewals(0, 3); got != "CCC" {
		t.Errorf("asked for %s", got)
	}
	var from int
	d.set(func() { d.kept, from = nil, len(d.asked) })
	if got := d.awaitRenewals(from, 4); got != "cWCC" {
		t.Errorf("after the nodes lost what they had: %s", got)
	}
	d.phase(a, Admitted)
	d.frugal()
}

// TestNodesThatAlwaysDoubt has nodes say of every continuation that they have other logs:
// the host sends the whole, once an attempt, and keeps its lease.
func TestNodesThatAlwaysDoubt(t *testing.T) {
	t.Parallel()
	for _, reason := range []keystead.Reason{keystead.ReasonLogUnknown, keystead.ReasonPairMissing, keystead.ReasonVerdictDisagreement} {
		d, m := newDomain(t)
		d.doubts = func(continues bool) error {
			if continues {
				return keystead.Deny(keystead.Finding{Reason: reason})
			}
			return nil
		}
		a := d.start(m, fast)
		d.enrol(a)
		d.phase(a, Admitted)
		if got := d.awaitRenewals(0, 6); got != "cWcWcW" {
			t.Errorf("%s: asked for %s", reason, got)
		}
		d.phase(a, Admitted)
		d.frugal()
	}
}

// TestNodesThatTakeNoLogs has nodes refuse the whole logs in the same way: that is the end
// of the attempt, and of the lease, which is asked for anew.
func TestNodesThatTakeNoLogs(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	d.doubts = func(bool) error { return keystead.Deny(keystead.Finding{Reason: keystead.ReasonLogUnknown}) }
	a := d.start(m, fast)
	d.enrol(a)
	if got := d.awaitRenewals(0, 4); got != "cwcw" {
		t.Errorf("asked for %s", got)
	}
	d.await("admissions between the renewals", func() bool {
		return len(d.proofs) > 1 && !slices.ContainsFunc(d.proofs, func(p string) bool { return p != "admission" })
	})
	d.frugal()
}

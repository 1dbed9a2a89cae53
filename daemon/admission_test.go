package daemon_test

import (
	"testing"

	"github.com/keystead/keystead"
)

// TestAdmission has three nodes admit a host, renew its lease, and end it when the host
// goes bad.
func TestAdmission(t *testing.T) {
	f := newField(t, 3, "trust-disks=true")
	h := f.host("web-1")
	if err := f.enrol("web-1", h.ek); err != nil {
		t.Fatal(err)
	}
	a, err := h.admit()
	if err != nil {
		t.Fatal(err)
	}
	if l := a.GetLease(); l.GetHost() != "web-1" || l.GetAssurance() != "test" || l.GetSuspended() != nil || l.GetUntilMs() <= l.GetIssuedMs() {
		t.Errorf("%v", l)
	}
	if _, err := f.prove(a.GetLeaf()); err != nil {
		t.Error(err)
	}
	r, err := h.renew()
	if err != nil {
		t.Fatal(err)
	}
	if r.GetLease().GetVersion() != a.GetLease().GetVersion() {
		t.Errorf("renewed %v of %v", r.GetLease(), a.GetLease())
	}
	if _, err := f.prove(r.GetLeaf()); err != nil {
		t.Error(err)
	}
	h.goBad()
	_, err = h.renew()
	demand(t, "a renewal after going bad", err, keystead.ReasonFileAltered)
}

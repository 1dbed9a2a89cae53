package node_test

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/evidence"
)

// gained renews by what the host's logs have gained since the nodes saw them.
func (h *host) gained(from *apiv1.Replayed) (*apiv1.RenewResponse, error) {
	raw, tick, err := h.answer(evidence.PurposeRenewal)
	if err != nil {
		return nil, err
	}
	whole, err := evidence.Parse(raw)
	if err != nil {
		return nil, err
	}
	reference := evidence.Reference{EventLog: keystead.Digest(from.GetEventLog()), IMALog: keystead.Digest(from.GetImaLog()), Bytes: from.GetBytes(),
		Entries: from.GetEntries(), Packages: keystead.Digest(from.GetPackages())}
	b, err := evidence.Continue(whole.Parts(), reference)
	if err != nil {
		return nil, err
	}
	if len(b.Bytes()) >= len(raw)/4 {
		h.f.t.Errorf("a continuation of %d bytes, the whole has %d", len(b.Bytes()), len(raw))
	}
	return h.api.Renew(h.f.ctx, &apiv1.RenewRequest{Host: h.name, Bundle: b.Bytes(), Tick: tick})
}

// TestRenewalContinues has a host renew by what its logs have gained, over and over. What
// the nodes do not have they ask for, and hold nothing against the host; when it goes
// bad, its new entry alone ends the lease.
func TestRenewalContinues(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	h, a := f.admitted("web-1")
	from := a.GetReplayed()
	if from.GetBytes() == 0 {
		t.Fatalf("nothing to go on from: %v", a)
	}
	for range 2 {
		r, err := h.gained(from)
		if err != nil {
			t.Fatal(err)
		}
		from = r.GetReplayed()
	}
	other := &apiv1.Replayed{EventLog: from.GetEventLog(), ImaLog: from.GetEventLog(), Bytes: from.GetBytes(), Entries: from.GetEntries(), Packages: from.GetPackages()}
	if _, err := h.gained(other); !errors.Is(err, keystead.ReasonLogUnknown) {
		t.Errorf("a continuation of other logs: %v", err)
	}
	r, err := h.renew() // the whole, and the lease still stands
	if err != nil {
		t.Fatal(err)
	}
	h.everywhere()
	h.goBad()
	if _, err := h.gained(r.GetReplayed()); !errors.Is(err, keystead.ReasonFileAltered) {
		t.Errorf("an altered file among what is new: %v", err)
	}
	h.refusedByAll(keystead.ReasonLeaseSuspended)
}

// TestAdmissionIsWhole: whoever asks to be admitted shows all.
func TestAdmissionIsWhole(t *testing.T) {
	t.Parallel()
	f := newField(t, 1, "trust-disks=true")
	h, a := f.admitted("web-1")
	raw, tick, err := h.answer(evidence.PurposeAdmission)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := evidence.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	from := a.GetReplayed()
	b, err := evidence.Continue(whole.Parts(), evidence.Reference{EventLog: keystead.Digest(from.GetEventLog()), IMALog: keystead.Digest(from.GetImaLog()),
		Bytes: from.GetBytes(), Entries: from.GetEntries(), Packages: keystead.Digest(from.GetPackages())})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.Admit(f.ctx, &apiv1.AdmitRequest{Host: h.name, Bundle: b.Bytes(), Tick: tick}); !errors.Is(err, keystead.ReasonLogUnknown) {
		t.Errorf("an admission by a continuation: %v", err)
	}
}

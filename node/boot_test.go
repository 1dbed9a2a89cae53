package node_test

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/recording"
)

// boots has a machine whose registers began anew go through the recorded boot.
func (h *host) boots(err error) {
	h.f.t.Helper()
	if err != nil {
		h.f.t.Fatal(err)
	}
	h.phase = 0
	h.f.replay(h.rig, 0)
}

// readmitted asks to be admitted until the evidence is from after the suspension.
func (h *host) readmitted() {
	h.f.t.Helper()
	for {
		_, err := h.admit()
		if err == nil {
			return
		}
		if !errors.Is(err, keystead.ReasonLeaseSuspended) || h.f.ctx.Err() != nil {
			h.f.t.Fatal(err)
		}
	}
}

// enrolAgain has members enrol the same machine under the same name.
func (h *host) enrolAgain() {
	h.f.t.Helper()
	e := admit.Enrolment{Domain: h.f.digest, Host: h.name, Base: h.f.version(admit.TypeEnrolment, h.name), Role: admit.RoleHost, EK: h.ek}
	text, err := e.Text()
	if err == nil {
		err = h.f.decree(admit.TypeEnrolment, h.name, text)
	}
	if err != nil {
		h.f.t.Fatal(err)
	}
}

// TestBoots takes a host's TPM through sleep, reboots, a snapshot that is put back and
// TPM2_Clear. Three nodes judge it, and every watcher is told what it was,
// whether it asked for renewals or not, under the same ids.
func TestBoots(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	h, _ := f.admitted("web-1")
	renewed := func() {
		t.Helper()
		if _, err := h.renew(); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, reason keystead.Reason) {
		t.Helper()
		_, err := h.renew()
		demand(t, what, err, reason)
	}
	snapshot, err := h.process.Snapshot(f.ctx) // and wakes
	if err != nil {
		t.Fatal(err)
	}
	renewed()
	renewed()
	if err := h.process.SetClock(f.ctx, 3600_000); err != nil {
		t.Fatal(err)
	}
	renewed()
	if err := h.process.Restore(f.ctx, snapshot); err != nil {
		t.Fatal(err)
	}
	refused("an older state of the TPM", keystead.ReasonTPMRolledBack)
	h.boots(h.process.Restart(f.ctx))
	h.readmitted()
	h.boots(h.process.Restart(f.ctx))
	refused("a reboot", keystead.ReasonBootChanged)
	h.readmitted()
	if err := h.process.Clear(f.ctx); err != nil {
		t.Fatal(err)
	}
	refused("a cleared TPM", keystead.ReasonTPMCleared)
	f.suspended("web-1")
	for err = keystead.ReasonLeaseSuspended; errors.Is(err, keystead.ReasonLeaseSuspended); {
		_, err = h.admit()
	}
	demand(t, "a cleared TPM that wants to be admitted", err, keystead.ReasonTPMCleared)
	h.enrolAgain()
	h.readmitted()

	want := []string{"admitted", "renewed", "resumed", "renewed", "renewed", "suspended tpm-rolled-back", "admitted", "rebooted", "suspended boot-changed", "admitted", "rebooted",
		"suspended tpm-cleared", "admitted", "tpm-cleared"}
	ids := map[string]string{}
	for _, node := range []string{"n1", "n3"} {
		for _, renewals := range []bool{true, false} {
			expected := slices.DeleteFunc(slices.Clone(want), func(e string) bool { return e == "renewed" && !renewals })
			events, _ := f.watched(node, &apiv1.WatchHostsRequest{Renewals: renewals, AfterMs: 1}, len(expected))
			var got []string
			for _, e := range events {
				word := e.GetEvent()
				if word == "suspended" {
					why := e.GetBecause().GetFindings()[0].GetGot() // "suspended by n2: denied: REASON: ..."
					word += " " + strings.Split(why, ": ")[2]
				}
				got = append(got, word)
				if was := ids[e.GetId()]; was != "" && was != word {
					t.Errorf("%s is %s and %s", e.GetId(), was, word)
				}
				ids[e.GetId()] = word
				if e.GetHost() != "web-1" || e.GetLeaseVersion() == 0 {
					t.Errorf("%v", e)
				}
			}
			if !slices.Equal(got, expected) {
				t.Errorf("%s tells, with renewals %t,\n%q, want\n%q", node, renewals, got, expected)
			}
		}
	}
}

// TestKexecLosesTheLog starts another kernel without the firmware: host and members hear
// that the log was lost, at the next renewal and when it connects anew.
func TestKexecLosesTheLog(t *testing.T) {
	t.Parallel()
	f := newField(t, 1, "trust-disks=true")
	h, _ := f.admitted("web-1")
	log := f.rec.Phases[0].IMALog
	n, err := recording.PrefixSize(log, 1)
	if err != nil {
		t.Fatal(err)
	}
	again := *f.rec // the new kernel's boot_aggregate
	again.EventLog, again.Phases = f.rec.EventLog[:32+int(f.rec.EventLog[28])], []recording.Phase{{IMALog: log[:n]}}
	if err := again.Replay(0, func(pcr int, d map[evidence.Bank][]byte) error { return h.tpm.Extend(f.ctx, pcr, d) }); err != nil {
		t.Fatal(err)
	}
	shown := *f.rec
	shown.Phases = []recording.Phase{{IMALog: log[:n]}}
	lost := *f
	lost.rec = &shown
	h.f = &lost
	_, err = h.renew()
	demand(t, "a renewal after kexec", err, keystead.ReasonLogLost)
	f.suspended("web-1")
	anew := f.hostOn("web-1", h.rig)
	anew.f = &lost
	demand(t, "a connection after kexec", anew.connect(), keystead.ReasonLogLost)
	h.f = f
	h.boots(h.process.Restart(f.ctx))
	h.readmitted()
}

// TestHostThatNeverContinues has a host say again and again that it goes on from what no
// node has, and then send the whole, under one nonce: one whole log a nonce is replayed, no
// state piles up, and the lease stands.
func TestHostThatNeverContinues(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	h, a := f.admitted("web-1")
	from := a.GetReplayed()
	lie := &apiv1.Replayed{EventLog: from.GetImaLog(), ImaLog: from.GetEventLog(), Bytes: from.GetBytes(), Entries: from.GetEntries(), Packages: from.GetPackages()}
	for range 3 {
		_, err := h.gained(lie)
		demand(t, "a continuation of nothing", err, keystead.ReasonLogUnknown)
	}
	raw, tick, err := h.answer(evidence.PurposeRenewal)
	if err != nil {
		t.Fatal(err)
	}
	request := &apiv1.RenewRequest{Host: h.name, Bundle: raw, Tick: tick}
	r, err := h.api.Renew(f.ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_, err := h.api.Renew(f.ctx, request)
		demand(t, "the whole, again", err, keystead.ReasonRenewalReplayed)
	}
	if _, err := h.gained(r.GetReplayed()); err != nil {
		t.Errorf("an honest continuation afterwards: %v", err)
	}
}

// TestRestartedNodesAskOnce restarts all nodes of a domain: a host's next continuation is
// one of logs that nobody has, it sends the whole once, and goes on from there.
func TestRestartedNodesAskOnce(t *testing.T) {
	t.Parallel()
	f := newField(t, 1, "trust-disks=true")
	h, a := f.admitted("web-1")
	if err := f.end(0, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f.start(0)
	f.whole(0)
	h = f.hostAgain(h)
	if err := h.connect(); err != nil {
		t.Fatal(err)
	}
	_, err := h.gained(a.GetReplayed())
	demand(t, "a continuation, after the restart", err, keystead.ReasonLogUnknown)
	r, err := h.renew()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r, err = h.gained(r.GetReplayed()); err != nil {
			t.Fatal(err)
		}
	}
}

// hostAgain is the same host on connections of its own.
func (f *field) hostAgain(h *host) *host {
	again := f.hostOn(h.name, h.rig)
	again.cert, again.phase, again.tick = h.cert, h.phase, h.tick
	return again
}

package admit_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/internal/recording"
)

// life is a machine that is admitted as web-1, and what becomes of it.
type life struct {
	*state
	*machine
	lease admit.Lease
}

func newLife(t *testing.T) *life {
	t.Helper()
	l := &life{state: newDomain(t), machine: start(t, newMachine)}
	must(t, l.enrol("web-1", l.id, false))
	l.lease = l.admitted(l.machine, "web-1")
	return l
}

// renewal shows evidence a second later; what is renewed is on the ledger.
func (l *life) renewal(edit ...func(*evidence.Parts)) (admit.Decision, error) {
	l.t.Helper()
	l.clock += 1000
	d, err := admit.Renew(l, l.apply(l.machine, "web-1", evidence.PurposeRenewal, edit...))
	if r, ok := d.Renewal(); ok {
		l.renewals["web-1"] = r
	}
	return d, err
}

func (l *life) admission(edit ...func(*evidence.Parts)) (admit.Decision, error) {
	l.t.Helper()
	l.clock += 1000
	return admit.Decide(l, l.apply(l.machine, "web-1", evidence.PurposeAdmission, edit...))
}

// ended demands that a renewal is refused for a reason, which ends the lease.
func (l *life) ended(what string, reason keystead.Reason, edit ...func(*evidence.Parts)) {
	l.t.Helper()
	d, err := l.renewal(edit...)
	demand(l.t, what, err, reason)
	if !d.Against() {
		l.t.Errorf("%s does not end the lease", what)
	}
}

// barred demands that a renewal and an admission are refused.
func (l *life) barred(what string, reason keystead.Reason, edit ...func(*evidence.Parts)) {
	l.t.Helper()
	l.ended(what, reason, edit...)
	d, err := l.admission(edit...)
	demand(l.t, what+", and an admission", err, reason)
	if !d.Against() {
		l.t.Errorf("%s: an admission that is refused does not end the lease", what)
	}
}

// again has it admitted, and returns what the watchers are told of it.
func (l *life) again() []string {
	l.t.Helper()
	was := l.lease.Boot()
	l.clock += 1000
	l.lease = l.admitted(l.machine, "web-1")
	return l.lease.Boot().Since(was)
}

func (l *life) tells(want ...string) {
	l.t.Helper()
	if got := l.again(); !slices.Equal(got, want) {
		l.t.Errorf("told %q, want %q", got, want)
	}
}

// boots replays the recorded boot into registers that started anew.
func (l *life) boots(err error) {
	l.t.Helper()
	must(l.t, err)
	l.phase = -1
	must(l.t, l.next(context.Background()))
}

// TestReboot: an orderly one, and one without an end, after which the clock may be behind.
func TestReboot(t *testing.T) {
	ctx, l := context.Background(), newLife(t)
	if b := l.lease.Boot(); b.Resets == 0 || b.Clock == 0 || b.Firmware == 0 || b.Unsafe || b.LogBytes != uint64(len(record().Phases[0].IMALog)) || b.Log != keystead.Sum(record().Phases[0].IMALog) {
		t.Errorf("admitted in boot %+v", b)
	}
	l.boots(l.process.Restart(ctx))
	l.ended("a reboot", keystead.ReasonBootChanged)
	l.tells("rebooted")
	l.boots(l.process.Crash(ctx))
	l.ended("a loss of power", keystead.ReasonBootChanged)
	for { // the clock is safe again when it is past what may have been stated: here, within four seconds
		told := l.again()
		if slices.Equal(told, []string{"rebooted", "clock-unsafe"}) && l.lease.Boot().Unsafe {
			return
		}
		if !slices.Equal(told, []string{"rebooted"}) || l.lease.Boot().Unsafe {
			t.Fatalf("told %q of %+v", told, l.lease.Boot())
		}
		l.boots(l.process.Crash(ctx))
	}
}

// TestSleep: registers are kept, and so is the lease; it is noted once.
func TestSleep(t *testing.T) {
	ctx, l := context.Background(), newLife(t)
	for range 2 {
		must(t, l.process.Suspend(ctx))
		for _, resumed := range []bool{true, false} {
			d, err := l.renewal()
			must(t, err)
			if r, _ := d.Renewal(); r.Resumed != resumed || r.Clock == 0 || r.Restarts == 0 {
				t.Errorf("the renewal is %+v, want resumed %t", r, resumed)
			}
		}
	}
	l.tells("resumed")
	if b := l.lease.Boot(); b.Restarts != 2 {
		t.Errorf("in boot %+v", b)
	}
}

// TestBootFromSavedState: the TPM counts no reset, and yet its registers and the log began
// anew. The log tells it from sleep.
func TestBootFromSavedState(t *testing.T) {
	ctx, l := context.Background(), newLife(t)
	must(t, l.process.Hibernate(ctx))
	other, err := recording.Load(recording.Committed())
	must(t, err)
	raw := other.Phases[0].IMALog
	var at [4]int // where the first entries begin
	for i := range at {
		at[i], err = recording.PrefixSize(raw, i)
		must(t, err)
	}
	swapped := slices.Concat(raw[:at[1]], raw[at[2]:at[3]], raw[at[1]:at[2]], raw[at[3]:]) // another order, as of another boot
	other.Phases[0].IMALog = swapped
	must(t, other.Replay(0, func(pcr int, d map[evidence.Bank][]byte) error { return l.tpm.Extend(ctx, pcr, d) }))
	l.ended("a boot from a saved state", keystead.ReasonBootChanged, func(p *evidence.Parts) { p.IMALog = swapped })
	d, err := l.admission(func(p *evidence.Parts) { p.IMALog = swapped })
	must(t, err)
	if r, _ := d.Record(); r.Boot.Resets != l.lease.Boot().Resets || r.Boot.Log == l.lease.Boot().Log {
		t.Errorf("admitted in boot %+v", r.Boot)
	}
}

// TestBootWithoutALog: where the admission left no log to compare, as of a quote of a bank whose
// hash the kernel lacks, which the host chooses, any restart ends the lease.
func TestBootWithoutALog(t *testing.T) {
	ctx, l := context.Background(), newLife(t)
	v := l.judged[admit.LeaseKey("web-1")]
	r, err := admit.ParseRecord(v.Data)
	must(t, err)
	r.Boot.LogBytes, r.Boot.Log = 0, keystead.Digest{}
	v.Data = r.Bytes()
	l.judged[admit.LeaseKey("web-1")] = v
	_, err = l.renewal()
	must(t, err)
	must(t, l.process.Suspend(ctx))
	l.ended("a restart", keystead.ReasonBootChanged)
	l.tells("resumed")
	_, err = l.renewal()
	must(t, err)
}

// TestCleared: a TPM that counts anew is held out until members enrol it again. Its keys
// come of the endorsement seed, which TPM2_Clear leaves alone: they are the same ones.
func TestCleared(t *testing.T) {
	ctx, l := context.Background(), newLife(t)
	must(t, l.process.SetClock(ctx, 3600_000))
	_, err := l.renewal()
	must(t, err)
	name := l.key.Name
	must(t, l.process.Clear(ctx))
	must(t, l.activate(ctx))
	if !bytes.Equal(name, l.key.Name) {
		t.Error("a cleared TPM has another attestation key")
	}
	l.barred("a cleared TPM", keystead.ReasonTPMCleared)
	l.boots(l.process.Restart(ctx))
	l.barred("a cleared TPM that booted", keystead.ReasonTPMCleared)
	l.boots(l.process.Restart(ctx))
	l.barred("a cleared TPM that booted as often as before", keystead.ReasonTPMRolledBack)
	must(t, l.enrol("web-1", l.id, false))
	l.tells()
	must(t, l.process.Clear(ctx))
	l.barred("cleared again", keystead.ReasonTPMCleared)
	must(t, l.enrol("web-1", l.id, false))
	l.tells("tpm-cleared")
}

// TestRolledBack puts a snapshot of the machine in place of what it became, as the owner
// of a virtual machine can. What was seen in between is on the ledger, so no node has to
// remember it.
func TestRolledBack(t *testing.T) {
	ctx, l := context.Background(), newLife(t)
	snapshot, err := l.process.Snapshot(ctx)
	must(t, err)
	d, err := l.renewal()
	must(t, err)
	if r, _ := d.Renewal(); !r.Resumed {
		t.Error("waking from a snapshot is not noted")
	}
	must(t, l.process.SetClock(ctx, 7200_000))
	_, err = l.renewal()
	must(t, err)
	must(t, l.process.Restore(ctx, snapshot))
	l.barred("an older state of the TPM", keystead.ReasonTPMRolledBack)
	must(t, l.process.SetClock(ctx, 7300_000)) // its owner may set the clock forward: what was seen is all that holds
	_, err = l.renewal()
	must(t, err)
	must(t, l.process.Restore(ctx, snapshot))
	l.boots(l.process.Restart(ctx))
	l.tells("rebooted")
}

// TestFirmwareChanged has another version of the TPM's firmware speak, and TPMs state
// counters and clocks as no genuine one would.
func TestFirmwareChanged(t *testing.T) {
	s, m, f := newDomain(t), start(t, web), forger.New(9)
	must(t, s.enrol("web-1", m.id, false))
	ak, err := tpm2.ParsePublic(f.Public())
	must(t, err)
	at := forger.Time{Resets: 4, Restarts: 1, Clock: 1_000_000, Firmware: 0x0007000200010000}
	apply := func(purpose string, at forger.Time) admit.Application {
		a := s.apply(m, "web-1", purpose, func(p *evidence.Parts) {
			banks, err := p.TPM.PCRBanks()
			must(t, err)
			quoted := f.QuoteAt(p.Binding, at, banks...)
			quoted.EKPublic, quoted.EKCertificate = p.TPM.EKPublic, p.TPM.EKCertificate
			p.TPM = quoted
		})
		a.Key = appraise.AcceptedKey{Name: ak.Name(), EKPublic: m.key.EKPublic, EKCertificate: m.key.EKCertificate, Activated: m.key.Activated}
		return a
	}
	d, err := admit.Decide(s, apply(evidence.PurposeAdmission, at))
	must(t, err)
	s.take(admit.TypeLease, "web-1", d.Ruling())
	was, err := admit.Current(s, "web-1")
	must(t, err)
	later := func(edit func(*forger.Time)) forger.Time { x := at; x.Clock++; edit(&x); return x }
	for _, tc := range []struct {
		what  string
		at    forger.Time
		renew []keystead.Reason
		admit []keystead.Reason
	}{
		{"later", later(func(*forger.Time) {}), nil, nil},
		{"another version", later(func(x *forger.Time) { x.Firmware++ }), []keystead.Reason{keystead.ReasonFirmwareChanged}, nil},
		{"another version after a reboot", later(func(x *forger.Time) { x.Firmware++; x.Resets, x.Restarts = 5, 0 }), []keystead.Reason{keystead.ReasonBootChanged, keystead.ReasonFirmwareChanged}, nil},
		{"a millisecond before", later(func(x *forger.Time) { x.Clock -= 2 }), []keystead.Reason{keystead.ReasonTPMRolledBack}, []keystead.Reason{keystead.ReasonTPMRolledBack}},
		{"fewer restarts", later(func(x *forger.Time) { x.Restarts = 0 }), []keystead.Reason{keystead.ReasonTPMRolledBack}, []keystead.Reason{keystead.ReasonTPMRolledBack}},
		{"fewer resets and another version", later(func(x *forger.Time) { x.Resets, x.Firmware = 3, 1 }), []keystead.Reason{keystead.ReasonTPMCleared}, []keystead.Reason{keystead.ReasonTPMCleared}},
	} {
		s.clock += 1000
		_, err := admit.Renew(s, apply(evidence.PurposeRenewal, tc.at))
		demand(t, tc.what, err, tc.renew...)
		d, err := admit.Decide(s, apply(evidence.PurposeAdmission, tc.at))
		demand(t, tc.what+", and an admission", err, tc.admit...)
		if r, ok := d.Record(); ok && r.Boot.Firmware != was.Boot().Firmware && !slices.Contains(r.Boot.Since(was.Boot()), "firmware-changed") {
			t.Errorf("%s: watchers are not told", tc.what)
		}
	}
}

// TestKexec starts another kernel without the firmware, which loses the log of the one
// before: the machine is held out until it boots by its firmware.
func TestKexec(t *testing.T) {
	ctx, l := context.Background(), newLife(t)
	log := record().Phases[0].IMALog
	n, err := recording.PrefixSize(log, 1)
	must(t, err)
	kernel, err := recording.Load(recording.Committed()) // adds its boot_aggregate, and measures nothing else
	must(t, err)
	header := kernel.EventLog[:32+int(kernel.EventLog[28])]
	next := recording.Recording{EventLog: header, Phases: []recording.Phase{{IMALog: log[:n]}}}
	must(t, next.Replay(0, func(pcr int, d map[evidence.Bank][]byte) error { return l.tpm.Extend(ctx, pcr, d) }))
	anew := func(p *evidence.Parts) { p.IMALog = log[:n] }
	l.barred("kexec", keystead.ReasonLogLost, anew)
	l.boots(l.process.Restart(ctx))
	l.tells("rebooted")
}

// TestEarlyRecord: a record of version 1 is read as it was written, and its lease goes on.
func TestEarlyRecord(t *testing.T) {
	l := newLife(t)
	v, err := l.Judged(admit.LeaseKey("web-1"))
	must(t, err)
	r, err := admit.ParseRecord(v.Data)
	must(t, err)
	early := firstVersion(&r)
	again, err := admit.ParseRecord(early)
	must(t, err)
	if again.Boot != (appraise.Boot{Resets: r.Boot.Resets}) || !bytes.Equal(again.Bytes(), early) || again.Verdict != r.Verdict || len(again.Denials) != len(r.Denials) {
		t.Errorf("read as %+v", again)
	}
	l.judged[admit.LeaseKey("web-1")] = admit.Value{Version: v.Version, Data: early}
	d, err := l.renewal()
	must(t, err)
	if x, _ := d.Renewal(); x.Clock == 0 {
		t.Errorf("the renewal is %+v", x)
	}
	must(t, l.process.Suspend(context.Background()))
	d, err = l.renewal()
	must(t, err)
	if x, _ := d.Renewal(); !x.Resumed {
		t.Errorf("the renewal is %+v", x)
	}
	l.boots(l.process.Restart(context.Background()))
	l.ended("a reboot", keystead.ReasonBootChanged)
}

// firstVersion is a record as builds of before wrote it.
func firstVersion(r *admit.Record) []byte {
	const more = 4 + 8 + 1 + 8 + 8 + 32
	b := r.Bytes()
	tail := 2 // of denials
	for _, d := range r.Denials {
		tail += 2 + len(d)
	}
	b = slices.Delete(b, len(b)-tail-more, len(b)-tail)
	b[0] = 1
	return b
}

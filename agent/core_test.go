package agent

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// world is a core on a clock of its own.
type world struct {
	*testing.T
	*Core
	at Moment
}

func newWorld(t *testing.T, interval time.Duration) *world {
	return &world{t, NewCore(Timing{Interval: interval}, rand.New(rand.NewPCG(1, 2))), Moment(time.Hour)}
}

// wants demands that exactly this is to be done.
func (w *world) wants(got, want Ready) {
	w.Helper()
	if got != want {
		w.Fatalf("at %v: want %+v, got %+v", time.Duration(w.at), want, got)
	}
}

// admit goes through an admission at once.
func (w *world) admit(holds time.Duration) {
	w.Helper()
	w.wants(w.Step(w.at), Ready{Prove: evidence.PurposeAdmission})
	w.wants(w.Proved(w.at, Lease{Host: "h", Version: 1, Asked: w.at, Holds: holds}), Ready{})
}

// next goes to when the core has something to do.
func (w *world) next() Ready {
	w.Helper()
	w.at = w.Next()
	return w.Step(w.at)
}

func (w *world) lacks(reason keystead.Reason, phase Phase) {
	w.Helper()
	_, err := w.Lease(w.at)
	var denied *keystead.DenyError
	if !errors.As(err, &denied) || len(denied.Findings) != 1 || denied.Findings[0].Reason != reason {
		w.Errorf("want %s, got %v", reason, err)
	}
	if got, _ := w.Phase(); got != phase {
		w.Errorf("want phase %s, got %s", phase, got)
	}
	if w.Exposure(w.at) != 0 {
		w.Errorf("exposure without a lease: %v", w.Exposure(w.at))
	}
}

func refused(r keystead.Reason) error { return keystead.Deny(keystead.Finding{Reason: r}) }

func TestRenewsAtAThirdOfTheLease(t *testing.T) {
	w := newWorld(t, 0)
	w.lacks(keystead.ReasonLeaseUnknown, Starting)
	w.admit(time.Minute)
	began := w.at
	if got := w.Exposure(w.at); got != 80*time.Second {
		t.Errorf("exposure %v, want an interval of 20 s and a lease of a minute", got)
	}
	w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
	if after := w.at.Sub(began); after < 18*time.Second || after > 20*time.Second {
		t.Errorf("renewed after %v", after)
	}
	asked := w.at
	w.at = w.at.Add(3 * time.Second)
	w.wants(w.Proved(w.at, Lease{Host: "h", Version: 1, Asked: asked, Holds: time.Minute}), Ready{})
	if l, err := w.Lease(w.at); err != nil || l.End() != asked.Add(time.Minute) {
		t.Errorf("the lease is not counted from before the nonce was asked for: %v, %v", l, err)
	}
}

func TestConfiguredIntervalIsBounded(t *testing.T) {
	w := newWorld(t, 5*time.Second)
	w.admit(time.Minute)
	if w.Interval() != 5*time.Second {
		t.Errorf("got %v", w.Interval())
	}
	w = newWorld(t, time.Hour)
	w.admit(time.Minute)
	if w.Interval() != 30*time.Second {
		t.Errorf("an interval longer than the lease: got %v", w.Interval())
	}
}

func TestSilenceEndsTheLease(t *testing.T) {
	w := newWorld(t, 0)
	w.admit(10 * time.Second)
	end := w.at.Add(10 * time.Second)
	for attempts := 0; ; attempts++ {
		r := w.next()
		if r.Close {
			w.wants(r, Ready{Close: true, Silent: true, Prove: r.Prove})
			if w.at != end || attempts < 2 {
				t.Errorf("closed %v after the end, after %d attempts", w.at.Sub(end), attempts)
			}
			break
		}
		w.wants(r, Ready{Prove: evidence.PurposeRenewal})
		w.wants(w.Failed(w.at, refused(keystead.ReasonNoQuorum)), Ready{})
		if _, err := w.Lease(w.at); err != nil {
			t.Fatalf("silence ended the lease before its time: %v", err)
		}
	}
	w.lacks(keystead.ReasonLeaseExpired, Unavailable)
}

// TestSleep lets the machine sleep beyond the lease.
func TestSleep(t *testing.T) {
	w := newWorld(t, 0)
	w.admit(time.Minute)
	w.at = w.at.Add(time.Hour)
	if _, err := w.Lease(w.at); !errors.Is(err, keystead.ReasonLeaseExpired) {
		t.Errorf("before the core looked: %v", err)
	}
	w.wants(w.Step(w.at), Ready{Close: true, Prove: evidence.PurposeAdmission})
}

// TestRefusalAfterSilence drops what was held on.
func TestRefusalAfterSilence(t *testing.T) {
	w := newWorld(t, 0)
	w.admit(10 * time.Second)
	w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
	w.at = w.at.Add(10 * time.Second)
	w.wants(w.Step(w.at), Ready{Close: true, Silent: true}) // the attempt is under way still
	w.wants(w.Failed(w.at, refused(keystead.ReasonNoQuorum)), Ready{})
	w.wants(w.next(), Ready{Prove: evidence.PurposeAdmission})
	w.wants(w.Failed(w.at, refused(keystead.ReasonFileAltered)), Ready{Close: true})
}

func TestOwnTroubleIsNotSilence(t *testing.T) {
	w := newWorld(t, 0)
	w.admit(10 * time.Second)
	w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
	w.wants(w.Failed(w.at, errors.New("the TPM does not answer")), Ready{})
	w.at = w.at.Add(10 * time.Second)
	if r := w.Step(w.at); !r.Close || r.Silent {
		t.Errorf("keys would be held on though the domain could be reached: %+v", r)
	}
}

func TestRefusalEndsTheLeaseAtOnce(t *testing.T) {
	for _, tc := range []struct {
		said, then keystead.Reason
		phase      Phase
	}{
		{keystead.ReasonFileAltered, keystead.ReasonLeaseSuspended, Suspended},
		{keystead.ReasonLeaseSuspended, keystead.ReasonLeaseSuspended, Suspended},
		{keystead.ReasonBootChanged, keystead.ReasonBootChanged, Refused},
		{keystead.ReasonTPMCleared, keystead.ReasonTPMCleared, Refused},
		{keystead.ReasonTPMRolledBack, keystead.ReasonTPMRolledBack, Refused},
		{keystead.ReasonFirmwareChanged, keystead.ReasonFirmwareChanged, Refused},
		{keystead.ReasonLogLost, keystead.ReasonLeaseSuspended, Suspended},
		{keystead.ReasonLeaseUnknown, keystead.ReasonLeaseUnknown, Refused},
		{keystead.ReasonLeaseExpired, keystead.ReasonLeaseExpired, Refused},
		{keystead.ReasonHostRevoked, keystead.ReasonHostRevoked, Refused},
		{keystead.ReasonHardwareDenied, keystead.ReasonHardwareDenied, Refused},
		{keystead.ReasonHostUnenrolled, keystead.ReasonHostUnenrolled, Unenrolled},
	} {
		w := newWorld(t, 0)
		w.admit(time.Minute)
		w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
		w.wants(w.Failed(w.at, refused(tc.said)), Ready{Close: true})
		w.lacks(tc.then, tc.phase)
		w.wants(w.next(), Ready{Prove: evidence.PurposeAdmission})

		w = newWorld(t, 0) // the same, said to another request
		w.admit(time.Minute)
		got := w.Told(w.at, refused(tc.said))
		if endsLease(refused(tc.said)) {
			w.wants(got, Ready{Close: true})
			w.lacks(tc.then, tc.phase)
			w.wants(w.next(), Ready{Prove: evidence.PurposeAdmission})
		} else {
			w.wants(got, Ready{})
		}
	}
}

// TestOldNonceEndsNothing has evidence arrive too late.
func TestOldNonceEndsNothing(t *testing.T) {
	w := newWorld(t, 0)
	w.admit(time.Minute)
	w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
	w.wants(w.Failed(w.at, refused(keystead.ReasonNonceExpired)), Ready{})
	w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
}

// TestEarlyEvidenceIsNoTrouble has evidence come faster than the domain's clock ticks: the
// lease stands, no problem is told, attempts get no rarer; and a lease that nothing
// prolongs ends as any other. Beside another reason it is trouble.
func TestEarlyEvidenceIsNoTrouble(t *testing.T) {
	w := newWorld(t, 500*time.Millisecond)
	w.admit(time.Minute)
	for range 5 {
		w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
		w.wants(w.Failed(w.at, refused(keystead.ReasonRenewalReplayed)), Ready{})
		if phase, problem := w.Phase(); phase != Admitted || problem != nil {
			t.Fatalf("%s, %v", phase, problem)
		}
		if next := w.Next().Sub(w.at); next < 450*time.Millisecond || next > 500*time.Millisecond {
			t.Errorf("the next attempt is in %v", next)
		}
	}
	w.wants(w.next(), Ready{Prove: evidence.PurposeRenewal})
	w.Failed(w.at, keystead.Deny(keystead.Finding{Reason: keystead.ReasonRenewalReplayed}, keystead.Finding{Reason: keystead.ReasonTimeout}))
	if _, problem := w.Phase(); problem == nil {
		t.Error("a refusal for two reasons is no problem")
	}
	lease, err := w.Lease(w.at)
	if err != nil {
		t.Fatal(err)
	}
	w.at = lease.End()
	if _, err := w.Lease(w.at); !errors.Is(err, keystead.ReasonLeaseExpired) {
		t.Errorf("at its end: %v", err)
	}
}

func TestLeaseThatWasOverBeforeItCame(t *testing.T) {
	w := newWorld(t, 0)
	w.wants(w.Step(w.at), Ready{Prove: evidence.PurposeAdmission})
	asked := w.at
	w.at = w.at.Add(time.Minute)
	w.wants(w.Proved(w.at, Lease{Asked: asked, Holds: time.Minute}), Ready{Close: true, Prove: evidence.PurposeAdmission})
	w.lacks(keystead.ReasonLeaseExpired, Unavailable)
}

func TestWaitsForEnrolment(t *testing.T) {
	w := newWorld(t, 0)
	w.wants(w.Step(w.at), Ready{Prove: evidence.PurposeAdmission})
	for range 20 {
		before := w.at
		w.wants(w.Failed(w.at, refused(keystead.ReasonHostUnenrolled)), Ready{Close: true})
		w.lacks(keystead.ReasonHostUnenrolled, Unenrolled)
		w.wants(w.next(), Ready{Prove: evidence.PurposeAdmission})
		if wait := w.at.Sub(before); wait < 4*time.Second || wait > 5*time.Second {
			t.Fatalf("asked again after %v", wait)
		}
	}
}

func TestAttemptsGetRarer(t *testing.T) {
	w := newWorld(t, 0)
	w.wants(w.Step(w.at), Ready{Prove: evidence.PurposeAdmission})
	last := time.Duration(0)
	for range 40 {
		before := w.at
		w.wants(w.Failed(w.at, refused(keystead.ReasonRuleFailed)), Ready{Close: true})
		w.wants(w.next(), Ready{Prove: evidence.PurposeAdmission})
		last = w.at.Sub(before)
	}
	if last < 13*time.Second || last > 15*time.Second {
		t.Errorf("after 40 refusals: %v", last)
	}
}

// TestRandomLives has a core meet random answers at random times: it never holds a
// lease beyond its time, never proves twice at once, and always goes on.
func TestRandomLives(t *testing.T) {
	answers := []error{nil, nil, nil, refused(keystead.ReasonNoQuorum), refused(keystead.ReasonFileAltered), refused(keystead.ReasonLeaseExpired), errors.New("TPM"), refused(keystead.ReasonHostUnenrolled)}
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, time.Duration(random.IntN(3))*10*time.Second)
		proving := false
		var asked, end Moment
		for range 300 {
			var r Ready
			switch n := random.IntN(4); {
			case n == 0 && proving:
				proving = false
				if err := answers[random.IntN(len(answers))]; err == nil {
					end = asked.Add(30 * time.Second)
					r = w.Proved(w.at, Lease{Asked: asked, Holds: 30 * time.Second})
				} else {
					r = w.Failed(w.at, err)
				}
			case n == 2:
				r = w.Told(w.at, answers[3+random.IntN(5)])
			default:
				if w.at = w.at.Add(time.Duration(random.IntN(8000)) * time.Millisecond); random.IntN(2) == 0 {
					w.at = max(w.at, min(w.Next(), w.at.Add(time.Hour)))
				}
				r = w.Step(w.at)
			}
			if r.Prove != "" {
				if proving {
					t.Fatal("two attempts at once")
				}
				proving, asked = true, w.at
			}
			if _, err := w.Lease(w.at); err == nil && w.at >= end {
				t.Fatalf("seed %d: a lease %v after its end", seed, w.at.Sub(end))
			}
			if !proving && w.Next() > w.at.Add(time.Hour) {
				t.Fatalf("seed %d: nothing to do any more", seed)
			}
		}
	}
}

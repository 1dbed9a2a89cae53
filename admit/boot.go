package admit

import (
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// Seen returns what a host's TPM last said to the domain, under the enrolment in force;
// nil for nothing. Members who enrol a host anew have that forgotten.
func Seen(s State, host string) (*appraise.Boot, error) {
	st, err := Look(s, host)
	if err != nil || st.Record == nil || st.Record.Enrolment != st.EnrolmentVersion {
		return nil, err
	}
	return &st.Boot, nil
}

// backwards refuses a TPM whose counters or clock are behind what the domain has seen of
// it. Resets are counted anew after TPM2_Clear alone. Within a boot nothing of it goes
// back but by a state that was put in place of the TPM's own, or so many boots after
// TPM2_Clear that the resets are as many again.
func (a *Application) backwards(c evidence.QuoteClaims) []keystead.Finding {
	if a.seen == nil {
		return nil
	}
	was, now := *a.seen, appraise.BootOf(c, nil)
	switch {
	case now.Resets < was.Resets:
		return []keystead.Finding{{Reason: keystead.ReasonTPMCleared, Where: "TPM of " + a.Host, Want: fmt.Sprintf("%d resets or more", was.Resets), Got: fmt.Sprintf("%d, and a clock of %d ms", now.Resets, now.Clock)}}
	case now.Resets == was.Resets && !was.Follows(now):
		return []keystead.Finding{{Reason: keystead.ReasonTPMRolledBack, Where: "TPM of " + a.Host, Want: fmt.Sprintf("after %d resets, %d restarts and a clock of %d ms, or more", was.Resets, was.Restarts, was.Clock),
			Got: fmt.Sprintf("%d restarts and a clock of %d ms", now.Restarts, now.Clock)}}
	}
	return nil
}

// sameBoot holds an application against the admission: of a TPM the boot, of a TEE the
// guest.
func (a *Application) sameBoot(l Lease, c evidence.QuoteClaims, guest keystead.Digest) (out []keystead.Finding) {
	find := func(reason keystead.Reason, where, want, got string) {
		if want != got {
			out = append(out, keystead.Finding{Reason: reason, Where: where, Want: want, Got: got})
		}
	}
	if !l.Guest().IsZero() { // its key is the enrolled one
		find(keystead.ReasonBootChanged, "guest", l.Guest().String(), guest.String())
		return out
	}
	was, now := l.Boot(), appraise.BootOf(c, nil)
	find(keystead.ReasonBootChanged, "attestation key", l.AK().String(), keystead.Sum(a.Key.Name).String())
	find(keystead.ReasonBootChanged, "subject key", keystead.Sum(l.SubjectKey()).String(), keystead.Sum(a.subjectKey()).String())
	find(keystead.ReasonBootChanged, "TPM reset count", fmt.Sprint(was.Resets), fmt.Sprint(now.Resets))
	if was.Firmware != 0 { // a lease of before records had it
		find(keystead.ReasonFirmwareChanged, "TPM firmware", fmt.Sprintf("%016x", was.Firmware), fmt.Sprintf("%016x", now.Firmware))
	}
	if was.Firmware != 0 && was.LogBytes == 0 { // no log tells sleep from a boot, such as by a bank that the kernel lacks the hash of
		find(keystead.ReasonBootChanged, "TPM restart count", fmt.Sprint(was.Restarts), fmt.Sprint(now.Restarts))
	}
	if _, goesOn := a.Bundle.Continues(); out == nil && !goesOn && !was.Began(a.Bundle.Parts().IMALog) {
		find(keystead.ReasonBootChanged, "IMA log", fmt.Sprintf("one that begins with the %d bytes of %v that were admitted", was.LogBytes, was.Log),
			fmt.Sprintf("another: the machine started again, which the TPM counts as restart %d of this boot", now.Restarts))
	}
	return out
}

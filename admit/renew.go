package admit

import (
	"errors"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// Renew judges an application to keep a lease: as for an admission, and the lease is
// current, and key, subject key, boot (boot-changed) and the TPM's firmware
// (firmware-changed) are those of the admission; of a TEE the guest (boot-changed).
func Renew(s State, a Application) (Decision, error) {
	lease, err := Current(s, a.Host)
	if err != nil {
		return Decision{host: a.Host, against: errors.Is(err, keystead.ReasonHostRevoked) || errors.Is(err, keystead.ReasonHardwareDenied)}, err
	}
	if a.Time <= lease.Evidence() { // logs are not replayed in vain, however often they are sent
		return Decision{host: a.Host}, deny(keystead.ReasonRenewalReplayed, "host "+a.Host, "evidence of after "+at(lease.Evidence()), "of "+at(a.Time))
	}
	was := lease.Boot()
	a.seen = &was
	_, d, err := a.judge(s, evidence.PurposeRenewal)
	if err != nil {
		return d, err
	}
	c := d.verdict.Claims()
	if findings := a.sameBoot(lease, c.Quote, d.verdict.Guest()); findings != nil {
		d.against = lease.Guest().IsZero() || a.Own
		return d, keystead.Deny(findings...)
	}
	last, err := LeaseDuration(s)
	if err != nil {
		return d, err
	}
	now := appraise.BootOf(c.Quote, nil)
	d.renewal = &Renewal{Lease: lease.Version(), Issued: a.Time, Until: a.Time + uint64(last.Milliseconds()), Verdict: d.verdict.Digest(),
		Restarts: now.Restarts, Clock: now.Clock, Resumed: now.Restarts > was.Restarts}
	return d, nil
}

package admit

import (
	"errors"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// Renew judges an application to keep a lease: as for an admission, and the lease is
// current, and key, subject key and boot are those of the admission (boot-changed).
func Renew(s State, a Application) (Decision, error) {
	lease, err := Current(s, a.Host)
	if err != nil {
		return Decision{host: a.Host, against: errors.Is(err, keystead.ReasonHostRevoked) || errors.Is(err, keystead.ReasonHardwareDenied)}, err
	}
	_, d, err := a.judge(s, evidence.PurposeRenewal)
	if err != nil {
		return d, err
	}
	if findings := a.sameBoot(lease, d.verdict.Claims()); findings != nil {
		d.against = true
		return d, keystead.Deny(findings...)
	}
	last, err := LeaseDuration(s)
	if err != nil {
		return d, err
	}
	d.renewal = &Renewal{Lease: lease.Version(), Issued: a.Time, Until: a.Time + uint64(last.Milliseconds()), Verdict: d.verdict.Digest()}
	return d, nil
}

// sameBoot holds an application against the admission.
func (a *Application) sameBoot(l Lease, c evidence.Claims) (out []keystead.Finding) {
	find := func(where, want, got string) {
		if want != got {
			out = append(out, keystead.Finding{Reason: keystead.ReasonBootChanged, Where: where, Want: want, Got: got})
		}
	}
	find("attestation key", l.AK().String(), keystead.Sum(a.Key.Name).String())
	find("subject key", keystead.Sum(l.SubjectKey()).String(), keystead.Sum(a.subjectKey()).String())
	find("TPM reset count", fmt.Sprint(l.ResetCount()), fmt.Sprint(c.Quote.ResetCount))
	return out
}

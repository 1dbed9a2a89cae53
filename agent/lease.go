package agent

import (
	"errors"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
)

// The seam's words for time and lease, which the core has, too.
type (
	// Moment is part.Moment.
	Moment = part.Moment
	// Lease is part.Lease.
	Lease = part.Lease
)

// passing reports whether err says nothing against the host's lease.
func passing(err error) bool {
	var refused *keystead.DenyError
	if !errors.As(err, &refused) {
		return true // a failure of this machine or of the way to the nodes
	}
	for _, f := range refused.Findings {
		switch {
		case f.Reason == keystead.ReasonLeaseExpired:
			return false
		case f.Reason == keystead.ReasonNonceExpired, f.Reason == keystead.ReasonConnectionExpired, f.Reason == keystead.ReasonRenewalReplayed:
		case f.Reason.Stage() != keystead.StageUnavailable && f.Reason.Stage() != keystead.StageInternal:
			return false
		}
	}
	return true
}

// early reports whether err says no more than that the lease lasts as long already as the
// evidence would make it: a second answer between two ticks of the domain's clock, or by
// way of a node that is a tick behind.
func early(err error) bool {
	var refused *keystead.DenyError
	return errors.As(err, &refused) && len(refused.Findings) > 0 &&
		!slices.ContainsFunc(refused.Findings, func(f keystead.Finding) bool { return f.Reason != keystead.ReasonRenewalReplayed })
}

// unreachable reports whether err says that no node could answer.
func unreachable(err error) bool {
	var refused *keystead.DenyError
	return errors.As(err, &refused) && refused.Stage() == keystead.StageUnavailable
}

// endsLease reports whether err says that the host has no lease.
func endsLease(err error) bool {
	for _, r := range []keystead.Reason{keystead.ReasonLeaseUnknown, keystead.ReasonLeaseSuspended, keystead.ReasonLeaseExpired, keystead.ReasonHostUnenrolled,
		keystead.ReasonHostRevoked, keystead.ReasonHardwareForeign, keystead.ReasonHardwareDenied, keystead.ReasonBootChanged,
		keystead.ReasonTPMCleared, keystead.ReasonTPMRolledBack, keystead.ReasonFirmwareChanged} {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

func deny(r keystead.Reason, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: "host", Want: want, Got: got})
}

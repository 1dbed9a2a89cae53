package tpm2

import (
	"crypto/x509"
	"slices"
	"time"
)

// SteadyTimes returns the times around at, both included, between which [VerifyEK]
// gives the same answer as it does at that time: none of the certificates that it
// may look at begins or ends to be valid in between. It is false for a chain that
// does not parse.
func SteadyTimes(chain [][]byte, roots Roots, at time.Time) (from, till time.Time, ok bool) {
	certs, err := parseChain(chain)
	if err != nil {
		return from, till, false
	}
	till = at.Add(24 * time.Hour)
	from = at.Add(-24 * time.Hour)
	for _, c := range slices.Concat(certs, roots.Hardware, roots.Test, roots.Intermediates) {
		from, till = narrow(c, at, from, till)
	}
	return from, till, true
}

// narrow keeps what of the times lies on the same side of both ends of a certificate.
func narrow(c *x509.Certificate, at, from, till time.Time) (time.Time, time.Time) {
	after := c.NotAfter.Add(time.Nanosecond) // valid up to and with NotAfter
	for _, edge := range []time.Time{c.NotBefore, after} {
		if edge.After(at) {
			if last := edge.Add(-time.Nanosecond); last.Before(till) {
				till = last
			}
		} else if edge.After(from) {
			from = edge
		}
	}
	return from, till
}

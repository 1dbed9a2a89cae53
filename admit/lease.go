package admit

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// A Lease is what an admitted host has until it is over: the right to ask for grants.
// It is minted by Current only. The zero value denies. It says how things stood at
// the clock of the state that it was taken from: whoever grants takes a new one for
// each grant.
type Lease struct {
	host    string
	record  Record
	version uint64
	until   uint64
	renewed uint64
	verdict keystead.Digest
	clock   uint64
	boot    appraise.Boot
}

// Current returns the lease that a host has now, on the state's domain clock. The
// caller has made sure that the state is fresh (ReadIndex, not clock-stale). Refusals:
// lease-unknown, host-unenrolled, host-revoked, hardware-foreign, hardware-denied,
// lease-suspended, lease-expired.
func Current(s State, host string) (Lease, error) {
	st, err := Look(s, host)
	if err != nil {
		return Lease{}, err
	}
	if st.Err != nil {
		return Lease{}, st.Err
	}
	return Lease{host, *st.Record, st.Version, st.Until, st.Renewed, st.Verdict, st.Clock, st.Boot}, nil
}

// Standing is what the ledger says of a host, for people to look at. It grants nothing.
type Standing struct {
	Host             string
	Clock            uint64     // domain clock of the state
	Enrolment        *Enrolment // nil: never enrolled
	EnrolmentVersion uint64
	Record           *Record // nil: never admitted
	Version          uint64  // of the lease
	Until            uint64  // with the renewal
	Renewed          uint64  // time of the evidence of the last renewal; 0 for none
	Verdict          keystead.Digest
	Boot             appraise.Boot // as of the last evidence; of its log, what was admitted
	Suspension       *Suspension   // of this lease
	Err              error         // nil: the lease is current; else the refusal that Current gives
}

// Look returns how a host stands. The error is of the state's reading.
func Look(s State, host string) (Standing, error) {
	st := Standing{Host: host}
	e, version, err := Enrolled(s, host)
	if err != nil {
		return st, err
	}
	if version != 0 {
		st.Enrolment, st.EnrolmentVersion = &e, version
	}
	if st.Clock, err = s.Clock(); err != nil {
		return st, err
	}
	if err := st.lease(s); err != nil {
		return st, err
	}
	findings, err := st.findings(s)
	if len(findings) > 0 {
		st.Err = keystead.Deny(findings...)
	}
	return st, err
}

// lease reads the record, and the renewal and suspension of that version.
func (st *Standing) lease(s State) error {
	if st.Enrolment == nil {
		return nil // names that no enrolment has are not looked up
	}
	v, err := s.Judged(LeaseKey(st.Host))
	if err != nil || v.Version == 0 {
		return err
	}
	r, err := ParseRecord(v.Data)
	if err != nil {
		return err
	}
	st.Record, st.Version, st.Until, st.Verdict, st.Boot = &r, v.Version, r.Until, r.Verdict, r.Boot
	renewal, err := s.Renewal(st.Host)
	if err != nil {
		return err
	}
	if renewal.Lease == st.Version && renewal.Until > st.Until {
		st.Until, st.Renewed, st.Verdict = renewal.Until, renewal.Issued, renewal.Verdict
		st.Boot.Restarts, st.Boot.Clock = max(st.Boot.Restarts, renewal.Restarts), max(st.Boot.Clock, renewal.Clock) // those of before entries had them are 0
	}
	suspension, err := s.Suspension(st.Host)
	if err == nil && suspension.ends(st.Version, r.Issued) {
		st.Suspension = &suspension
	}
	return err
}

// findings says all that keeps the lease from being current.
func (st *Standing) findings(s State) (out []keystead.Finding, err error) {
	where := "host " + st.Host
	find := func(r keystead.Reason, want, got string) {
		out = append(out, keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
	}
	switch e, r := st.Enrolment, st.Record; {
	case e == nil:
		find(keystead.ReasonHostUnenrolled, "an enrolled host", "no enrolment")
		return out, nil
	case e.Revoked:
		find(keystead.ReasonHostRevoked, "an enrolled host", "an enrolment that members revoked")
	case r == nil:
		find(keystead.ReasonLeaseUnknown, "an admitted host", "none")
		return out, nil
	case r.Enrolment != st.EnrolmentVersion:
		find(keystead.ReasonLeaseUnknown, fmt.Sprintf("a lease under the enrolment of version %d", st.EnrolmentVersion), fmt.Sprintf("one under version %d", r.Enrolment))
	}
	if st.Record == nil {
		return out, nil
	}
	if name, err := HostOf(s, st.Record.EK); err != nil {
		return nil, err
	} else if !st.Enrolment.Revoked && name != st.Host {
		find(keystead.ReasonHardwareForeign, "a hardware identity that is enrolled as "+st.Host, "one that is enrolled as "+strconv.Quote(name))
	}
	more, err := Denied(s, where, st.Record.Denials)
	if err != nil {
		return nil, err
	}
	out = append(out, more...)
	if x := st.Suspension; x != nil {
		find(keystead.ReasonLeaseSuspended, "a lease that no node suspended", fmt.Sprintf("suspended by %s: %s", x.Node, x.Reason))
	}
	if st.Clock >= st.Until {
		find(keystead.ReasonLeaseExpired, "a lease that lasts beyond "+at(st.Clock), "one until "+at(st.Until))
	}
	return out, nil
}

// Err returns nil for a lease that Current minted, and lease-unknown for the zero Lease.
func (l Lease) Err() error {
	if l.version == 0 {
		return deny(keystead.ReasonLeaseUnknown, "lease", "a lease", "none")
	}
	return nil
}

// At refuses with lease-expired when the lease is over at a time of the domain clock,
// in Unix milliseconds.
func (l Lease) At(clock uint64) error {
	if err := l.Err(); err != nil {
		return err
	}
	if clock >= l.until {
		return deny(keystead.ReasonLeaseExpired, "host "+l.host, "a lease that lasts beyond "+at(clock), "one until "+at(l.until))
	}
	return nil
}

// Host returns the host's name.
func (l Lease) Host() string { return l.host }

// Role returns the role that it was admitted in.
func (l Lease) Role() string { return l.record.Role }

// Version names the lease among all of the host: the version of its record.
func (l Lease) Version() uint64 { return l.version }

// Issued returns the time of its admission, in Unix milliseconds of the domain clock.
func (l Lease) Issued() uint64 { return l.record.Issued }

// Renewed returns the time of its last renewal's evidence, likewise; 0 if there was none.
func (l Lease) Renewed() uint64 { return l.renewed }

// Until returns its end, likewise.
func (l Lease) Until() uint64 { return l.until }

// Clock returns the domain clock at which it was taken from the state.
func (l Lease) Clock() uint64 { return l.clock }

// Evidence returns the time of the last evidence that it rests on, likewise.
func (l Lease) Evidence() uint64 { return max(l.record.Issued, l.renewed) }

// Assurance returns how strong the evidence was.
func (l Lease) Assurance() evidence.Assurance { return l.record.Assurance }

// SubjectKey returns the host's public key, PKIX DER.
func (l Lease) SubjectKey() []byte { return bytes.Clone(l.record.SubjectKey) }

// EK returns the hardware identity: of a TPM, or of a host with a TEE alone.
func (l Lease) EK() keystead.Digest { return l.record.EK }

// AK returns the digest of the attestation key's TPM name; zero for a host without a TPM.
func (l Lease) AK() keystead.Digest { return l.record.AK }

// Guest names the guest of a TEE that was admitted; zero for a host with a TPM.
func (l Lease) Guest() keystead.Digest { return l.record.Guest }

// Boot says in which boot the host was admitted, and what its TPM said last.
func (l Lease) Boot() appraise.Boot { return l.boot }

// Verdict returns the digest of the last verdict that it rests on.
func (l Lease) Verdict() keystead.Digest { return l.verdict }

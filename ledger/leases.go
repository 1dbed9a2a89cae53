package ledger

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/receipt"
)

// leases is what Apply knows of leases, in memory: about 100 bytes a host. Records
// are judged; of a record the ledger reads its end and nothing else.
type leases struct {
	by     map[string]*lease // by host
	ended  map[string]uint64 // by host: time of the last suspension, which ends what rests on evidence from before it
	length time.Duration     // the setting lease-seconds
}

type lease struct {
	version   uint64
	until     uint64 // of the record, or of the renewal
	suspended bool
}

var leaseSecondsKey = admit.TypeSetting + "/" + admit.LeaseSeconds

// set takes the judged value of lease-seconds.
func (l *leases) set(judged string, g *receipt.Genesis) {
	l.length = admit.ParseLeaseSeconds(judged, g.Setting(admit.LeaseSeconds))
}

// note takes a judged write as of a version, 0 for a deletion.
func (l *leases) note(w writeView, version uint64, g *receipt.Genesis) {
	if string(w.key) == leaseSecondsKey {
		l.set(string(w.value), g)
	}
	host, ok := bytes.CutPrefix(w.key, []byte(admit.LeasePrefix))
	switch {
	case !ok:
	case version == 0:
		delete(l.by, string(host))
	default:
		l.add(string(host), version, w.value)
	}
}

// add takes a lease's record.
func (l *leases) add(host string, version uint64, record []byte) *lease {
	until, issued := admit.RecordTimes(record)
	ended, was := l.ended[host]
	x := &lease{version: version, until: until, suspended: was && ended >= issued}
	l.by[host] = x
	return x
}

func (m *Machine) loadLeases() error {
	b, found, err := m.store.Get(nameKey(spaceJudged, leaseSecondsKey))
	if err != nil {
		return err
	}
	state := View{m.store}
	var seconds Value
	if found {
		if seconds, err = state.resolve(b); err != nil {
			return err
		}
	}
	m.leases.set(string(seconds.Data), &m.genesis)
	named := map[string]uint64{} // host: lease that the suspension names
	err = m.each(spaceSuspension, func(host string, b []byte) error {
		s, err := decodeSuspension(b)
		m.leases.ended[host], named[host] = s.Time, s.Lease
		return err
	})
	if err != nil {
		return err
	}
	from := nameKey(spaceJudged, admit.LeasePrefix)
	to := nameKey(spaceJudged, admit.LeasePrefix[:len(admit.LeasePrefix)-1]+"0") // "0" follows "/"
	err = scan(m.store, from, to, func(k string, b []byte) error {
		value, err := state.resolve(b)
		host := k[len(admit.LeasePrefix):]
		if l := m.leases.add(host, value.Version, value.Data); named[host] == value.Version {
			l.suspended = true
		}
		return err
	})
	if err != nil {
		return err
	}
	return m.each(spaceRenewal, func(host string, b []byte) error {
		r, err := decodeRenewal(b)
		if l := m.leases.by[host]; l != nil && l.version == r.Lease {
			l.until = max(l.until, r.Until)
		}
		return err
	})
}

// find returns the lease of that version, which is the host's last.
func (l *leases) find(host string, version uint64) (*lease, *keystead.Finding) {
	x := l.by[host]
	if x == nil || x.version != version {
		got := "none"
		if x != nil {
			got = "one of version " + strconv.FormatUint(x.version, 10)
		}
		return nil, &keystead.Finding{Reason: keystead.ReasonLeaseUnknown, Where: "host " + host, Want: "a lease of version " + strconv.FormatUint(version, 10), Got: got}
	}
	return x, nil
}

// maxPassed bounds the findings of a batch that renews nothing.
const maxPassed = 16

// applyRenewals prolongs the leases that may be, and passes over the others. A batch
// that prolongs none is refused: it was replayed, or came too late.
func (m *Machine) applyRenewals(entry []byte, w Writer, res *Result) error {
	r, err := ParseRenewals(entry)
	if err != nil {
		return err
	}
	if err := m.pair(&r); err != nil {
		return err
	}
	if r.Time+Window < m.head.clock || r.Time > m.head.clock+Window {
		return deny(keystead.ReasonRequestExpired, "renewals", "a batch made within "+millis(Window)+" of the domain clock's "+strconv.FormatUint(m.head.clock, 10), strconv.FormatUint(r.Time, 10))
	}
	var passed []keystead.Finding
	found := make([]*lease, len(r.Items))
	none := true
	for i := range r.Items {
		l, f := m.renewable(&r.Items[i])
		if f == nil {
			found[i], none = l, false
		} else if len(passed) < maxPassed {
			passed = append(passed, *f)
		}
	}
	if none {
		return keystead.Deny(passed...)
	}
	if err := m.record(entry, w, res); err != nil {
		return err
	}
	for i, l := range found {
		if l == nil {
			continue
		}
		x := &r.Items[i]
		l.until = x.Until
		m.keyBuf = append(append(m.keyBuf[:0], spaceRenewal), x.Host...)
		m.buf = appendRenewal(m.buf[:0], &x.Renewal)
		if err := w.Set(m.keyBuf, m.buf); err != nil {
			return fatal(err)
		}
	}
	return nil
}

// pair checks that two different nodes signed the batch, or the only one.
func (m *Machine) pair(r *Renewals) error {
	roster := m.current()
	need := min(2, len(roster.Nodes))
	if n := len(r.Signatures); n < need || n == 2 && r.Signatures[0].Node == r.Signatures[1].Node {
		return deny(keystead.ReasonPairMissing, "renewals", fmt.Sprintf("signatures of %d different nodes", need), fmt.Sprintf("%d signatures", n)+ofOne(r.Signatures))
	}
	message := r.message(m.head.domain)
	for _, s := range r.Signatures {
		if err := r.verify(s, roster, message); err != nil {
			return err
		}
	}
	return nil
}

func ofOne(s []Signed) string {
	if len(s) == 2 {
		return ", both of " + s[0].Node
	}
	return ""
}

// renewable returns the lease that the item prolongs, or why it does not.
func (m *Machine) renewable(x *RenewalItem) (*lease, *keystead.Finding) {
	l, f := m.leases.find(x.Host, x.Lease)
	if f != nil {
		return nil, f
	}
	clock := m.head.clock
	no := func(reason keystead.Reason, want, got string) (*lease, *keystead.Finding) {
		return nil, &keystead.Finding{Reason: reason, Where: "host " + x.Host, Want: want, Got: got}
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	switch most := clock + uint64(m.leases.length.Milliseconds()) + Window; {
	case l.suspended:
		return no(keystead.ReasonLeaseSuspended, "a lease that no node suspended", "a suspended one")
	case l.until <= clock:
		return no(keystead.ReasonLeaseExpired, "a lease that lasts beyond "+number(clock), "one until "+number(l.until))
	case x.Until <= l.until:
		return no(keystead.ReasonRenewalReplayed, "an end after "+number(l.until), number(x.Until))
	case x.Until > most:
		return no(keystead.ReasonLeaseTooLong, "an end by "+number(most), number(x.Until))
	}
	return l, nil
}

// applySuspension ends a lease. A second one is passed over.
func (m *Machine) applySuspension(entry []byte, w Writer, res *Result) error {
	s, err := ParseSuspension(entry)
	if err != nil {
		return err
	}
	k, err := m.signer(m.current(), s.Node, "suspension")
	if err != nil {
		return err
	}
	if !k.Verify(s.message(m.head.domain), s.Signature) {
		return deny(keystead.ReasonSignatureInvalid, "suspension", "a signature by "+s.Node, "another")
	}
	l, f := m.leases.find(s.Host, s.Lease)
	switch {
	case f != nil:
		return keystead.Deny(*f)
	case l.suspended:
		return nil // it is over already
	}
	if err := m.record(entry, w, res); err != nil {
		return err
	}
	l.suspended, m.leases.ended[s.Host] = true, m.head.clock
	x := admit.Suspension{Lease: s.Lease, Node: s.Node, Reason: s.Reason, Verdict: s.Verdict, Time: m.head.clock}
	return fatal(w.Set(nameKey(spaceSuspension, s.Host), encodeSuspension(&x)))
}

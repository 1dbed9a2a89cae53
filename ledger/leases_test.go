package ledger_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// effect makes writes effective as nodes' verdict on a subject, and returns its version.
func (d *domain) effect(kind, subject string, writes ...ledger.Write) uint64 {
	d.t.Helper()
	p, v := d.ruling(kind, subject, writes...)
	d.ok(p)
	return d.ok(d.effective(v, "node-1", d.second())).Leaf + 1
}

// ruling is a proposal and a verdict on it.
func (d *domain) ruling(kind, subject string, writes ...ledger.Write) ([]byte, *ledger.Verdict) {
	d.t.Helper()
	base, err := ledger.NewView(d.store).Subject(kind, subject)
	must(d.t, err)
	e, err := (&ledger.Proposal{ID: d.request().ID, Type: kind, Subject: subject, Base: base}).Entry()
	must(d.t, err)
	v, err := ledger.NewVerdict(e)
	must(d.t, err)
	v.Writes = writes
	return e, &v
}

// second is a node beside node-1, or node-1 where it is alone.
func (d *domain) second() string {
	r, _ := d.machine.Roster()
	return r.Nodes[min(1, len(r.Nodes)-1)].Name
}

// leaseWrite is what the judges of an admission endorse, for these tests.
func leaseWrite(host string, issued, until, enrolment uint64) ledger.Write {
	r := admit.Record{Issued: issued, Until: until, Role: admit.RoleHost, EK: keystead.Sum([]byte(host)), SubjectKey: []byte("key"), Enrolment: enrolment}
	return ledger.Write{Key: admit.LeaseKey(host), Value: r.Bytes()}
}

// enrolled enrols a host and admits it until ms from now; it returns the lease's version.
func (d *domain) enrolled(host string, ms uint64) uint64 {
	d.t.Helper()
	e := admit.Enrolment{Domain: d.id, Host: host, Role: admit.RoleHost, EK: keystead.Sum([]byte(host))}
	text, err := e.Text()
	must(d.t, err)
	version := d.effect(admit.TypeEnrolment, host, ledger.Write{Key: admit.EnrolmentPrefix + host, Value: text},
		ledger.Write{Key: "enrolment/identity/" + e.EK.String(), Value: []byte(host)})
	return d.effect(admit.TypeLease, host, leaseWrite(host, d.machine.Clock(), d.machine.Clock()+ms, version))
}

// item prolongs a lease until ms from now.
func (d *domain) item(host string, lease, ms uint64) ledger.RenewalItem {
	clock := d.machine.Clock()
	return ledger.RenewalItem{Host: host, Renewal: admit.Renewal{Lease: lease, Issued: clock, Until: clock + ms, Verdict: keystead.Sum([]byte(host))}}
}

// renewals is a batch that nodes signed.
func (d *domain) renewals(nodes []string, items ...ledger.RenewalItem) []byte {
	d.t.Helper()
	r := ledger.NewRenewals(d.machine.Clock(), slices.Clone(items))
	for _, n := range nodes {
		r.Signatures = append(r.Signatures, r.Sign(d.keys[n], n, d.id))
	}
	e, err := r.Entry()
	must(d.t, err)
	return e
}

func (d *domain) suspension(node, host string, lease uint64, reason string) []byte {
	d.t.Helper()
	s := ledger.Suspend(d.keys[node], node, d.id, host, lease, reason, keystead.Sum([]byte(reason)))
	e, err := s.Entry()
	must(d.t, err)
	return e
}

// stands wants the lease of a host to be current, or not for the reasons.
func (d *domain) stands(host string, want ...keystead.Reason) admit.Lease {
	d.t.Helper()
	l, err := admit.Current(ledger.NewView(d.store), host)
	var got []keystead.Reason
	if deny, ok := err.(*keystead.DenyError); ok {
		for _, f := range deny.Findings {
			got = append(got, f.Reason)
		}
	}
	if !slices.Equal(got, want) || (err == nil) != (len(want) == 0) {
		d.t.Errorf("%s: want %v, got %v", host, want, err)
	}
	return l
}

var pair = []string{"node-1", "node-3"}

// TestRenewals prolongs what may be, passes over the rest, and proves it.
func TestRenewals(t *testing.T) {
	d := newDomain(t, 3, "lease-seconds=20")
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	a, b, c := d.enrolled("a", 20_000), d.enrolled("b", 20_000), d.enrolled("c", 1_000)
	d.ok(d.suspension("node-2", "b", b, "file-unknown: /run/x"))
	d.ok(d.tick(2000, "node-1", "node-2", "node-3"))
	before := d.machine.Size()
	r := d.ok(d.renewals(pair, d.item("a", a, 20_000), d.item("b", b, 20_000), d.item("c", c, 20_000), d.item("d", 7, 20_000)))
	if !r.Recorded || r.Leaf != before {
		t.Errorf("the batch is %+v", r)
	}
	clock := d.machine.Clock()
	if l := d.stands("a"); l.Until() != clock+20_000 || l.Renewed() != clock || l.Version() != a || l.Verdict() != keystead.Sum([]byte("a")) {
		t.Errorf("a's lease is %+v", l)
	}
	d.stands("b", keystead.ReasonLeaseSuspended)
	d.stands("c", keystead.ReasonLeaseExpired)
	d.stands("d", keystead.ReasonHostUnenrolled)
	for _, host := range []string{"b", "c", "d"} {
		if x, err := ledger.NewView(d.store).Renewal(host); err != nil || x != (admit.Renewal{}) {
			t.Errorf("%s was renewed: %+v, %v", host, x, err)
		}
	}
	d.checkpoint("node-1", "node-2")
	p, err := receipt.NewVerifier(d.id).Verify(d.receipt(r.Leaf))
	must(t, err)
	if x, err := ledger.ParseRenewals(p.Entry); err != nil || len(x.Items) != 4 || p.Kind != receipt.KindRenewals {
		t.Errorf("proven: %v with %d items, %v", p.Kind, len(x.Items), err)
	}
	d.ok(d.tick(19_000, "node-1", "node-2", "node-3"))
	d.stands("a")
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	d.stands("a", keystead.ReasonLeaseExpired)
}

// TestRenewalsRefused: forged, foreign and doubled signatures, and batches that prolong
// nothing, each with its reason and without a trace.
func TestRenewalsRefused(t *testing.T) {
	d := newDomain(t, 3)
	other := newDomain(t, 4)
	d.newNode("node-9")
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	a, b := d.enrolled("a", 60_000), d.enrolled("b", 60_000)
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	good := []ledger.RenewalItem{d.item("a", a, 60_000), d.item("b", b, 60_000)}
	with := func(edit func(*ledger.Renewals)) []byte {
		r, err := ledger.ParseRenewals(d.renewals(pair, good...))
		must(t, err)
		edit(&r)
		e, err := r.Entry()
		must(t, err)
		return e
	}
	for _, tc := range []struct {
		what string
		edit func(*ledger.Renewals)
		want keystead.Reason
	}{
		{"nobody", func(r *ledger.Renewals) { r.Signatures = nil }, keystead.ReasonPairMissing},
		{"one node", func(r *ledger.Renewals) { r.Signatures = r.Signatures[:1] }, keystead.ReasonPairMissing},
		{"one node twice", func(r *ledger.Renewals) { r.Signatures[1] = r.Signatures[0] }, keystead.ReasonPairMissing},
		{"one node under two names", func(r *ledger.Renewals) { r.Signatures[1].Signature = r.Signatures[0].Signature }, keystead.ReasonSignatureInvalid},
		{"a stranger", func(r *ledger.Renewals) { r.Signatures[1] = r.Sign(d.keys["node-9"], "node-9", d.id) }, keystead.ReasonSignerUnknown},
		{"a stranger under a node's name", func(r *ledger.Renewals) { r.Signatures[1] = r.Sign(d.keys["node-9"], "node-3", d.id) }, keystead.ReasonSignatureInvalid},
		{"another domain", func(r *ledger.Renewals) { r.Signatures[1] = r.Sign(d.keys["node-3"], "node-3", other.id) }, keystead.ReasonSignatureInvalid},
		{"one item more than signed", func(r *ledger.Renewals) { r.Items = append(r.Items, d.item("c", 3, 60_000)) }, keystead.ReasonSignatureInvalid},
		{"one item fewer than signed", func(r *ledger.Renewals) { r.Items = r.Items[:1] }, keystead.ReasonSignatureInvalid},
		{"a later end than signed", func(r *ledger.Renewals) { r.Items[0].Until++ }, keystead.ReasonSignatureInvalid},
		{"another time than signed", func(r *ledger.Renewals) { r.Time++ }, keystead.ReasonSignatureInvalid},
	} {
		d.refused(with(tc.edit), tc.want)
	}
	at := func(time uint64) []byte {
		r := ledger.NewRenewals(time, slices.Clone(good))
		for _, n := range pair {
			r.Signatures = append(r.Signatures, r.Sign(d.keys[n], n, d.id))
		}
		e, err := r.Entry()
		must(t, err)
		return e
	}
	d.refused(at(d.machine.Clock()-ledger.Window-1), keystead.ReasonRequestExpired)
	d.refused(at(d.machine.Clock()+ledger.Window+1), keystead.ReasonRequestExpired)
	item := func(host string, lease, ms uint64) []byte { return d.renewals(pair, d.item(host, lease, ms)) }
	d.refused(item("a", a, 90_001), keystead.ReasonLeaseTooLong)
	d.refused(item("a", a, 59_000), keystead.ReasonRenewalReplayed) // as long as it is
	d.refused(item("a", a, 10_000), keystead.ReasonRenewalReplayed) // shorter
	d.refused(item("a", a-1, 60_000), keystead.ReasonLeaseUnknown)
	d.refused(item("a", b, 60_000), keystead.ReasonLeaseUnknown)
	d.refused(item("nobody", 1, 60_000), keystead.ReasonLeaseUnknown)

	batch := d.renewals(pair, good...)
	d.ok(batch)
	d.refused(batch, keystead.ReasonRenewalReplayed)
	d.ok(d.suspension("node-1", "a", a, "x"))
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	d.refused(item("a", a, 60_000), keystead.ReasonLeaseSuspended)
	again := d.effect(admit.TypeLease, "a", leaseWrite("a", d.machine.Clock(), d.machine.Clock()+60_000, a-1))
	d.refused(d.renewals(pair, d.item("a", a, 70_000)), keystead.ReasonLeaseUnknown) // of the lease before
	d.ok(item("a", again, 80_000))
	d.stands("a")
	d.ok(d.tick(60_000, "node-1", "node-2", "node-3"))
	d.refused(item("b", b, 60_000), keystead.ReasonLeaseExpired)
	d.effect(admit.TypeLease, "a", ledger.Write{Key: admit.LeaseKey("a"), Delete: true})
	d.refused(item("a", again, 60_000), keystead.ReasonLeaseUnknown)
	d.stands("a", keystead.ReasonLeaseUnknown)

	e := d.change(without("node-3"), "ada", "ben")
	c := d.enrolled("c", 60_000)
	late := d.renewals(pair, d.item("c", c, 80_000))
	d.ok(e)
	d.refused(late, keystead.ReasonSignerUnknown) // signed by a node that was removed since
}

// TestRenewalsByTheOnlyNode: a domain of one node has no second one.
func TestRenewalsByTheOnlyNode(t *testing.T) {
	d := newDomain(t, 1)
	d.ok(d.tick(1000, "node-1"))
	a := d.enrolled("a", 60_000)
	d.refused(d.renewals(nil, d.item("a", a, 70_000)), keystead.ReasonPairMissing)
	d.refused(d.renewals([]string{"node-1", "node-1"}, d.item("a", a, 70_000)), keystead.ReasonPairMissing)
	d.ok(d.renewals([]string{"node-1"}, d.item("a", a, 70_000)))
}

// TestLeaseSecondsBoundRenewals: the setting as it is when the batch is applied, within
// the same batch of the log even.
func TestLeaseSecondsBoundRenewals(t *testing.T) {
	d := newDomain(t, 3, "lease-seconds=20")
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	a := d.enrolled("a", 10_000)
	d.refused(d.renewals(pair, d.item("a", a, 50_001)), keystead.ReasonLeaseTooLong)
	p, v := d.ruling(admit.TypeSetting, admit.LeaseSeconds, ledger.Write{Key: "setting/lease-seconds", Value: []byte("40")})
	for _, r := range d.apply(p, d.effective(v, "node-1", "node-2"), d.renewals(pair, d.item("a", a, 70_000))) {
		must(t, r.Err)
	}
	reopened, err := ledger.Open(d.store, d.id)
	must(t, err)
	d.machine = reopened
	d.refused(d.renewals(pair, d.item("a", a, 70_001)), keystead.ReasonLeaseTooLong)
	d.effect(admit.TypeSetting, admit.LeaseSeconds, ledger.Write{Key: "setting/lease-seconds", Delete: true})
	d.refused(d.renewals(pair, d.item("a", a, 70_001)), keystead.ReasonLeaseTooLong)
}

// TestSuspensions: any one node ends a lease, once, and only a new admission gives
// another.
func TestSuspensions(t *testing.T) {
	d := newDomain(t, 3)
	other := newDomain(t, 4)
	d.newNode("node-9")
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	a := d.enrolled("a", 60_000)
	signed := func(edit func(*ledger.Suspension)) []byte {
		s, err := ledger.ParseSuspension(d.suspension("node-2", "a", a, "file-unknown"))
		must(t, err)
		edit(&s)
		e, err := s.Entry()
		must(t, err)
		return e
	}
	d.refused(signed(func(s *ledger.Suspension) { s.Node = "node-3" }), keystead.ReasonSignatureInvalid)
	d.refused(signed(func(s *ledger.Suspension) { s.Host = "b" }), keystead.ReasonSignatureInvalid)
	d.refused(signed(func(s *ledger.Suspension) { s.Reason = "because" }), keystead.ReasonSignatureInvalid)
	d.refused(signed(func(s *ledger.Suspension) { s.Lease++ }), keystead.ReasonSignatureInvalid)
	d.refused(d.suspension("node-9", "a", a, "x"), keystead.ReasonSignerUnknown)
	d.refused(d.suspension("node-2", "a", a-1, "x"), keystead.ReasonLeaseUnknown)
	d.refused(d.suspension("node-2", "b", a, "x"), keystead.ReasonLeaseUnknown)
	foreign := ledger.Suspend(d.keys["node-2"], "node-2", other.id, "a", a, "x", keystead.Digest{})
	e, err := foreign.Entry()
	must(t, err)
	d.refused(e, keystead.ReasonSignatureInvalid)
	d.stands("a")

	first := d.suspension("node-2", "a", a, "file-unknown: \x1b[2J /run/x"+strings.Repeat("…", 999))
	if r := d.ok(first); !r.Recorded {
		t.Error("a suspension is not in the tree")
	}
	d.stands("a", keystead.ReasonLeaseSuspended)
	was := d.state()
	for _, e := range [][]byte{first, d.suspension("node-3", "a", a, "y")} {
		if r := d.ok(e); r.Recorded || d.state() != was {
			t.Error("a second suspension has an effect")
		}
	}
	s, err := ledger.NewView(d.store).Suspension("a")
	if err != nil || s.Node != "node-2" || s.Lease != a || s.Time != d.machine.Clock() || len(s.Reason) > 1024 || strings.ContainsRune(s.Reason, '\x1b') {
		t.Errorf("the suspension is %+v, %v", s, err)
	}
	enrolment, err := ledger.NewView(d.store).Subject(admit.TypeEnrolment, "a")
	must(t, err)
	for _, issued := range []uint64{0, d.machine.Clock() - 1, d.machine.Clock()} { // good evidence of before, judged or endorsed late
		late := d.effect(admit.TypeLease, "a", leaseWrite("a", issued, d.machine.Clock()+60_000, enrolment))
		d.stands("a", keystead.ReasonLeaseSuspended)
		d.refused(d.renewals(pair, d.item("a", late, 70_000)), keystead.ReasonLeaseSuspended)
		reopened, err := ledger.Open(d.store, d.id)
		must(t, err)
		d.machine = reopened
		d.refused(d.renewals(pair, d.item("a", late, 70_000)), keystead.ReasonLeaseSuspended)
	}
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	fresh := d.effect(admit.TypeLease, "a", leaseWrite("a", d.machine.Clock(), d.machine.Clock()+60_000, enrolment))
	d.stands("a")
	d.refused(first, keystead.ReasonLeaseUnknown) // replayed upon the new lease
	d.ok(d.renewals(pair, d.item("a", fresh, 70_000)))
}

// TestLeasesInOneBatch: what an entry brings counts for the next of the same batch.
func TestLeasesInOneBatch(t *testing.T) {
	d := newDomain(t, 3)
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	p, v := d.ruling(admit.TypeLease, "a", leaseWrite("a", d.machine.Clock(), d.machine.Clock()+60_000, 1))
	lease := d.machine.Size() + 1
	results := d.apply(p, d.effective(v, "node-1", "node-2"), d.renewals(pair, d.item("a", lease, 70_000)), d.renewals(pair, d.item("a", lease, 70_000)),
		d.suspension("node-1", "a", lease, "x"), d.renewals(pair, d.item("a", lease, 80_000)))
	for _, r := range []ledger.Result{results[1], results[2], results[4]} {
		if !r.Recorded {
			t.Errorf("%v: %v", r.Kind, r.Err)
		}
	}
	wantReason(t, results[3].Err, keystead.ReasonRenewalReplayed)
	wantReason(t, results[5].Err, keystead.ReasonLeaseSuspended)
}

// TestMalformedRenewals: what no encoder gives.
func TestMalformedRenewals(t *testing.T) {
	d := newDomain(t, 3)
	for what, r := range map[string]*ledger.Renewals{
		"no items":            ledger.NewRenewals(1, nil),
		"one host twice":      ledger.NewRenewals(1, []ledger.RenewalItem{d.item("a", 1, 1), d.item("a", 1, 1)}),
		"a name that is none": ledger.NewRenewals(1, []ledger.RenewalItem{d.item("A", 1, 1)}),
		"out of order":        {Time: 1, Items: []ledger.RenewalItem{d.item("b", 1, 1), d.item("a", 1, 1)}},
		"three signatures":    {Time: 1, Items: []ledger.RenewalItem{d.item("a", 1, 1)}, Signatures: make([]ledger.Signed, 3)},
		"too many":            ledger.NewRenewals(1, many(d, ledger.MaxRenewals+1)),
	} {
		if _, err := r.Entry(); err == nil {
			t.Errorf("%s: has an entry", what)
		}
	}
	full, err := ledger.NewRenewals(1, many(d, ledger.MaxRenewals)).Entry()
	if err != nil || len(full) > receipt.MaxEntry {
		t.Errorf("a full batch has %d bytes, %v", len(full), err)
	}
	bad := ledger.Suspension{Host: "a", Reason: "two\nlines", Signed: ledger.Signed{Node: "node-1"}}
	if _, err := bad.Entry(); err == nil {
		t.Error("a reason of two lines has an entry")
	}
	for k := receipt.Kind(1); k <= receipt.KindRenewals; k++ {
		h := receipt.Header(k)
		for version := byte(1); version <= receipt.Version; version++ {
			if _, _, err := receipt.Split([]byte{version, h[1]}); (err == nil) != (version == h[0]) {
				t.Errorf("a %v entry of version %d: %v", k, version, err)
			}
		}
	}
}

func many(d *domain, n int) (out []ledger.RenewalItem) {
	for i := range n {
		out = append(out, d.item(fmt.Sprintf("host-%059d", i), 1, 1))
	}
	return out
}

// TestRenewalsRoot holds the root to another implementation of RFC 6962.
func TestRenewalsRoot(t *testing.T) {
	d := newDomain(t, 1)
	for n := 1; n < 70; n++ {
		r := ledger.NewRenewals(1, many(d, n))
		tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
		for _, x := range r.Items {
			one := ledger.NewRenewals(1, []ledger.RenewalItem{x})
			leaf := one.Root() // of one item: its leaf hash
			must(t, tree.Append(leaf[:], nil))
		}
		want, err := tree.GetRootHash(nil)
		must(t, err)
		if got := r.Root(); keystead.Digest(want) != got {
			t.Errorf("%d items: root %v, want %x", n, got, want)
		}
	}
}

// TestJudgedKeysInPages lists what is judged, page by page.
func TestJudgedKeysInPages(t *testing.T) {
	d := newDomain(t, 3)
	d.effect("leasehold", "x", ledger.Write{Key: "leasehold/host/x", Value: []byte("1")})
	for i := range 7 {
		d.effect(admit.TypeLease, fmt.Sprint("h", i), leaseWrite(fmt.Sprint("h", i), 1, 1, 1), ledger.Write{Key: fmt.Sprint("lease/verdict/h", i), Value: []byte("v")})
	}
	var got []string
	for after := ""; ; {
		n := 0
		must(t, ledger.NewView(d.store).JudgedKeys(admit.LeasePrefix, after, func(key string, v ledger.Value) bool {
			got, after = append(got, strings.TrimPrefix(key, admit.LeasePrefix)), key
			n++
			return n < 3
		}))
		if n < 3 {
			break
		}
	}
	if want := "h0 h1 h2 h3 h4 h5 h6"; strings.Join(got, " ") != want {
		t.Errorf("listed %v, want %s", got, want)
	}
	must(t, ledger.NewView(d.store).JudgedKeys(admit.LeasePrefix, "zzz", func(key string, _ ledger.Value) bool { t.Errorf("%s after the end", key); return true }))
}

// TestFoundingSettings: what the genesis entry says, as judges see it.
func TestFoundingSettings(t *testing.T) {
	d := newDomain(t, 3, "lease-seconds=20", "terms-host="+strings.Repeat("ab", 32))
	v := ledger.NewView(d.store)
	if last, err := admit.LeaseDuration(v); err != nil || last.Seconds() != 20 {
		t.Errorf("leases last %v, %v", last, err)
	}
	terms, err := admit.TermsOf(v, admit.RoleHost)
	if err != nil || terms.Digest.String() != "sha256:"+strings.Repeat("ab", 32) || terms.Version != 0 {
		t.Errorf("the terms are %+v, %v", terms, err)
	}
	if s, err := ledger.NewView(newStore()).Founding("lease-seconds"); s != "" || err != nil {
		t.Errorf("before the genesis entry: %q, %v", s, err)
	}
}

// earlyRenewals is a batch of one, as builds of before wrote it.
func (d *domain) earlyRenewals(nodes []string, x ledger.RenewalItem) []byte {
	name := func(b []byte, s string) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...) }
	item := name(nil, x.Host)
	for _, n := range []uint64{x.Lease, x.Issued, x.Until} {
		item = binary.BigEndian.AppendUint64(item, n)
	}
	item = append(item, x.Verdict[:]...)
	root := keystead.Sum(append([]byte{0}, item...))
	clock := binary.BigEndian.AppendUint64(nil, d.machine.Clock())
	message := slices.Concat([]byte("keystead renewals/1\n"), d.id[:], clock, root[:])
	entry := slices.Concat([]byte{2, 9}, clock, []byte{0, 1}, item, []byte{0, 2})
	for _, n := range nodes {
		signature := d.keys[n].Sign(message)
		entry = append(name(entry, n), signature[:]...)
	}
	return entry
}

// TestEarlyRenewals: a batch of before renewals stated the TPMs' clocks is read, counts, and
// is written as it was; it cannot pass for one of now.
func TestEarlyRenewals(t *testing.T) {
	d := newDomain(t, 3)
	d.ok(d.tick(1000, "node-1", "node-2", "node-3"))
	lease := d.enrolled("a", 60_000)
	x := d.item("a", lease, 70_000)
	entry := d.earlyRenewals(pair, x)
	r, err := ledger.ParseRenewals(entry)
	must(t, err)
	again, err := r.Entry()
	if err != nil || !bytes.Equal(again, entry) || r.Items[0] != x {
		t.Errorf("read as %+v, %v", r, err)
	}
	as := bytes.Clone(entry)
	as[0], as[1] = 3, 11
	if _, err := ledger.ParseRenewals(as); err == nil {
		t.Error("it passes for a batch of now")
	}
	d.ok(entry)
	view := ledger.NewView(d.store)
	if got, err := view.Renewal("a"); err != nil || got != x.Renewal {
		t.Errorf("on the ledger: %+v, %v", got, err)
	}
	later := d.item("a", lease, 80_000)
	later.Restarts, later.Clock, later.Resumed = 2, 1<<40, true
	d.ok(d.renewals(pair, later))
	if got, err := view.Renewal("a"); err != nil || got != later.Renewal {
		t.Errorf("on the ledger: %+v, %v", got, err)
	}
	d.store.m["na"] = entry[15 : 15+56] // lease, times and verdict, as a build of before kept them
	if got, err := view.Renewal("a"); err != nil || got != x.Renewal {
		t.Errorf("a record of before: %+v, %v", got, err)
	}
}

// TestSuspensionInAnyWords: a refusal quotes paths that the host made up; whatever they hold,
// the suspension that says so is an entry. One that could not be written would leave
// the lease of who chose them.
func TestSuspensionInAnyWords(t *testing.T) {
	d := newDomain(t, 3)
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"\x00", "\n", "\xff", "\xed\xa0\x80", "\u202e", "\ufffd", "é", "𐍈", "a", strings.Repeat("b", 1000), strings.Repeat("é", 511), strings.Repeat("𐍈", 256), "\u0301", "\u200b"}
	for range 2000 {
		words := ""
		for range random.IntN(8) {
			words += pieces[random.IntN(len(pieces))]
		}
		s := ledger.Suspend(d.keys["node-1"], "node-1", d.id, "a", 1, words, keystead.Digest{})
		entry, err := s.Entry()
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		again, err := ledger.ParseSuspension(entry)
		if err != nil || again.Reason != s.Reason || len(again.Reason) > 1024 {
			t.Fatalf("%q: %q, %v", words, again.Reason, err)
		}
	}
}

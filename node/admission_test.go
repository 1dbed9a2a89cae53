package node_test

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// admitted returns a host that is enrolled and was admitted.
func (f *field) admitted(name string) (*host, *apiv1.AdmitResponse) {
	f.t.Helper()
	h := f.host(name)
	if err := f.enrol(name, h.ek); err != nil {
		f.t.Fatal(err)
	}
	a, err := h.admit()
	if err != nil {
		f.t.Fatal(err)
	}
	return h, a
}

// refusedByAll waits until every node refuses the host an SVID, for a reason. It
// asks on connections that are open already.
func (h *host) refusedByAll(reason keystead.Reason) {
	h.f.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for name, contact := range h.f.contacts() {
		for {
			_, err := h.at(name, contact).IssueSVID(h.f.ctx, h.name)
			if errors.Is(err, reason) {
				break
			}
			if time.Now().After(deadline) {
				h.f.t.Fatalf("%s answers %v, want %s", name, err, reason)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// at returns the host's connection to one node, which it opens once.
func (h *host) at(name string, contact client.Contact) *client.Host {
	if h.one == nil {
		h.one = map[string]*client.Host{}
	}
	if h.one[name] == nil {
		h.one[name] = client.NewHost(client.HostOptions{Dial: h.dial, MaxAge: time.Hour})
		h.f.t.Cleanup(h.one[name].Close)
		h.one[name].Nodes(map[string]client.Contact{name: contact})
	}
	return h.one[name]
}

// everywhere opens the connections of at.
func (h *host) everywhere() {
	h.f.t.Helper()
	for name, contact := range h.f.contacts() {
		if _, err := h.at(name, contact).Nonce(h.f.ctx); err != nil {
			h.f.t.Fatal(err)
		}
	}
}

// TestAdmission has three nodes admit a host and renew its lease; what they put on the
// ledger is proven by receipts.
func TestAdmission(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	h, a := f.admitted("web-1")
	if l := a.GetLease(); l.GetHost() != "web-1" || l.GetAssurance() != "test" || l.GetSuspended() != nil || l.GetUntilMs() != l.GetIssuedMs()+60_000 {
		t.Errorf("%v", l)
	}
	proven, err := f.prove(a.GetLeaf())
	if err != nil || proven.Kind != receipt.KindEffective {
		t.Errorf("%v, %v", proven.Kind, err)
	}
	r, err := h.renew()
	if err != nil {
		t.Fatal(err)
	}
	if r.GetLease().GetVersion() != a.GetLease().GetVersion() || r.GetLease().GetUntilMs() <= a.GetLease().GetUntilMs() {
		t.Errorf("renewed %v of %v", r.GetLease(), a.GetLease())
	}
	if proven, err = f.prove(r.GetLeaf()); err != nil || proven.Kind != receipt.KindRenewals {
		t.Errorf("%v, %v", proven.Kind, err)
	}
	var listed []*apiv1.Host
	if err := f.client("").Hosts(f.ctx, "", func(x *apiv1.Host) bool { listed = append(listed, x); return true }); err != nil || len(listed) != 1 || listed[0].GetEk() != h.ek.String() || listed[0].GetLease().GetSuspended() != nil {
		t.Errorf("%v, %v", listed, err)
	}
	f.svid(h)
}

// svid has each node issue an SVID, and judges it as a client of SPIFFE would, with
// the bundle that another node gave.
func (f *field) svid(h *host) {
	t := f.t
	t.Helper()
	var bundle [][]byte
	for name, contact := range f.contacts() {
		s, err := h.at(name, contact).IssueSVID(f.ctx, h.name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if bundle == nil {
			bundle = s.GetBundle()
		}
		if len(bundle) != 3 || !slices.EqualFunc(bundle, s.GetBundle(), slices.Equal) {
			t.Errorf("%s gives %d authorities", name, len(s.GetBundle()))
		}
		domain := spiffeid.RequireTrustDomainFromString("test")
		trusted := x509bundle.New(domain)
		for _, der := range bundle {
			authority, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			trusted.AddX509Authority(authority)
		}
		var chain []*x509.Certificate
		for _, der := range s.GetCertificates() {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, c)
		}
		id, _, err := x509svid.Verify(chain, trusted)
		if err != nil || id.String() != "spiffe://test/host/"+h.name || s.GetSpiffeId() != id.String() {
			t.Errorf("%s: %v, %v", name, id, err)
		}
		own, err := x509.ParseCertificate(h.cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(chain[0].RawSubjectPublicKeyInfo, own.RawSubjectPublicKeyInfo) {
			t.Errorf("%s: the SVID is for another key", name)
		}
		if lasts := time.Until(chain[0].NotAfter); lasts > time.Minute+5*time.Second {
			t.Errorf("%s: the SVID lasts for %v, longer than the lease", name, lasts)
		}
		if _, _, err := x509svid.Verify(chain, x509bundle.New(domain)); err == nil {
			t.Error("an SVID verifies without an authority")
		}
	}
}

// TestBadHosts has nodes refuse, each for its reason, what is no host or is one no more.
func TestBadHosts(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	good, _ := f.admitted("good")

	// A genuine TPM that nobody enrolled.
	stranger := f.host("stranger")
	demand(t, "an unenrolled TPM", stranger.connect(), keystead.ReasonHostUnenrolled)

	// A host's disk, its TLS key with it, in another machine.
	clone := f.hostOn("good", stranger.rig)
	clone.cert = good.cert
	demand(t, "a cloned disk", clone.connect(), keystead.ReasonHostUnenrolled)

	// The same, in a machine that is enrolled under another name.
	if err := f.enrol("other", stranger.ek); err != nil {
		t.Fatal(err)
	}
	_, err := clone.admit()
	demand(t, "a cloned disk in another host", err, keystead.ReasonHardwareForeign)

	// A name's second TPM, and a TPM's second name.
	demand(t, "a TPM's second name", f.enrol("again", stranger.ek), keystead.ReasonHardwareTaken)

	// An enrolment that served once.
	e := admit.Enrolment{Domain: f.digest, Host: "again", Role: admit.RoleHost, EK: keystead.Sum([]byte("again"))}
	text, err := e.Text()
	if err != nil {
		t.Fatal(err)
	}
	note, err := f.member.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.propose(admit.TypeEnrolment, "again", note); err != nil {
		t.Fatal(err)
	}
	demand(t, "a replayed enrolment", f.propose(admit.TypeEnrolment, "again", note), keystead.ReasonSubjectChanged)

	// A machine that runs an altered file of a package.
	altered := f.host("altered")
	altered.goBad()
	if err := f.enrol("altered", altered.ek); err != nil {
		t.Fatal(err)
	}
	err = altered.connect()
	demand(t, "an altered host", err, keystead.ReasonFileAltered)
	if text := err.Error(); !strings.Contains(text, "/usr/") || !strings.Contains(text, "of package") {
		t.Errorf("the refusal names neither file nor package: %v", err)
	}

	// A renewal under way when the lease is suspended.
	good.everywhere()
	bundle, tick, err := good.answer(evidence.PurposeRenewal)
	if err != nil {
		t.Fatal(err)
	}
	good.goBad()
	bad := f.hostOn("good", good.rig)
	bad.phase = good.phase
	demand(t, "a host that went bad", bad.connect(), keystead.ReasonFileAltered)
	good.refusedByAll(keystead.ReasonLeaseSuspended)
	_, err = good.api.Renew(f.ctx, &apiv1.RenewRequest{Host: "good", Bundle: bundle, Tick: tick})
	demand(t, "good evidence of a suspended host", err, keystead.ReasonLeaseSuspended)
}

// TestRenewalGoesBad shows bad evidence in a renewal: the lease ends on all nodes.
func TestRenewalGoesBad(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	h, _ := f.admitted("web-1")
	h.everywhere()
	h.goBad()
	_, err := h.renew()
	demand(t, "a renewal after going bad", err, keystead.ReasonFileAltered)
	h.refusedByAll(keystead.ReasonLeaseSuspended)
}

// TestEnded has members end leases: by revoking an enrolment, by denying hardware.
func TestEnded(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	revoked, _ := f.admitted("revoked")
	denied, _ := f.admitted("denied")
	revoked.everywhere()
	denied.everywhere()
	e := admit.Enrolment{Domain: f.digest, Host: "revoked", Base: f.version(admit.TypeEnrolment, "revoked"), Role: admit.RoleHost, EK: revoked.ek, Revoked: true}
	text, err := e.Text()
	if err == nil {
		err = f.decree(admit.TypeEnrolment, "revoked", text)
	}
	if err != nil {
		t.Fatal(err)
	}
	revoked.refusedByAll(keystead.ReasonHostRevoked)
	f.suspended("revoked")
	d := admit.Denial{Domain: f.digest, Subject: admit.DenyEK(denied.ek), Because: "stolen"}
	if text, err = d.Text(); err == nil {
		err = f.decree(admit.TypeDenial, d.Subject, text)
	}
	if err != nil {
		t.Fatal(err)
	}
	denied.refusedByAll(keystead.ReasonHardwareDenied)
	f.suspended("denied")
	for deadline := time.Now().Add(patience); ; { // until its evidence is from after the suspension
		if _, err = denied.admit(); !errors.Is(err, keystead.ReasonLeaseSuspended) || time.Now().After(deadline) {
			break
		}
	}
	demand(t, "an application of a denied TPM", err, keystead.ReasonHardwareDenied)
}

// suspended waits until the ledger has a suspension of the host's lease.
func (f *field) suspended(host string) {
	f.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		found := false
		s, err := f.client("").Status(f.ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		err = f.client("").Tail(f.ctx, 0, s.GetTreeSize(), func(e *apiv1.Entry) bool {
			x, err := ledger.ParseSuspension(e.GetEntry())
			found = found || err == nil && x.Host == host
			return true
		})
		if err != nil {
			f.t.Fatal(err)
		}
		if found {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.t.Fatalf("the lease of %s was not suspended within 30 s", host)
}

// TestCutOff stops two of three nodes: the third grants nothing once its clock is stale.
func TestCutOff(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	h, _ := f.admitted("web-1")
	h.everywhere()
	f.signal(1, syscall.SIGSTOP)
	f.signal(2, syscall.SIGSTOP)
	defer f.signal(1, syscall.SIGCONT)
	defer f.signal(2, syscall.SIGCONT)
	f.until(0, "a stale clock", func(s *apiv1.StatusResponse) bool { return !s.GetFresh() })
	_, err := h.at("n1", f.contacts()["n1"]).IssueSVID(f.ctx, "web-1")
	demand(t, "a node that is cut off", err, keystead.ReasonClockStale)
	_, err = h.at("n1", f.contacts()["n1"]).Renew(f.ctx, &apiv1.RenewRequest{Host: "web-1"})
	demand(t, "a renewal at a node that is cut off", err, keystead.ReasonClockStale)
}

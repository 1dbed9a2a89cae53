package node_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/archive"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// The policies of these tests: guests of an accepted image, and of any.
const (
	guestPolicy = "keystead-policy/1\nname guests\nminimum-assurance test\nsoftware report\ntee accepted\n" +
		"rule microcode\n  require tee.kind != \"sev-snp\" || tee.tcb[3] >= 219\n  otherwise update microcode\n"
	anyGuest = "keystead-policy/1\nname any-guest\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\nrules none\n"
)

// today has the made-up vendors make what is good as of now: nodes go by their clocks.
func today(t *testing.T) {
	was := foundry.Now
	foundry.Now = time.Now().UTC()
	t.Cleanup(func() { foundry.Now = was })
}

// clouds are vendors of TEEs, one machine each, on which guests run.
type clouds struct {
	*field
	amd   *foundry.AMD
	intel *foundry.Intel
	aws   *foundry.AWS
	terms admit.Terms
}

// newClouds founds a domain whose terms for hosts accept their guests.
func newClouds(t *testing.T, policy string) *clouds {
	t.Helper()
	today(t)
	c := &clouds{field: newField(t, 3, "trust-disks=true"), amd: foundry.NewAMD(1), intel: foundry.NewIntel(), aws: foundry.NewAWS()}
	codes, err := c.member.Sign(fmt.Appendf(nil, "keystead-codeset/3\nname guests\nimage guest sha384:%x guarantees=none\n", bytes.Repeat([]byte{0xAB}, 48)))
	if err != nil {
		t.Fatal(err)
	}
	var vendors evidence.VendorRoots
	for _, r := range []evidence.VendorRoots{c.amd.Roots(), c.intel.Roots(), c.aws.Roots()} {
		vendors.Test = append(vendors.Test, r.Hardware...)
	}
	roots, err := admit.FormatTEERoots(vendors)
	if err != nil {
		t.Fatal(err)
	}
	if c.terms, err = admit.ParseTerms(c.objects[len(c.objects)-2]); err != nil {
		t.Fatal(err)
	}
	c.terms.Domain, c.terms.References = c.digest, nil
	c.terms.TEERoots, c.terms.CodeSets = c.bring(admit.ObjectTEERoots, roots), []keystead.Digest{c.bring(admit.ObjectCodeSet, codes)}
	c.judge(policy, c.amd.Pieces(false)...)
	return c
}

// bring has an object endorsed.
func (c *clouds) bring(kind string, content []byte) keystead.Digest {
	c.t.Helper()
	d, err := c.client("").PutObject(c.ctx, content)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := (&admit.Object{Domain: c.digest, Digest: d, Kind: kind}).Text()
	if err == nil {
		err = c.decree(admit.TypeObject, d.String(), text)
	}
	if err != nil && !errors.Is(err, keystead.ReasonSubjectChanged) { // brought before
		c.t.Fatal(err)
	}
	c.objects = append([][]byte{content}, c.objects...)
	return d
}

// judge puts terms in force with a policy, and what AMD and Intel say.
func (c *clouds) judge(policy string, amd ...evidence.Piece) {
	c.t.Helper()
	c.terms.Policy = c.bring(admit.ObjectPolicy, []byte(policy))
	c.terms.Collateral = []keystead.Digest{c.bring(admit.ObjectCollateral, foundry.Collateral(append(c.intel.Pieces(foundry.World{}), amd...)...).Bytes())}
	c.terms.Base = c.version(admit.TypeTerms, admit.RoleHost)
	text, err := c.terms.Text()
	if err == nil {
		err = c.decree(admit.TypeTerms, admit.RoleHost, text)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.objects = append([][]byte{text}, c.objects...)
}

// guest is a host with a TEE alone.
type guest struct {
	*host
	c    *clouds
	id   evidence.TEEHost
	edit func([]byte) // of an SNP report, before it is signed
}

// on makes a guest, which introduces itself as what it is.
func (c *clouds) on(kind, machine, name string, cert tls.Certificate) *guest {
	c.t.Helper()
	g := &guest{host: c.hostOn(name, &rig{}), c: c, id: evidence.TEEHost{Kind: kind, Machine: machine, Key: keystead.Sum(publicOf(c.t, cert))}}
	g.cert, g.tee = cert, g.report
	g.keys.TEE, g.ek = g.id, g.id.Identity()
	return g
}

func publicOf(t *testing.T, cert tls.Certificate) []byte {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.RawSubjectPublicKeyInfo
}

func (c *clouds) fresh() tls.Certificate {
	c.t.Helper()
	cert, err := attest.NewCertificate()
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

func (c *clouds) snp(name string) *guest {
	c.t.Helper()
	return c.on(evidence.KindSNP, fmt.Sprintf("%x", c.amd.ChipID), name, c.fresh())
}

// report is the guest's evidence by the machine that it is on.
func (g *guest) report(b evidence.Binding) *evidence.TEE {
	data := b.ReportData(nil)
	switch g.id.Kind {
	case evidence.KindTDX:
		return &evidence.TEE{Kind: evidence.KindTDX, Report: g.c.intel.Quote(data, foundry.Quoting{Version: 4})}
	case evidence.KindNitro:
		return &evidence.TEE{Kind: evidence.KindNitro, Report: g.c.aws.Document(b.Nonce, data[:], nil)}
	}
	return &evidence.TEE{Kind: evidence.KindSNP, Report: g.c.amd.Report(data, g.edit), Certificates: g.c.amd.Certificates()}
}

func (c *clouds) admits(g *guest) *apiv1.AdmitResponse {
	c.t.Helper()
	if err := c.enrolAs(admit.Enrolment{Host: g.name, TEE: g.id}); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range c.nodes { // a node that is behind knows no such host yet
		for deadline := time.Now().Add(patience); !c.knows(p.place.Name, g.name); {
			if time.Now().After(deadline) {
				c.t.Fatalf("%s never knows %s", p.place.Name, g.name)
			}
		}
	}
	return g.admitted()
}

// knows reports whether a node shows an enrolment.
func (c *clouds) knows(node, host string) (found bool) {
	c.t.Helper()
	if err := c.client(node).Hosts(c.ctx, host, func(*apiv1.Host) bool { found = true; return false }); err != nil {
		c.t.Fatal(err)
	}
	return found
}

// admitted asks until its evidence is from after the last suspension.
func (g *guest) admitted() *apiv1.AdmitResponse {
	g.c.t.Helper()
	a, err := g.admit()
	for deadline := time.Now().Add(patience); errors.Is(err, keystead.ReasonLeaseSuspended) && time.Now().Before(deadline); {
		a, err = g.admit()
	}
	if err != nil {
		g.c.t.Fatal(err)
	}
	return a
}

// standing returns the lease as the nodes have it.
func (g *guest) standing() *apiv1.Lease {
	g.c.t.Helper()
	var lease *apiv1.Lease
	if err := g.c.client("").Hosts(g.c.ctx, g.name, func(x *apiv1.Host) bool { lease = x.GetLease(); return false }); err != nil {
		g.c.t.Fatal(err)
	}
	return lease
}

// ends demands that a refusal for that reason ended the lease on all nodes, and has the
// host admitted again, as it is then.
func (g *guest) ends(what string, err error, reason keystead.Reason, again func()) {
	g.c.t.Helper()
	demand(g.c.t, what, err, reason)
	g.refusedByAll(keystead.ReasonLeaseSuspended)
	again()
	g.admitted()
}

// stays demands that a refusal for that reason left the lease as it is.
func (g *guest) stays(what string, err error, reason keystead.Reason) {
	g.c.t.Helper()
	demand(g.c.t, what, err, reason)
	if l := g.standing(); l.GetSuspended() != nil {
		g.c.t.Errorf("%s: suspended: %v", what, l.GetSuspended())
	}
}

// TestTEEHost has three nodes admit an SNP guest, who has neither TPM nor activated key,
// renew its lease, give it an SVID, and archive what it was judged by.
func TestTEEHost(t *testing.T) {
	t.Parallel()
	c := newClouds(t, guestPolicy)
	g := c.snp("web-1")
	demand(t, "a guest that nobody enrolled", g.connect(), keystead.ReasonHostUnenrolled)
	a := c.admits(g)
	if l := a.GetLease(); l.GetAssurance() != "test" || l.GetSuspended() != nil {
		t.Errorf("%v", l)
	}
	if proven, err := c.prove(a.GetLeaf()); err != nil || proven.Kind != receipt.KindEffective {
		t.Errorf("%v, %v", proven.Kind, err)
	}
	r, err := g.renew()
	if err != nil || r.GetLease().GetVersion() != a.GetLease().GetVersion() || r.GetLease().GetUntilMs() <= a.GetLease().GetUntilMs() {
		t.Fatalf("renewed %v, %v", r, err)
	}
	for i := range c.nodes {
		c.until(i, "a fresh clock", (*apiv1.StatusResponse).GetFresh)
	}
	c.svid(g.host)

	c.archivedByAll(a)
	if err := c.set(admit.ArchiveReaders, 1, c.member.Public().Name()); err != nil {
		t.Fatal(err)
	}
	raw, err := c.client("").ReadArchive(c.ctx, a.GetLeaf(), c.reading(keystead.Digest(a.GetTransactionId()), time.Minute, c.member))
	if err != nil {
		t.Fatal(err)
	}
	record, err := archive.ParseRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	file := c.exported(a.GetLeaf(), raw)
	again, err := archive.Replay(receipt.NewVerifier(c.digest), &file, record.Build)
	if err != nil || again.Verdict.String() != a.GetLease().GetVerdict() {
		t.Errorf("replayed as %v, %v", again, err)
	}
	collateral := c.terms.Collateral[0]
	for i, o := range file.Objects {
		if keystead.Sum(o) == collateral {
			file.Objects = append(append([][]byte{}, file.Objects[:i]...), file.Objects[i+1:]...)
			break
		}
	}
	_, err = archive.Replay(receipt.NewVerifier(c.digest), &file, record.Build)
	demand(t, "without the collateral", err, keystead.ReasonObjectMissing)

	if err := c.enrolAs(admit.Enrolment{Host: g.name, TEE: g.id, Revoked: true}); err != nil {
		t.Fatal(err)
	}
	g.refusedByAll(keystead.ReasonHostRevoked)
}

// TestTEEHostAttacks shows what speaks against a guest that has a lease, on connections and
// in renewals: the lease ends on all nodes. What anybody may send in its name ends nothing.
func TestTEEHostAttacks(t *testing.T) {
	t.Parallel()
	c := newClouds(t, guestPolicy)
	g := c.snp("web-1")
	c.admits(g)
	g.everywhere()
	old, tick, err := g.answer(evidence.PurposeRenewal)
	if err != nil {
		t.Fatal(err)
	}

	// Not its own: other guests of the chip, its own bytes of before.
	other := c.snp("web-2")
	demand(t, "another guest of the chip", other.connect(), keystead.ReasonHostUnenrolled)
	c.admits(other)
	other.name = "web-1"
	_, err = other.renew()
	g.stays("another guest's evidence in its name", err, keystead.ReasonHardwareForeign)
	bundle, when, err := other.answer(evidence.PurposeRenewal)
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.api.Renew(c.ctx, &apiv1.RenewRequest{Host: "web-1", Bundle: bundle, Tick: when})
	g.stays("a bundle of another guest", err, keystead.ReasonHardwareForeign)
	fresh, err := g.api.Nonce(c.ctx)
	for err == nil && fresh.GetTick() == tick {
		fresh, err = g.api.Nonce(c.ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.api.Renew(c.ctx, &apiv1.RenewRequest{Host: "web-1", Bundle: old, Tick: fresh.GetTick()})
	g.stays("a replay", err, keystead.ReasonBundleReplayed)
	g.edit = func(b []byte) { b[foundry.SNPReportData] ^= 1 }
	_, err = g.renew()
	g.stays("another nonce", err, keystead.ReasonNonceMismatch)

	// A guest of the chip that has the host's public key and the ledger's nonce, and no
	// private key, has evidence that would speak against the host: it finds no ear.
	g.edit = func(b []byte) { b[foundry.SNPPolicy+2] |= 1 << 3 }
	forged, when, err := g.answer(evidence.PurposeAdmission)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client("").PutObject(c.ctx, forged); err != nil {
		t.Fatal(err)
	}
	d := keystead.Sum(forged)
	err = c.propose(admit.TypeLease, "web-1", applicationOf(d, when), d)
	g.stays("a co-tenant's report for its key", err, keystead.ReasonNotMember)
	g.edit = nil
	if _, err = g.renew(); err != nil {
		t.Fatalf("after all that: %v", err)
	}

	// Its own.
	calm := func() { g.edit = nil }
	again := func(edit func([]byte)) *guest {
		x := c.on(g.id.Kind, g.id.Machine, g.name, g.cert)
		x.edit = edit
		return x
	}
	debug := func(b []byte) { b[foundry.SNPPolicy+2] |= 1 << 3 }
	g.ends("a debugger, on a connection", again(debug).connect(), keystead.ReasonTEEDebug, calm)
	g.edit = debug
	_, err = g.renew()
	g.ends("a debugger, in a renewal", err, keystead.ReasonTEEDebug, calm)
	g.edit = func(b []byte) { b[foundry.SNPMeasurement] ^= 1 }
	_, err = g.renew()
	g.ends("another measurement", err, keystead.ReasonBootUnaccepted, calm)
	g.edit = func(b []byte) { b[0x140] ^= 1 } // REPORT_ID
	_, err = g.renew()
	g.ends("a guest that was launched anew", err, keystead.ReasonBootChanged, func() {})
	c.told("rebooted web-1")

	// Its key on another chip, which says so, or says that it is the enrolled one.
	chip := *c.amd
	c.amd.NewChip(2)
	honest := c.on(g.id.Kind, fmt.Sprintf("%x", c.amd.ChipID), g.name, g.cert)
	g.stays("the key on another chip", honest.connect(), keystead.ReasonHostUnenrolled)
	liar := again(nil)
	g.ends("the key on another chip, that lies", liar.connect(), keystead.ReasonHardwareForeign, func() { *c.amd = chip })
}

// told watches the host from its beginning until that is told of it: the last of all.
func (c *clouds) told(event string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	var all []string
	err := c.client("").WatchHosts(ctx, &apiv1.WatchHostsRequest{Prefix: "web-1", AfterMs: 1}, func(m *apiv1.WatchHostsResponse) bool {
		all = append(all, words(m.GetEvents())...)
		return !slices.Contains(all, event)
	})
	if err != nil || all[len(all)-1] != event {
		c.t.Errorf("told %q, %v", all, err)
	}
}

// TestTEEHostTerms changes the terms under a guest that has a lease: a floor above its level
// and a revoked authority end it; collateral past its time keeps it from being renewed.
func TestTEEHostTerms(t *testing.T) {
	t.Parallel()
	c := newClouds(t, guestPolicy)
	g := c.snp("web-1")
	c.admits(g)
	g.everywhere()
	c.judge(strings.Replace(guestPolicy, ">= 219", ">= 220", 1), c.amd.Pieces(false)...)
	_, err := g.renew()
	g.ends("a level below the floor", err, keystead.ReasonRuleFailed, func() { c.judge(guestPolicy, c.amd.Pieces(false)...) })
	c.judge(guestPolicy, c.amd.PiecesOf(foundry.Now.AddDate(0, -2, 0), false)...)
	_, err = g.renew()
	g.stays("a list past its time", err, keystead.ReasonCollateralExpired)
	again := c.on(g.id.Kind, g.id.Machine, g.name, g.cert)
	g.stays("a list past its time, on a connection", again.connect(), keystead.ReasonCollateralExpired)
	c.judge(guestPolicy, c.amd.Pieces(true)...)
	_, err = g.renew()
	g.ends("a revoked authority", err, keystead.ReasonKeyRevoked, func() { c.judge(guestPolicy, c.amd.Pieces(false)...) })
}

// TestTEEHostsOfEachKind has guests of TDX and of Nitro admitted and renewed, and a machine
// with a TPM under the same terms, whose verdict names nothing of TEEs.
func TestTEEHostsOfEachKind(t *testing.T) {
	t.Parallel()
	c := newClouds(t, anyGuest)
	for _, g := range []*guest{c.on(evidence.KindTDX, fmt.Sprintf("%x", c.intel.PPID), "td", c.fresh()), c.on(evidence.KindNitro, "i-0abc-enc0123", "enclave", c.fresh())} {
		c.admits(g)
		if _, err := g.renew(); err != nil {
			t.Errorf("%s: %v", g.name, err)
		}
	}
	_, a := c.admitted("machine")
	proven, err := c.prove(a.GetLeaf())
	if err != nil {
		t.Fatal(err)
	}
	e, err := ledger.ParseEffective(proven.Entry)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range e.Verdict.Writes {
		if bytes.Contains(w.Value, []byte(`"collateral"`)) || bytes.Contains(w.Value, []byte(`"tee_roots"`)) {
			t.Errorf("a TPM's verdict names what TEEs are judged by: %s", w.Value)
		}
		if w.Key == admit.LeaseKey("machine") && w.Value[0] != 2 {
			t.Errorf("a TPM's lease has version %d", w.Value[0])
		}
	}
}

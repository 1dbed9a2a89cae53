package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/svid"
	"github.com/keystead/keystead/svid/svidagent"
)

// released asks the agent for a key, as this very process.
func release(a *Agent, key string) (*client.ReleasedKey, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return client.Local(a.cfg.Socket.Path).Release(ctx, key, 0)
}

// ask asks the agent what it tells operators at a path.
func ask(t *testing.T, a *Agent, path string) (int, string) {
	t.Helper()
	r, err := http.Get("http://" + a.ops.listener.Addr().String() + path)
	must(t, err)
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	must(t, err)
	return r.StatusCode, string(text)
}

// tells wants the lines in the agent's metrics, and the status of /readyz.
func tells(t *testing.T, a *Agent, ready int, lines ...string) {
	t.Helper()
	if got, text := ask(t, a, "/readyz"); got != ready {
		t.Errorf("/readyz is %d: %s", got, text)
	}
	_, text := ask(t, a, "/metrics")
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("the metrics do not tell %q:\n%s", line, text)
		}
	}
}

// TestHostInADomain takes a host through its life: not enrolled, enrolled, admitted
// with an SVID and a key for an application, renewed, gone bad, and closed.
func TestHostInADomain(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, func(c *Config) { c.Evidence.IntervalMS, c.Ops.Listen = 100, "127.0.0.1:0" })
	s := d.phase(a, Unenrolled)
	if want := "keystead host enrol web-1 --ek " + a.ek.String() + " --domain domain.json --member member.key"; s.GetEnrolment() != want || s.GetProblem().GetFindings()[0].GetReason() != "host-unenrolled" {
		t.Errorf("the status of a host that is not enrolled: %v", s)
	}
	_, err := release(a, "billing")
	is(t, err, keystead.ReasonHostUnenrolled)

	tells(t, a, 503, `keystead_agent_phase{phase="unenrolled"} 1`, `keystead_agent_phase{phase="admitted"} 0`, "keystead_agent_lease_left_seconds 0", `keystead_agent_refusals_total{reason="host-unenrolled"} `,
		`keystead_build_info{commit="0123",digest="sha256:45",version="devel"} 1`)
	d.enrol(a)
	s = d.phase(a, Admitted)
	if s.GetLeftMs() > 60_000 || s.GetLeftMs() == 0 || s.GetIntervalMs() != 100 || s.GetExposureMs() < s.GetLeftMs() || s.GetAssurance() != "test" || len(s.GetNodes()) != 2 || !s.GetNodes()[1].GetConnected() {
		t.Errorf("the status of an admitted host: %v", s)
	}
	k, err := release(a, "billing")
	must(t, err)
	if string(k.Bytes()) != "secret of billing" || k.Version() != 4 || strings.Contains(k.String(), "secret") {
		t.Errorf("got %v", k)
	}
	d.await("a release to this process", func() bool { return len(d.released) == 1 })
	self, err := os.Executable()
	must(t, err)
	content, err := os.ReadFile(self)
	must(t, err)
	if app := d.released[0].GetApplication(); app.GetLevel() != "peer" || app.GetPath() != self || app.GetDigest() != keystead.Sum(content).String() || app.GetUid() != uint32(os.Geteuid()) {
		t.Errorf("the node was told %v", app)
	}

	d.await("renewals", func() bool { return len(d.proofs) > 2 && d.proofs[1] == evidence.PurposeRenewal })
	d.phase(a, Admitted)
	tells(t, a, 200, `keystead_agent_phase{phase="admitted"} 1`, "keystead_agent_keys 1", `keystead_agent_node_connected{node="`, "keystead_agent_exposure_seconds ")
	a.checkSVID(t)

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = m.Advance(ctx) // an altered file runs
	must(t, err)
	s = d.phase(a, Refused)
	tells(t, a, 503, `keystead_agent_phase{phase="refused"} 1`, "keystead_agent_keys 0", `keystead_agent_refusals_total{reason="file-altered"} `, `keystead_agent_attempts_total{outcome="proved",purpose="renewal"} `)
	if s.GetLeftMs() != 0 || s.GetExposureMs() != 0 || s.GetKeys() != 0 || s.GetSpiffeId() != "" {
		t.Errorf("the status of a host that went bad: %v", s)
	}
	_, err = release(a, "billing")
	is(t, err, keystead.ReasonLeaseSuspended)
	a.noSVID(t)
}

// TestRenewsOnOneConnection: while all goes well, renewed evidence is all that a host
// shows, and the other nodes see none, nor is any asked for roster and terms. After trouble
// every node sees evidence again, judged by the terms of then.
func TestRenewsOnOneConnection(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, func(c *Config) { c.Evidence.IntervalMS = 100 })
	d.enrol(a)
	var shown [2]int
	var learned int
	d.await("renewals", func() bool { shown, learned = d.shown, d.learned; return len(d.proofs) > 2 })
	if shown[0] == 0 || shown[1] == 0 {
		t.Fatalf("nodes that judge the host saw evidence on %v connections", shown)
	}
	d.await("more renewals", func() bool { return len(d.proofs) > 7 })
	d.set(func() {
		if d.shown != shown {
			t.Errorf("nodes judged connections %v times while leases were renewed, and %v before", d.shown, shown)
		}
		if d.learned != learned {
			t.Errorf("roster and terms were asked for %d times while leases were renewed, and %d before", d.learned, learned)
		}
		d.doubts = func(bool) error {
			return refusal.Encode(keystead.Deny(keystead.Finding{Reason: keystead.ReasonPairMissing, Where: "renewal"}))
		}
	})
	d.await("connections anew", func() bool { return d.shown[0] > shown[0] && d.shown[1] > shown[1] && d.learned > learned })
}

// checkSVID demands files that a TLS server can use, and that the bundle vouches for.
func (a *Agent) checkSVID(t *testing.T) {
	t.Helper()
	file := func(name string) string { return filepath.Join(a.cfg.SVID.Dir, name) }
	until(t, "an SVID", func() bool { _, err := os.Stat(file(svidagent.ChainFile)); return err == nil })
	pair, err := tls.LoadX509KeyPair(file(svidagent.ChainFile), file(svidagent.KeyFile))
	must(t, err)
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	must(t, err)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://test/host/web-1" {
		t.Errorf("the SVID is of %v", leaf.URIs)
	}
	bundle, err := os.ReadFile(file(svidagent.BundleFile))
	must(t, err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) || strings.Count(string(bundle), "BEGIN") != 2 {
		t.Errorf("the bundle is %s", bundle)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(file(svidagent.KeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
}

// svids is the agent's part for SVIDs.
func (a *Agent) svids(t *testing.T) *svidagent.Part {
	t.Helper()
	for _, s := range a.seats {
		if p, ok := s.part.(*svidagent.Part); ok {
			return p
		}
	}
	t.Fatal("the agent has no part for SVIDs")
	return nil
}

// TestSVIDIsTriedAgain has nodes refuse an SVID and then issue it: the lease stands without, until
// a refusal says that there is none.
func TestSVIDIsTriedAgain(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	refusals := []keystead.Reason{keystead.ReasonClockStale, keystead.ReasonClockStale}
	d.refuses = func() error {
		if len(refusals) == 0 {
			return nil
		}
		r := refusals[0]
		refusals = refusals[1:]
		return keystead.Deny(keystead.Finding{Reason: r})
	}
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	a.checkSVID(t)
	if version := a.Status().GetLeaseVersion(); version == 0 || len(refusals) != 0 {
		t.Errorf("after refused SVIDs the lease is %d; %d refusals were not met", version, len(refusals))
	}
	d.set(func() { refusals = []keystead.Reason{keystead.ReasonLeaseSuspended} })
	a.svids(t).Leased(part.Lease{}) // as a renewal does
	d.await("the refusal", func() bool { return len(refusals) == 0 })
	until(t, "no SVID", func() bool { return a.Status().GetSpiffeId() == "" })
}

func (a *Agent) noSVID(t *testing.T) {
	t.Helper()
	for _, name := range []string{svidagent.ChainFile, svidagent.KeyFile, svidagent.BundleFile} {
		if _, err := os.Stat(filepath.Join(a.cfg.SVID.Dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// TestSilenceClosesTheAgent cuts the host off, and brings the domain back.
func TestSilenceClosesTheAgent(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	d.leaseMS, d.holdMS = 5_000, 3600_000
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	a.checkSVID(t)
	_, err := release(a, "held")
	must(t, err)
	d.set(func() { d.holdMS = 0 })
	_, err = release(a, "not-held")
	must(t, err)
	for _, n := range d.nodes {
		n.stop(true)
	}
	d.phase(a, Unavailable)
	a.noSVID(t)
	_, err = release(a, "not-held")
	is(t, err, keystead.ReasonLeaseExpired)
	_, err = release(a, "never-released")
	is(t, err, keystead.ReasonLeaseExpired)
	if k, err := release(a, "held"); err != nil || string(k.Bytes()) != "secret of held" {
		t.Errorf("a key that may be held for an hour while the domain can not be reached: %v, %v", k, err)
	}
	for _, n := range d.nodes {
		n.stop(false)
	}
	d.phase(a, Admitted)
	_, err = release(a, "not-held")
	must(t, err)
}

// TestKeysWithinTheLease asks while no node can be reached and the lease still stands.
func TestKeysWithinTheLease(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	_, err := release(a, "billing")
	must(t, err)
	d.nodes[0].stop(true) // one is enough
	_, err = release(a, "other")
	must(t, err)
	d.nodes[1].stop(true)
	if k, err := release(a, "billing"); err != nil || string(k.Bytes()) != "secret of billing" {
		t.Errorf("%v, %v", k, err)
	}
	_, err = release(a, "never-released")
	is(t, err, keystead.ReasonNoQuorum)
	d.set(func() { d.suspended = keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseSuspended}) })
	d.nodes[0].stop(false)
	_, err = release(a, "billing") // said by a node now, and the key is wiped
	is(t, err, keystead.ReasonLeaseSuspended)
	d.nodes[0].stop(true)
	_, err = release(a, "billing")
	is(t, err, keystead.ReasonLeaseSuspended)
}

// TestReleasePolicy has a node refuse by what the agent found out.
func TestReleasePolicy(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	d.deny = func(q *apiv1.ReleaseRequest) error {
		if app := q.GetApplication(); app.GetUid() != 12345 || app.GetDigest() != "sha256:00" {
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed, Where: "release of " + q.GetKey(), Want: "uid 12345", Got: "another"})
		}
		return nil
	}
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	_, err := release(a, "billing")
	is(t, err, keystead.ReasonRuleFailed)
	d.phase(a, Admitted) // that says nothing of the lease
}

// TestNodeWithAnotherTPM puts another machine in a node's place, with its TLS key.
func TestNodeWithAnotherTPM(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m)
	d.phase(a, Unenrolled)
	view, _ := a.nodes.current()
	contact := view.Contacts["n1"]
	other := contact
	other.Name = "n2" // where n1 answers
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d.enrol(a)
	_, err := a.nodes.dial(ctx, other, patience)
	is(t, err, keystead.ReasonKeyForeign)
	conn, err := a.nodes.dial(ctx, contact, patience)
	must(t, err)
	must(t, conn.Close())
}

// TestForeignSVIDs has a node issue, by an authority of its own making or by the one that the
// ledger has of it, what the host did not ask for. The agent puts none of it in place.
func TestForeignSVIDs(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	a.checkSVID(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	svids := a.svids(t)
	pair, err := tls.LoadX509KeyPair(filepath.Join(a.cfg.SVID.Dir, svidagent.ChainFile), filepath.Join(a.cfg.SVID.Dir, svidagent.KeyFile))
	must(t, err)
	secret := pair.PrivateKey.(*ecdsa.PrivateKey)
	if secret.Equal(a.self.signer) {
		t.Fatal("the subject key of the lease is in a file")
	}
	subjects, err := a.host.IssueSVID(ctx, "web-1") // as agents of before asked
	must(t, err)
	q, good := &apiv1.IssueSVIDRequest{Host: "web-1"}, &apiv1.IssueSVIDResponse{}
	lease, _, err := (&seat{agent: a}).Lease()
	must(t, err)
	q.PublicKey, q.Proof, err = svid.Prove(rand.Reader, secret, d.digest, "web-1", lease.Version)
	must(t, err)
	must(t, a.host.Call(ctx, apiv1connect.HostServiceIssueSVIDProcedure, q, good))
	if _, err := svids.Accept(ctx, good); err != nil {
		t.Fatal(err)
	}
	own := d.nodes[0]
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(9), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(100, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, foreign.Public(), foreign)
	must(t, err)
	unknown, err := x509.ParseCertificate(der)
	must(t, err)
	self := secret.Public()
	issue := func(by *x509.Certificate, secret *ecdsa.PrivateKey, key any, change func(*x509.Certificate)) *apiv1.IssueSVIDResponse {
		uri, err := url.Parse("spiffe://test/host/web-1")
		must(t, err)
		leaf := &x509.Certificate{SerialNumber: big.NewInt(10), URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(30 * time.Second), KeyUsage: x509.KeyUsageDigitalSignature}
		change(leaf)
		der, err := x509.CreateCertificate(rand.Reader, leaf, by, key, secret)
		must(t, err)
		r := &apiv1.IssueSVIDResponse{Certificates: [][]byte{der}, Bundle: [][]byte{by.Raw}, SpiffeId: leaf.URIs[0].String()}
		return r
	}
	name := func(id string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(id)
			must(t, err)
			c.URIs = []*url.URL{u}
		}
	}
	same := func(*x509.Certificate) {}
	changed := func(change func(*apiv1.IssueSVIDResponse)) *apiv1.IssueSVIDResponse {
		r := &apiv1.IssueSVIDResponse{Certificates: good.GetCertificates(), Bundle: good.GetBundle(), SpiffeId: good.GetSpiffeId()}
		change(r)
		return r
	}
	if _, err := svids.Accept(ctx, issue(own.root, own.ca, self, same)); err != nil {
		t.Fatalf("one as it should be: %v", err)
	}
	invalid := keystead.ReasonSignatureInvalid
	for what, tc := range map[string]struct {
		r    *apiv1.IssueSVIDResponse
		want keystead.Reason
	}{
		"another key":           {issue(own.root, own.ca, foreign.Public(), same), invalid},
		"another host":          {issue(own.root, own.ca, self, name("spiffe://test/host/db-1")), invalid},
		"another domain":        {issue(own.root, own.ca, self, name("spiffe://other-domain/host/web-1")), invalid},
		"an application's name": {issue(own.root, own.ca, self, name("spiffe://test/app/web-1")), invalid},
		"a path below":          {issue(own.root, own.ca, self, name("spiffe://test/host/web-1/x")), invalid},
		"another scheme":        {issue(own.root, own.ca, self, name("https://test/host/web-1")), invalid},
		"a DNS name as well":    {issue(own.root, own.ca, self, func(c *x509.Certificate) { c.DNSNames = []string{"db-1.example"} }), invalid},
		"for a hundred years":   {issue(own.root, own.ca, self, func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(100, 0, 0) }), invalid},
		"longer than the lease": {issue(own.root, own.ca, self, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(60*time.Second + svid.Slack + 5*time.Second) }), invalid},
		"over already":          {issue(own.root, own.ca, self, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), invalid},
		"an authority": {issue(own.root, own.ca, self, func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		}), invalid},
		"an unknown authority": {issue(unknown, foreign, self, same), keystead.ReasonSignerUnknown},
		"all of these at once": {issue(unknown, foreign, self, func(c *x509.Certificate) {
			name("spiffe://other-domain/host/db-1")(c)
			c.NotAfter = time.Now().AddDate(100, 0, 0)
		}), invalid},
		"an unknown authority beside the domain's": {changed(func(r *apiv1.IssueSVIDResponse) {
			r.Bundle = append(slices.Clone(r.Bundle), unknown.Raw)
		}), keystead.ReasonSignerUnknown},
		"for the subject key": {subjects, invalid},
		"signed by nobody":    {changed(func(r *apiv1.IssueSVIDResponse) { r.Bundle = nil }), invalid},
		"no certificate":      {changed(func(r *apiv1.IssueSVIDResponse) { r.Certificates = nil }), invalid},
		"two certificates":    {changed(func(r *apiv1.IssueSVIDResponse) { r.Certificates = [][]byte{r.Certificates[0], r.Certificates[0]} }), invalid},
		"garbage":             {changed(func(r *apiv1.IssueSVIDResponse) { r.Certificates = [][]byte{{1}} }), invalid},
		"garbage for bundle":  {changed(func(r *apiv1.IssueSVIDResponse) { r.Bundle = [][]byte{{1}} }), invalid},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := svids.Accept(ctx, tc.r)
			is(t, err, tc.want)
		})
	}
	if s, err := svids.Accept(ctx, changed(func(r *apiv1.IssueSVIDResponse) { r.SpiffeId = "spiffe://other-domain/host/db-1" })); err != nil || s.ID != "spiffe://test/host/web-1" {
		t.Errorf("what a node says beside the certificate counts: %v, %v", s, err)
	}
}

// TestForeignSVIDIsNotWritten has both nodes issue another host's SVID, by an authority
// that nobody knows: the file that applications read never holds it.
func TestForeignSVIDIsNotWritten(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	for _, n := range d.nodes {
		n.names = "spiffe://other-domain/host/db-1"
	}
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	d.await("three SVIDs issued", func() bool { return d.issued >= 3 })
	a.noSVID(t)
}

// TestOneAgent refuses a second agent in one directory, and leaves nothing behind.
func TestOneAgent(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if b, err := Start(ctx, a.cfg, "", a.log); err == nil {
		t.Errorf("a second agent started: %v", b.Close())
	}
	if _, err := release(a, "k"); errors.Is(err, keystead.ReasonShutdown) {
		t.Errorf("the first agent's socket was taken away: %v", err)
	}
	d.enrol(a)
	d.phase(a, Admitted)
	a.checkSVID(t)
	must(t, a.Close())
	a.noSVID(t)
	_, err := release(a, "k")
	is(t, err, keystead.ReasonShutdown)
	b, err := Start(ctx, a.cfg, "", a.log)
	must(t, err)
	must(t, b.Close())
}

// TestKeysAreNotPrinted looks for the private key in what prints.
func TestKeysAreNotPrinted(t *testing.T) {
	dir := t.TempDir()
	must(t, makeKey(dir))
	i, err := loadKey(dir)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dir, tlsFile))
	must(t, err)
	block, _ := pem.Decode(text)
	for _, s := range []string{i.String(), i.GoString(), (&secret{bytes: []byte("hidden")}).String(), (&secret{bytes: []byte("hidden")}).GoString()} {
		if strings.Contains(s, "hidden") || bytes.Contains([]byte(s), block.Bytes[:8]) {
			t.Errorf("printed: %s", s)
		}
	}
	must(t, os.Chmod(filepath.Join(dir, tlsFile), 0o644))
	if _, err := loadKey(dir); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a key that others can read: %v", err)
	}
}

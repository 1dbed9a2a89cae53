package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
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
	until(t, "an SVID", func() bool { _, err := os.Stat(file(svidFile)); return err == nil })
	pair, err := tls.LoadX509KeyPair(file(svidFile), file(svidKey))
	must(t, err)
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	must(t, err)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://test/host/web-1" {
		t.Errorf("the SVID is of %v", leaf.URIs)
	}
	bundle, err := os.ReadFile(file(bundleFile))
	must(t, err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) || strings.Count(string(bundle), "BEGIN") != 2 {
		t.Errorf("the bundle is %s", bundle)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(file(svidKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
}

func (a *Agent) noSVID(t *testing.T) {
	t.Helper()
	for _, name := range []string{svidFile, svidKey, bundleFile} {
		if _, err := os.Stat(filepath.Join(a.cfg.SVID.Dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// TestSilenceClosesTheAgent cuts the host off, and brings the domain back.
func TestSilenceClosesTheAgent(t *testing.T) {
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

// TestForeignSVIDs holds what a bad node may issue against what the host asked for.
func TestForeignSVIDs(t *testing.T) {
	d, m := newDomain(t)
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	good, err := a.host.IssueSVID(ctx, "web-1")
	must(t, err)
	if _, err := openSVID(good, a.self.public, time.Now()); err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKIXPublicKey(d.nodes[0].ca.Public().(*ecdsa.PublicKey))
	must(t, err)
	bad := func(change func(*apiv1.IssueSVIDResponse)) *apiv1.IssueSVIDResponse {
		r := &apiv1.IssueSVIDResponse{Certificates: good.GetCertificates(), Bundle: good.GetBundle(), SpiffeId: good.GetSpiffeId()}
		change(r)
		return r
	}
	for name, tc := range map[string]struct {
		r   *apiv1.IssueSVIDResponse
		key []byte
	}{
		"another key":        {good, other},
		"another id":         {bad(func(r *apiv1.IssueSVIDResponse) { r.SpiffeId = "spiffe://test/host/web-2" }), a.self.public},
		"signed by nobody":   {bad(func(r *apiv1.IssueSVIDResponse) { r.Bundle = nil }), a.self.public},
		"no certificate":     {bad(func(r *apiv1.IssueSVIDResponse) { r.Certificates = nil }), a.self.public},
		"garbage":            {bad(func(r *apiv1.IssueSVIDResponse) { r.Certificates = [][]byte{{1}} }), a.self.public},
		"garbage for bundle": {bad(func(r *apiv1.IssueSVIDResponse) { r.Bundle = [][]byte{{1}} }), a.self.public},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openSVID(tc.r, tc.key, time.Now())
			is(t, err, keystead.ReasonSignatureInvalid)
		})
	}
	if _, err := openSVID(good, a.self.public, time.Now().AddDate(1, 0, 0)); !errors.Is(err, keystead.ReasonSignatureInvalid) {
		t.Errorf("an SVID of last year: %v", err)
	}
}

// TestOneAgent refuses a second agent in one directory, and leaves nothing behind.
func TestOneAgent(t *testing.T) {
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
	block, _ := pem.Decode(i.pem)
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

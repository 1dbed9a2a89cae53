package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/svid"
	"github.com/keystead/keystead/svid/svidagent"
)

// patience is for things that come, on a machine that has other work.
const patience = 60 * time.Second

// domain is two nodes as a host sees them: their API on attested connections, software
// TPMs of their own, real appraisal of the host. What they agree on is one struct here.
type domain struct {
	t       *testing.T
	dir     string
	stage   *practice.Stage
	file    *client.Domain
	digest  keystead.Digest
	genesis []byte
	objects map[keystead.Digest][]byte
	rules   *admit.Rules
	nodes   []*node

	mu        sync.Mutex
	enrolled  map[keystead.Digest]string
	leaseMS   uint64
	tick      uint64
	nonces    map[uint64][]byte
	lease     *apiv1.Lease
	proofs    []string // purposes of evidence that was accepted
	learned   int      // how often roster or terms were asked for
	shown     [2]int   // by node, how often it looked for by what to judge a connection
	kept      *appraise.State
	asked     []asked                    // renewals, accepted or not
	doubts    func(continues bool) error // what a node says instead of judging a renewal; nil for nothing
	released  []*apiv1.ReleaseRequest
	suspended *keystead.DenyError
	guests    *appraise.Input // by what hosts with a TEE alone are judged; nil: hosts have TPMs
	tsm       configfsi.Client
	deny      func(*apiv1.ReleaseRequest) error
	holdMS    uint64
	issued    int          // SVIDs
	refuses   func() error // what a node says instead of issuing one; nil for nothing
	apps      judged
	terms     admit.Terms   // for hosts
	changed   chan struct{} // closed and made anew whenever something happens
}

// asked is a renewal that was asked for.
type asked struct {
	tick      uint64
	continues bool
	accepted  bool
}

// node is one of them.
type node struct {
	apiv1connect.UnimplementedHostServiceHandler
	apiv1connect.UnimplementedDomainServiceHandler
	apiv1connect.UnimplementedLedgerServiceHandler
	*domain
	name    string
	machine *practice.Machine
	ca      *ecdsa.PrivateKey
	root    *x509.Certificate
	signer  *key.Node
	names   string // what it has SVIDs name, whoever asks; "" for the host
	judge   *attest.Appraiser
	l       net.Listener

	mu   sync.Mutex
	down bool
}

// newDomain sets all up, with a machine for a host beside.
func newDomain(t *testing.T) (*domain, *practice.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rec, err := recording.Load(recording.Committed())
	must(t, err)
	d := &domain{t: t, dir: t.TempDir(), objects: map[keystead.Digest][]byte{}, enrolled: map[keystead.Digest]string{}, leaseMS: 60_000, nonces: map[uint64][]byte{}, changed: make(chan struct{})}
	d.stage, err = practice.New(rec)
	must(t, err)
	t.Cleanup(func() { must(t, d.stage.Close()) })
	machines, err := d.stage.Machines(ctx, d.dir, "n1", "n2", "host")
	must(t, err)
	t.Cleanup(func() {
		for _, m := range machines {
			must(t, m.Stop())
		}
	})
	d.found(ctx, machines)
	for _, n := range d.nodes {
		n.serve()
	}
	return d, machines["host"]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (d *domain) put(b []byte) keystead.Digest {
	d.objects[keystead.Sum(b)] = b
	return keystead.Sum(b)
}

// found writes the domain's genesis entry: two nodes with the TPMs that they have, and
// the terms by which nodes and hosts are judged.
func (d *domain) found(ctx context.Context, machines map[string]*practice.Machine) {
	t := d.t
	member, err := key.NewMember(rand.Reader, "ops")
	must(t, err)
	g := receipt.Genesis{Name: "test", Created: uint64(time.Now().UnixMilli()), Roster: receipt.Roster{Threshold: 1, Members: []key.MemberPublic{member.Public()}}}
	roots, err := admit.FormatRoots(tpm2.Roots{Test: []*x509.Certificate{d.stage.Root()}})
	must(t, err)
	text, _ := policy.Shipped("demo")
	for _, role := range []string{admit.RoleHost, admit.RoleNode} {
		terms := &admit.Terms{Role: role, Policy: d.put(text), Roots: d.put(roots), References: []keystead.Digest{d.put(d.stage.Recording.Reference)}, CodeSets: []keystead.Digest{d.put([]byte(d.stage.Recording.CodeSet))}}
		b, err := terms.Text()
		must(t, err)
		if role == admit.RoleHost {
			d.terms = *terms
		}
		d.put(b)
		g.Settings = append(g.Settings, admit.FoundingTerms(role, b))
	}
	g.Settings = append(g.Settings, admit.FoundingVersion())
	d.file = &client.Domain{}
	for _, name := range []string{"n1", "n2"} {
		seed := make([]byte, key.NodeSeedSize)
		rand.Read(seed)
		signer, err := key.NewNode(bytes.NewReader(seed))
		must(t, err)
		ak, err := machines[name].Device().AK(ctx, collect.AKECC)
		must(t, err)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		n := &node{domain: d, name: name, machine: machines[name], l: l, signer: signer}
		n.ca, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
		der, err := x509.CreateCertificate(rand.Reader, template, template, n.ca.Public(), n.ca)
		must(t, err)
		n.root, err = x509.ParseCertificate(der)
		must(t, err)
		c := client.Contact{Name: name, Key: signer.Public(), AK: key.DigestAK(ak), TLS: keystead.Sum(n.root.RawSubjectPublicKeyInfo), Peer: "127.0.0.1:1", API: "https://" + l.Addr().String()}
		d.file.Contacts = append(d.file.Contacts, c.Sign(signer))
		g.Roster.Nodes = append(g.Roster.Nodes, c.Node())
		d.nodes = append(d.nodes, n)
	}
	note, err := g.Text()
	must(t, err)
	d.file.Genesis, err = member.Sign(note)
	must(t, err)
	d.genesis, err = receipt.NoteEntry(d.file.Genesis)
	must(t, err)
	d.digest = keystead.Sum(d.genesis)
	force, err := admit.TermsOf(told{&g, admit.Value{}}, admit.RoleHost)
	must(t, err)
	d.rules, err = force.Open(func(x keystead.Digest) ([]byte, error) { return d.objects[x], nil })
	must(t, err)
}

// input is by what hosts are judged.
func (d *domain) input() appraise.Input {
	if d.guests != nil {
		return *d.guests
	}
	return d.rules.Input(time.Now())
}

// serve answers on the node's port: hosts by their evidence, others in plain TLS.
func (n *node) serve() {
	n.judge = attest.NewAppraiser(func(_ context.Context, id keystead.Digest) (attest.Terms, error) {
		n.domain.mu.Lock()
		defer n.domain.mu.Unlock()
		n.shown[slices.Index(n.nodes, n)]++
		in := n.input()
		in.Time = time.Now()
		if n.enrolled[id] == "" {
			return attest.Terms{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonHostUnenrolled, Where: "hardware identity " + id.String()})
		}
		return attest.Terms{Name: n.enrolled[id], Input: in}, nil
	})
	cert := tls.Certificate{Certificate: [][]byte{n.root.Raw}, PrivateKey: n.ca}
	prover := collect.NewProver(n.machine.Device(), collect.Machine{Root: filepath.Join(n.machine.Dir, practice.Root)}, collect.AKECC, "")
	l, err := attest.NewListener(n.l, attest.Config{Certificate: cert, Prover: prover, Verifier: n.judge, Timeout: patience,
		Plain: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}}, attest.ListenerOptions{})
	must(n.t, err)
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewHostServiceHandler(n))
	mux.Handle(apiv1connect.NewDomainServiceHandler(n))
	mux.Handle(apiv1connect.NewLedgerServiceHandler(n))
	mux.Handle(appv1connect.NewApplicationServiceHandler(&court{node: n, challenges: map[[32]byte]time.Time{}}))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: protocols, ConnContext: attest.ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		down := n.down
		n.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	})}
	go s.Serve(l)
	n.t.Cleanup(func() { s.Close(); l.Close() })
}

// stop makes the node answer nothing.
func (n *node) stop(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
}

// happened wakes who waits for something. The lock is held.
func (d *domain) happened() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// set changes what the nodes agree on.
func (d *domain) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	d.happened()
}

func (n *node) Show(context.Context, *connect.Request[apiv1.ShowRequest]) (*connect.Response[apiv1.ShowResponse], error) {
	n.domain.mu.Lock()
	n.learned++
	n.domain.mu.Unlock()
	return connect.NewResponse(&apiv1.ShowResponse{Genesis: n.genesis, Contacts: n.file.Contacts}), nil
}

func (n *node) GetState(_ context.Context, q *connect.Request[apiv1.GetStateRequest]) (*connect.Response[apiv1.GetStateResponse], error) {
	out := &apiv1.GetStateResponse{}
	n.domain.mu.Lock()
	defer n.domain.mu.Unlock()
	for _, k := range q.Msg.GetKeys() {
		v := &apiv1.Value{Key: k}
		if text, ok := n.states(k); ok {
			v.Value, v.Version = text, 1
		}
		out.Values = append(out.Values, v)
	}
	return connect.NewResponse(out), nil
}

// Read gives the nodes' authorities, as the ledger has them.
func (n *node) Read(_ context.Context, q *connect.Request[apiv1.ReadRequest]) (*connect.Response[apiv1.ReadResponse], error) {
	out := &apiv1.ReadResponse{}
	for _, k := range q.Msg.GetKeys() {
		v := &apiv1.Value{Key: k}
		for _, o := range n.nodes {
			if k == svid.AuthorityKey(o.name) {
				v.Value, v.Version = svid.SignAuthority(o.signer, n.digest, o.name, o.root.Raw), 1
			}
		}
		out.Values = append(out.Values, v)
	}
	return connect.NewResponse(out), nil
}

func (n *node) GetObject(_ context.Context, q *connect.Request[apiv1.GetObjectRequest], s *connect.ServerStream[apiv1.GetObjectResponse]) error {
	d, err := keystead.ParseDigest(q.Msg.GetDigest())
	if err != nil {
		return err
	}
	n.domain.mu.Lock()
	b := n.objects[d]
	n.domain.mu.Unlock()
	for len(b) > 0 {
		chunk := b[:min(len(b), 512<<10)]
		if err := s.Send(&apiv1.GetObjectResponse{Chunk: chunk}); err != nil {
			return err
		}
		b = b[len(chunk):]
	}
	return nil
}

// peer is the host at the other end, by its evidence.
func (n *node) peer(ctx context.Context) (attest.Peer, error) {
	if p := attest.FromContext(ctx).Peer(); !p.IsZero() {
		return p, nil
	}
	return attest.Peer{}, refusal.Encode(keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "connection"}))
}

func (n *node) Nonce(context.Context, *connect.Request[apiv1.NonceRequest]) (*connect.Response[apiv1.NonceResponse], error) {
	n.domain.mu.Lock()
	defer n.domain.mu.Unlock()
	n.tick++
	nonce := make([]byte, 32)
	rand.Read(nonce)
	n.nonces[n.tick] = nonce
	return connect.NewResponse(&apiv1.NonceResponse{Tick: n.tick, Nonce: nonce, TimeMs: uint64(time.Now().UnixMilli()), LeaseMs: n.leaseMS}), nil
}

func (n *node) Admit(ctx context.Context, q *connect.Request[apiv1.AdmitRequest]) (*connect.Response[apiv1.AdmitResponse], error) {
	l, from, err := n.obtain(ctx, evidence.PurposeAdmission, q.Msg.GetHost(), q.Msg.GetBundle(), q.Msg.GetTick())
	return connect.NewResponse(&apiv1.AdmitResponse{Lease: l, Replayed: from}), err
}

func (n *node) Renew(ctx context.Context, q *connect.Request[apiv1.RenewRequest]) (*connect.Response[apiv1.RenewResponse], error) {
	l, from, err := n.obtain(ctx, evidence.PurposeRenewal, q.Msg.GetHost(), q.Msg.GetBundle(), q.Msg.GetTick())
	return connect.NewResponse(&apiv1.RenewResponse{Lease: l, Replayed: from}), err
}

// obtain judges evidence as nodes do, and gives a lease and from where to go on.
func (n *node) obtain(ctx context.Context, purpose, host string, raw []byte, tick uint64) (*apiv1.Lease, *apiv1.Replayed, error) {
	p, err := n.peer(ctx)
	if err != nil {
		return nil, nil, err
	}
	b, err := evidence.Parse(raw)
	if err != nil {
		return nil, nil, refusal.Encode(err)
	}
	n.domain.mu.Lock()
	defer n.domain.mu.Unlock()
	defer n.happened()
	_, continues := b.Continues()
	if purpose == evidence.PurposeRenewal {
		n.asked = append(n.asked, asked{tick: tick, continues: continues})
		if n.doubts != nil {
			if err := n.doubts(continues); err != nil {
				return nil, nil, refusal.Encode(err)
			}
		}
	}
	in := n.input()
	subject := b.Parts().Binding.SubjectKey
	in.Bundle, in.Key, in.Time = b, n.judge.Accepted(p.Identity()), time.Now()
	in.Expect = evidence.Binding{Purpose: purpose, Nonce: n.nonces[tick], SubjectKey: subject}
	if purpose == evidence.PurposeRenewal {
		in.Prior = n.kept
	}
	v, state := appraise.Follow(in)
	switch {
	case errors.Is(v.Err(), keystead.ReasonLogUnknown):
		err = v.Err()
	case n.enrolled[p.Identity()] != host:
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonHostUnenrolled})
	case v.Err() != nil:
		err, n.suspended = v.Err(), keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseSuspended})
	case b.Parts().TPM != nil && b.Parts().TPM.EKPublic == nil:
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing})
	case purpose == evidence.PurposeRenewal && n.suspended != nil:
		err = n.suspended
	case purpose == evidence.PurposeRenewal && n.lease == nil:
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseUnknown})
	}
	if err != nil {
		return nil, nil, refusal.Encode(err)
	}
	n.proofs = append(n.proofs, purpose)
	if k := len(n.asked); purpose == evidence.PurposeRenewal {
		n.asked[k-1].accepted = true
	}
	n.kept = state
	r := state.Reference()
	from := &apiv1.Replayed{EventLog: r.EventLog[:], ImaLog: r.IMALog[:], Bytes: r.Bytes, Entries: r.Entries, Packages: r.Packages[:]}
	if purpose == evidence.PurposeAdmission {
		n.suspended = nil
		n.lease = &apiv1.Lease{Version: n.tick}
	}
	n.lease = &apiv1.Lease{Host: host, Role: admit.RoleHost, Version: n.lease.Version, HoldsMs: n.leaseMS, Assurance: v.Assurance().String(), Verdict: v.Digest().String(), SubjectKey: subject}
	return n.lease, from, nil
}

func (n *node) IssueSVID(ctx context.Context, q *connect.Request[apiv1.IssueSVIDRequest]) (*connect.Response[apiv1.IssueSVIDResponse], error) {
	if _, err := n.peer(ctx); err != nil {
		return nil, err
	}
	n.domain.mu.Lock()
	defer n.domain.mu.Unlock()
	defer n.happened()
	if n.refuses != nil {
		if err := n.refuses(); err != nil {
			return nil, refusal.Encode(err)
		}
	}
	public, err := x509.ParsePKIXPublicKey(n.lease.GetSubjectKey())
	if len(q.Msg.GetPublicKey()) > 0 {
		public, err = svid.OpenKey(q.Msg.GetPublicKey(), q.Msg.GetProof(), n.digest, q.Msg.GetHost(), n.lease.GetVersion())
	}
	if err != nil {
		return nil, refusal.Encode(err)
	}
	id := cmp.Or(n.names, "spiffe://test/host/"+q.Msg.GetHost())
	n.issued++
	uri, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	n.tick++
	template := &x509.Certificate{SerialNumber: new(big.Int).SetUint64(n.tick), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Duration(n.leaseMS) * time.Millisecond), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, n.root, public, n.ca)
	out := &apiv1.IssueSVIDResponse{Certificates: [][]byte{der}, SpiffeId: id}
	for _, o := range n.nodes {
		out.Bundle = append(out.Bundle, o.root.Raw)
	}
	return connect.NewResponse(out), err
}

func (n *node) Release(ctx context.Context, q *connect.Request[apiv1.ReleaseRequest]) (*connect.Response[apiv1.ReleaseResponse], error) {
	if _, err := n.peer(ctx); err != nil {
		return nil, err
	}
	n.domain.mu.Lock()
	defer n.domain.mu.Unlock()
	defer n.happened()
	if n.suspended != nil {
		return nil, refusal.Encode(n.suspended)
	}
	if n.deny != nil {
		if err := n.deny(q.Msg); err != nil {
			return nil, refusal.Encode(err)
		}
	}
	n.released = append(n.released, q.Msg)
	return connect.NewResponse(&apiv1.ReleaseResponse{Secret: []byte("secret of " + q.Msg.GetKey()), Version: 4, HoldMs: n.holdMS}), nil
}

// await waits until the domain is as wanted.
func (d *domain) await(what string, wanted func() bool) {
	d.t.Helper()
	end := time.After(patience)
	for {
		d.mu.Lock()
		ok, changed := wanted(), d.changed
		d.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-end:
			d.t.Fatalf("not in time: %s", what)
		}
	}
}

// logged collects what an agent logs, for tests that fail.
type logged struct{ t *testing.T }

func (l logged) Write(b []byte) (int, error) {
	l.t.Helper()
	l.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

// start runs an agent on the machine.
func (d *domain) start(m *practice.Machine, change ...func(*Config)) *Agent {
	d.t.Helper()
	return d.startWith(m, (*Agent).parts, change...)
}

// startWith runs one of those parts.
func (d *domain) startWith(m *practice.Machine, parts func(*Agent) []maker, change ...func(*Config)) *Agent {
	d.t.Helper()
	dir, err := os.MkdirTemp("", "agent-") // short: a socket's path has to fit
	must(d.t, err)
	d.t.Cleanup(func() { must(d.t, os.RemoveAll(dir)) })
	must(d.t, Prepare(dir, Place{Host: "web-1", Domain: d.file, Digest: d.digest, TPM: TPMConfig{Path: m.Socket(), Root: filepath.Join(m.Dir, practice.Root)},
		Socket: filepath.Join(dir, "socket"), Systems: Systems{SVID: svidagent.Config{Dir: filepath.Join(dir, "svid")}}}))
	cfg, err := ReadConfig(filepath.Join(dir, ConfigFile))
	must(d.t, err)
	for _, c := range change {
		c(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var log *slog.Logger
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(logged{d.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	} else {
		log = slog.New(slog.DiscardHandler)
	}
	a, err := start(ctx, cfg, "devel 0123 sha256:45", log, collect.Machine{Root: cfg.TPM.Root, TSM: d.tsm}, parts)
	must(d.t, err)
	d.t.Cleanup(func() { must(d.t, a.Close()) })
	return a
}

// enrol makes the machine a host of the domain, as members do.
func (d *domain) enrol(a *Agent) { d.set(func() { d.enrolled[a.ek] = "web-1" }) }

// phase waits until the agent is in a phase.
func (d *domain) phase(a *Agent, want Phase) (s *apiv1.AgentStatusResponse) {
	d.t.Helper()
	until(d.t, "phase "+string(want), func() bool { s = a.Status(); return s.GetPhase() == string(want) })
	return s
}

// until waits for what nothing tells of.
func until(t *testing.T, what string, wanted func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !wanted(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// is demands a refusal for exactly this reason.
func is(t *testing.T, err error, want keystead.Reason) {
	t.Helper()
	var denied *keystead.DenyError
	if !errors.As(err, &denied) || len(denied.Findings) != 1 || denied.Findings[0].Reason != want {
		t.Errorf("want %s, got %v", want, fmt.Sprint(err))
	}
}

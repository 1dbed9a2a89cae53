package node_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/receipt"
)

// field is a domain of nodes with software TPMs that the recorded boot was replayed
// into, and what its machines are judged by.
type field struct {
	*cluster
	ca      *swtpm.CA
	rec     *recording.Recording
	root    string   // a machine's logs, of the recording's first phase
	objects [][]byte // founding terms and all that they name
	ctx     context.Context
}

// rig is a machine with a software TPM.
type rig struct {
	process *swtpm.TPM
	tpm     *collect.TPM
	keys    evidence.TPMKeys
	ek      keystead.Digest
	born    uint64 // Unix milliseconds after which its certificate is good
}

func (f *field) rig() *rig {
	f.t.Helper()
	process, err := f.ca.Start(f.ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	r := &rig{process: process}
	f.t.Cleanup(func() {
		if err := process.Stop(); err != nil {
			f.t.Error(err)
		}
	})
	if r.tpm, err = collect.OpenTPM(process.Socket); err != nil {
		f.t.Fatal(err)
	}
	f.replay(r, 0)
	if r.keys, err = collect.NewProver(r.tpm, collect.Machine{Root: f.root}, collect.AKECC, "").Introduce(f.ctx); err != nil {
		f.t.Fatal(err)
	}
	ek, err := tpm2.ParsePublic(r.keys.EKPublic)
	if err != nil {
		f.t.Fatal(err)
	}
	r.ek, r.born = ek.Fingerprint(), uint64(time.Now().UnixMilli()+1000)
	return r
}

// replay has the TPM measure a phase of the recording.
func (f *field) replay(r *rig, phase int) {
	f.t.Helper()
	err := f.rec.Replay(phase, func(pcr int, d map[evidence.Bank][]byte) error { return r.tpm.Extend(f.ctx, pcr, d) })
	if err != nil {
		f.t.Fatal(err)
	}
}

// logs lays out the logs as they are after a phase, below a directory.
func logs(rec *recording.Recording, phase int, root string) error {
	for path, data := range map[string][]byte{
		"sys/kernel/security/tpm0/binary_bios_measurements":   rec.EventLog,
		"sys/kernel/security/ima/binary_runtime_measurements": rec.Phases[phase].IMALog,
		"var/lib/dpkg/status":                                 rec.Status,
	} {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// newField founds a domain of n nodes that show evidence, and starts them.
func newField(t *testing.T, n int, settings ...string) *field {
	t.Helper()
	return newFieldOn(t, n, func(string) {}, settings...)
}

// newFieldOn is newField, for nodes whose directories lie on what disk makes of a new path.
func newFieldOn(t *testing.T, n int, disk func(dir string), settings ...string) *field {
	t.Helper()
	whole(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	f := &field{cluster: &cluster{t: t, dir: t.TempDir(), file: &client.Domain{}, evidence: true}, ctx: ctx}
	var err error
	if f.rec, err = recording.Load(recording.Committed()); err != nil {
		t.Fatal(err)
	}
	if f.ca, err = swtpm.NewCA(f.dir); err != nil {
		t.Fatal(err)
	}
	f.root = filepath.Join(f.dir, "root")
	if err := logs(f.rec, 0, f.root); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		r := f.rig()
		p := &process{place: node.Place{OpenWrites: true, Name: name, Peer: address(t, "127.0.0.1"), API: address(t, "127.0.0.1"), Ops: address(t, "127.0.0.1"),
			TPM: r.process.Socket, Root: f.root, Note: f.rec.Note()}, dir: filepath.Join(f.dir, name)}
		disk(p.dir)
		contact, err := node.Prepare(context.Background(), p.dir, p.place)
		if err != nil {
			t.Fatal(err)
		}
		f.nodes = append(f.nodes, p)
		f.file.Contacts = append(f.file.Contacts, contact)
	}
	f.seal(append(f.terms(), settings...)...)
	for _, p := range f.nodes {
		for _, o := range f.objects {
			if err := node.PutObject(p.dir, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.startAll()
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	f.whole(all...)
	for i := range f.nodes {
		f.until(i, "a ticking clock", func(s *apiv1.StatusResponse) bool { return s.GetDomainClockMs() > f.created })
	}
	return f
}

// terms makes the founding terms and their objects, and returns the settings that name
// them.
func (f *field) terms() (settings []string) {
	f.t.Helper()
	text, _ := policy.Shipped("demo")
	roots, err := admit.FormatRoots(tpm2.Roots{Test: []*x509.Certificate{f.ca.Root}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.objects = append(f.objects, text, roots, f.rec.Reference, []byte(f.rec.CodeSet))
	for _, role := range []string{admit.RoleHost, admit.RoleNode} {
		terms := admit.Terms{Role: role, Policy: keystead.Sum(text), Roots: keystead.Sum(roots),
			References: []keystead.Digest{keystead.Sum(f.rec.Reference)}, CodeSets: []keystead.Digest{keystead.Sum([]byte(f.rec.CodeSet))}}
		b, err := terms.Text()
		if err != nil {
			f.t.Fatal(err)
		}
		f.objects = append(f.objects, b)
		settings = append(settings, admit.FoundingTerms(role, b))
	}
	return settings
}

// host is a machine that asks to be admitted.
type host struct {
	*rig
	f     *field
	name  string
	phase int
	tick  uint64 // answered last
	cert  tls.Certificate
	tee   func(evidence.Binding) *evidence.TEE // of a host with a TEE alone
	api   *client.Host
	one   map[string]*client.Host // connections to single nodes
}

// host makes a machine, connected to nobody yet.
func (f *field) host(name string) *host { return f.hostOn(name, f.rig()) }

func (f *field) hostOn(name string, r *rig) *host {
	f.t.Helper()
	h := &host{rig: r, f: f, name: name}
	var err error
	if h.cert, err = attest.NewCertificate(); err != nil {
		f.t.Fatal(err)
	}
	h.api = client.NewHost(client.HostOptions{Dial: h.dial, Attempt: 20 * time.Second})
	f.t.Cleanup(h.api.Close)
	h.api.Nodes(f.contacts())
	return h
}

// contacts of the founding nodes.
func (f *field) contacts() map[string]client.Contact {
	out := map[string]client.Contact{}
	for _, signed := range f.file.Contacts {
		c, err := client.OpenContact(signed)
		if err != nil {
			f.t.Fatal(err)
		}
		out[c.Name] = c
	}
	return out
}

func (h *host) dial(ctx context.Context, to client.Contact) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(to.API, "https://"))
	if err != nil {
		return nil, err
	}
	return attest.Client(ctx, raw, attest.Config{Certificate: h.cert, Prover: h, Verifier: attest.NewAppraiser(h.judgeNode), Timeout: 20 * time.Second})
}

// judgeNode says by what the host judges nodes.
func (h *host) judgeNode(context.Context, keystead.Digest) (attest.Terms, error) {
	var rules *admit.Rules
	f := admit.InForce{Role: admit.RoleNode, Digest: keystead.Sum(h.f.objects[len(h.f.objects)-1])}
	rules, err := f.Open(func(d keystead.Digest) ([]byte, error) {
		for _, o := range h.f.objects {
			if keystead.Sum(o) == d {
				return o, nil
			}
		}
		return nil, nil
	})
	if err != nil {
		return attest.Terms{}, err
	}
	in := rules.Input(time.Now())
	in.Time = time.Now()
	return attest.Terms{Name: "node", Input: in}, nil
}

// Introduce implements attest.Prover.
func (h *host) Introduce(context.Context) (evidence.TPMKeys, error) { return h.keys, nil }

// Prove implements attest.Prover.
func (h *host) Prove(ctx context.Context, b evidence.Binding, challenge *evidence.Credential) (bundle evidence.Bundle, answer []byte, err error) {
	if challenge != nil {
		if answer, err = h.tpm.Activate(ctx, collect.AKECC, challenge.Blob, challenge.Secret); err != nil {
			return bundle, nil, err
		}
	}
	bundle, err = h.bundle(ctx, b)
	return bundle, answer, err
}

// bundle makes evidence of the machine as it is.
func (h *host) bundle(ctx context.Context, b evidence.Binding) (evidence.Bundle, error) {
	if h.tee != nil {
		return evidence.New(evidence.Parts{Binding: b, TEE: h.tee(b)})
	}
	q, err := h.tpm.Quote(ctx, collect.QuoteRequest{QualifyingData: b.QualifyingData()})
	if err != nil {
		return evidence.Bundle{}, err
	}
	q.EKPublic, q.EKCertificate = h.keys.EKPublic, h.keys.EKCertificate
	return evidence.New(evidence.Parts{Binding: b, TPM: q, EventLog: h.f.rec.EventLog, IMALog: h.f.rec.Phases[h.phase].IMALog,
		Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: h.f.rec.Status}})
}

// answer makes evidence for the ledger, over its newest nonce.
func (h *host) answer(purpose string) (bundle []byte, tick uint64, err error) {
	n, err := h.api.Nonce(h.f.ctx)
	for err == nil && (n.GetTick() == h.tick || n.GetTimeMs() < h.born) { // a renewal wants a newer one, a certificate one after its making
		time.Sleep(50 * time.Millisecond)
		n, err = h.api.Nonce(h.f.ctx)
	}
	if err != nil {
		return nil, 0, err
	}
	h.tick = n.GetTick()
	leaf, err := x509.ParseCertificate(h.cert.Certificate[0])
	if err != nil {
		return nil, 0, err
	}
	b, err := h.bundle(h.f.ctx, evidence.Binding{Purpose: purpose, Nonce: n.GetNonce(), SubjectKey: leaf.RawSubjectPublicKeyInfo})
	return b.Bytes(), n.GetTick(), err
}

// connect shows evidence to all nodes.
func (h *host) connect() error {
	var errs []error
	for node, err := range h.api.Connect(h.f.ctx) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", node, err))
		}
	}
	return errors.Join(errs...)
}

// admit connects to all nodes and asks to be admitted.
func (h *host) admit() (*apiv1.AdmitResponse, error) {
	if err := h.connect(); err != nil {
		return nil, err
	}
	bundle, tick, err := h.answer(evidence.PurposeAdmission)
	if err != nil {
		return nil, err
	}
	return h.api.Admit(h.f.ctx, &apiv1.AdmitRequest{Host: h.name, Bundle: bundle, Tick: tick})
}

func (h *host) renew() (*apiv1.RenewResponse, error) {
	bundle, tick, err := h.answer(evidence.PurposeRenewal)
	if err != nil {
		return nil, err
	}
	return h.api.Renew(h.f.ctx, &apiv1.RenewRequest{Host: h.name, Bundle: bundle, Tick: tick})
}

// goBad has the machine go through the recording's next phase.
func (h *host) goBad() {
	h.f.t.Helper()
	h.phase++
	h.f.replay(h.rig, h.phase)
}

// decree has the member sign a statement and the nodes judge it.
func (f *field) decree(kind, subject string, text []byte, inputs ...keystead.Digest) error {
	f.t.Helper()
	note, err := f.member.Sign(text)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.propose(kind, subject, note, inputs...)
}

func (f *field) propose(kind, subject string, content []byte, inputs ...keystead.Digest) error {
	f.t.Helper()
	p := ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: kind, Subject: subject, Content: content, Inputs: inputs, Base: f.version(kind, subject)}
	entry, err := p.Entry()
	if err != nil {
		f.t.Fatal(err)
	}
	_, err = f.client("").Submit(f.ctx, entry, nil)
	return err
}

// version of a judged subject.
func (f *field) version(kind, subject string) uint64 {
	f.t.Helper()
	s, err := f.client("").State(f.ctx, nil, []string{kind + "/" + subject})
	if err != nil {
		f.t.Fatal(err)
	}
	return s.GetVersions()[0]
}

func (f *field) enrol(name string, ek keystead.Digest) error {
	f.t.Helper()
	return f.enrolAs(admit.Enrolment{Host: name, EK: ek})
}

func (f *field) enrolAs(e admit.Enrolment) error {
	f.t.Helper()
	e.Domain, e.Base, e.Role = f.digest, f.version(admit.TypeEnrolment, e.Host), admit.RoleHost
	text, err := e.Text()
	if err != nil {
		f.t.Fatal(err)
	}
	err = f.decree(admit.TypeEnrolment, e.Host, text)
	for node := range f.contacts() { // each that runs has it before a host comes: to read is to have caught up
		if c, err := client.Open(f.file, f.digest, client.Options{Only: node, Attempt: 2 * time.Second}); err == nil {
			ctx, cancel := context.WithTimeout(f.ctx, 5*time.Second) // one that is down, or closed, answers nothing
			_, _ = c.State(ctx, nil, []string{admit.TypeEnrolment + "/" + e.Host})
			cancel()
			c.Close()
		}
	}
	return err
}

// prove fetches the receipt of a leaf, and verifies it from the genesis digest.
func (f *field) prove(leaf uint64) (receipt.Proven, error) {
	_, proven, err := f.client("").Receipt(f.ctx, leaf)
	return proven, err
}

package admit_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/policy"
)

// record is the committed recording of a measured boot.
var record = sync.OnceValue(func() *recording.Recording {
	r, err := recording.Load(recording.Committed())
	if err != nil {
		panic(err)
	}
	return r
})

// authority makes certificates for the software TPMs of these tests.
var authority = sync.OnceValues(func() (*swtpm.CA, error) {
	dir, err := os.MkdirTemp("", "ca-")
	if err != nil {
		return nil, err
	}
	last = append(last, func() error { return os.RemoveAll(dir) })
	return swtpm.NewCA(dir)
})

// machine is a machine with a software TPM that went through the recorded boot.
type machine struct {
	process *swtpm.TPM
	tpm     *collect.TPM
	ek      collect.EK
	key     appraise.AcceptedKey // as a node activated it
	id      keystead.Digest      // hardware identity
	subject []byte               // public key of its TLS key
	phase   int                  // of the recording
}

// last are what is done at the end, in reverse order.
var last []func() error

func TestMain(m *testing.M) {
	code := m.Run()
	for i := len(last) - 1; i >= 0; i-- {
		if err := last[i](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// web and spare stay in the first phase, in which all is well; tests share them.
var (
	web   = sync.OnceValues(newMachine)
	spare = sync.OnceValues(newMachine)
)

func start(t testing.TB, make func() (*machine, error)) *machine {
	t.Helper()
	m, err := make()
	must(t, err)
	return m
}

func newMachine() (m *machine, err error) {
	ca, err := authority()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	m = &machine{phase: -1}
	if m.process, err = ca.Start(ctx); err != nil {
		return nil, err
	}
	last = append(last, m.process.Stop)
	if m.tpm, err = collect.OpenTPM(m.process.Socket); err != nil {
		return nil, err
	}
	last = append(last, m.tpm.Close)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if m.subject, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
		return nil, err
	}
	return m, errors.Join(m.activate(ctx), m.next(ctx))
}

// activate does what a node and the machine do for a new attestation key.
func (m *machine) activate(ctx context.Context) (err error) {
	if m.ek, err = m.tpm.EK(ctx); err != nil {
		return err
	}
	public, err := m.tpm.AK(ctx, collect.AKECC)
	if err != nil {
		return err
	}
	ek, err := tpm2.ParsePublic(m.ek.Public)
	if err != nil {
		return err
	}
	ak, err := tpm2.ParsePublic(public)
	if err != nil {
		return err
	}
	secret := []byte("thirty-two bytes of test secret.")
	blob, encrypted, err := tpm2.MakeCredential(rand.Reader, ek, ak.Name(), secret)
	if err != nil {
		return err
	}
	answer, err := m.tpm.Activate(ctx, collect.AKECC, blob, encrypted)
	if err != nil {
		return err
	}
	m.id = ek.Fingerprint()
	m.key = appraise.AcceptedKey{Name: ak.Name(), EKPublic: m.ek.Public, EKCertificate: m.ek.Chain, Activated: time.Unix(1, 0)}
	return tpm2.CheckCredential(secret, answer)
}

// next replays the recording's next phase.
func (m *machine) next(ctx context.Context) error {
	m.phase++
	return record().Replay(m.phase, func(pcr int, d map[evidence.Bank][]byte) error { return m.tpm.Extend(ctx, pcr, d) })
}

// restart is a reboot into the first phase.
func (m *machine) restart(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	must(t, m.process.Restart(ctx))
	m.phase = -1
	must(t, m.next(ctx))
}

// evidence answers a question.
func (m *machine) evidence(t testing.TB, purpose string, nonce keystead.Digest, edit ...func(*evidence.Parts)) evidence.Bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	b := evidence.Binding{Purpose: purpose, Nonce: nonce[:], SubjectKey: m.subject}
	p := evidence.Parts{Binding: b, EventLog: record().EventLog, IMALog: record().Phases[m.phase].IMALog, Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: record().Status}}
	var err error
	p.TPM, err = m.tpm.Quote(ctx, collect.QuoteRequest{QualifyingData: b.QualifyingData()})
	must(t, err)
	p.TPM.EKPublic, p.TPM.EKCertificate = m.ek.Public, m.ek.Chain
	for _, e := range edit {
		e(&p)
	}
	out, err := evidence.New(p)
	must(t, err)
	return out
}

// nonceAt is the ledger nonce of a time, for these tests.
func nonceAt(clock uint64) keystead.Digest { return digestOf("nonce", clock) }

// apply is the application of a machine in a host's name, as a node sees it.
func (s *state) apply(m *machine, host, purpose string, edit ...func(*evidence.Parts)) admit.Application {
	s.t.Helper()
	return admit.Application{Host: host, Bundle: m.evidence(s.t, purpose, nonceAt(s.clock), edit...), Nonce: nonceAt(s.clock), Time: s.clock, Key: m.key, Rules: s.rules(admit.RoleHost)}
}

func (s *state) rules(role string) *admit.Rules {
	s.t.Helper()
	terms, err := admit.TermsOf(s, role)
	must(s.t, err)
	r, err := terms.Open(s.object)
	must(s.t, err)
	return r
}

// newDomain is a state whose founding terms admit hosts that run what was recorded, on
// software TPMs.
func newDomain(t testing.TB) *state {
	t.Helper()
	s := newState(t)
	now := time.Now() // certificates of software TPMs begin now
	s.clock = uint64(now.Add(time.Hour).UnixMilli())
	s.found(s.terms("demo"))
	return s
}

// found makes terms the founding ones.
func (s *state) found(terms *admit.Terms) {
	s.t.Helper()
	text, err := terms.Text()
	must(s.t, err)
	s.put(text)
	name, value, _ := strings.Cut(admit.FoundingTerms(terms.Role, text), "=")
	s.founding[name] = value
}

// terms puts the objects in place and returns founding terms.
func (s *state) terms(name string) *admit.Terms {
	s.t.Helper()
	ca, err := authority()
	must(s.t, err)
	roots, err := admit.FormatRoots(tpm2.Roots{Test: []*x509.Certificate{ca.Root}})
	must(s.t, err)
	text, ok := policy.Shipped(name)
	if !ok {
		s.t.Fatalf("no policy %s is shipped", name)
	}
	return &admit.Terms{Role: admit.RoleHost, Policy: s.put(text), Roots: s.put(roots),
		References: []keystead.Digest{s.put(record().Reference)}, CodeSets: []keystead.Digest{s.put([]byte(record().CodeSet))}}
}

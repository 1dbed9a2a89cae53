package attest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

var ctx = context.Background()

// A party is a machine with a software TPM that the recorded boot was replayed into.
type party struct {
	name   string
	tpm    *collect.TPM
	prover *collect.Prover
	keys   evidence.TPMKeys
	id     keystead.Digest
	cert   tls.Certificate
}

// stage is three parties whose TPMs one authority certified, and what a verifier has.
type stage struct {
	alice, bob, carol *party
	input             appraise.Input // all but bundle, binding, key and time
}

var cleanup []func() error

// live starts the software TPMs when the first test asks; fuzzing needs none.
var live = sync.OnceValues(func() (s *stage, err error) {
	dir, err := os.MkdirTemp("", "attest-")
	if err != nil {
		return nil, err
	}
	cleanup = append(cleanup, func() error { return os.RemoveAll(dir) })
	ca, err := swtpm.NewCA(dir)
	if err != nil {
		return nil, err
	}
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "root")
	if err := files(root, rec); err != nil {
		return nil, err
	}
	s = &stage{}
	if s.input, err = terms(ca, rec); err != nil {
		return nil, err
	}
	for name, p := range map[string]**party{"alice": &s.alice, "bob": &s.bob, "carol": &s.carol} {
		if *p, err = newParty(name, ca, rec, collect.Machine{Root: root}); err != nil {
			return nil, err
		}
	}
	return s, nil
})

// files lays the recorded logs out as a machine's.
func files(root string, rec *recording.Recording) error {
	for path, data := range map[string][]byte{
		"sys/kernel/security/tpm0/binary_bios_measurements":   rec.EventLog,
		"sys/kernel/security/ima/binary_runtime_measurements": rec.Phases[0].IMALog,
		"var/lib/dpkg/status":                                 rec.Status,
	} {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func terms(ca *swtpm.CA, rec *recording.Recording) (in appraise.Input, err error) {
	set, err := refval.Parse(rec.Reference)
	if err != nil {
		return in, err
	}
	codes, err := refval.ParseCodeSet(rec.CodeSet)
	if err != nil {
		return in, err
	}
	text, _ := policy.Shipped("demo")
	in = appraise.Input{EKRoots: tpm2.Roots{Test: []*x509.Certificate{ca.Root}}, References: []*refval.Set{set}, CodeSets: []*refval.CodeSet{codes}}
	in.Policy, err = policy.Compile(text, appraise.Vocabulary())
	return in, err
}

func newParty(name string, ca *swtpm.CA, rec *recording.Recording, m collect.Machine) (*party, error) {
	process, err := ca.Start(ctx)
	if err != nil {
		return nil, err
	}
	cleanup = append(cleanup, process.Stop)
	p := &party{name: name}
	if p.tpm, err = collect.OpenTPM(process.Socket); err != nil {
		return nil, err
	}
	if err := rec.Replay(0, func(pcr int, d map[evidence.Bank][]byte) error { return p.tpm.Extend(ctx, pcr, d) }); err != nil {
		return nil, err
	}
	p.prover = collect.NewProver(p.tpm, m, collect.AKECC, rec.Note())
	if p.keys, err = p.prover.Introduce(ctx); err != nil {
		return nil, err
	}
	ek, err := tpm2.ParsePublic(p.keys.EKPublic)
	if err != nil {
		return nil, err
	}
	p.id = ek.Fingerprint()
	p.cert, err = NewCertificate()
	return p, err
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range cleanup {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func onStage(t testing.TB) *stage {
	t.Helper()
	s, err := live()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// config is that of p, who knows the others by name.
func (s *stage) config(p *party, knows ...*party) Config {
	return Config{Certificate: p.cert, Prover: p.prover, Verifier: NewAppraiser(s.knowing(knows...)), Timeout: 30 * time.Second}
}

// knowing gives the terms for those parties and for nobody else.
func (s *stage) knowing(parties ...*party) func(context.Context, keystead.Digest) (Terms, error) {
	return func(_ context.Context, id keystead.Digest) (Terms, error) {
		for _, p := range parties {
			if p.id == id {
				in := s.input
				in.Time = time.Now()
				return Terms{Name: p.name, Input: in}, nil
			}
		}
		return Terms{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "peer", Want: "an enrolled TPM", Got: id.String()})
	}
}

// end is what came of one side.
type end struct {
	conn *Conn
	err  error
}

// begin runs one side over raw in the background.
func begin(t testing.TB, r role, raw net.Conn, cfg Config) <-chan end {
	out := make(chan end, 1)
	go func() {
		var e end
		if r == roleClient {
			e.conn, e.err = Client(ctx, raw, cfg)
		} else {
			e.conn, e.err = Server(ctx, raw, cfg)
		}
		out <- e
	}()
	t.Cleanup(func() { raw.Close() })
	return out
}

// meet connects two configurations over an unbuffered pipe.
func meet(t testing.TB, client, server Config) (c, s end) {
	t.Helper()
	a, b := net.Pipe()
	left, right := begin(t, roleClient, a, client), begin(t, roleServer, b, server)
	return <-left, <-right
}

// demand fails the test unless err is a refusal with that reason first: this side's
// own, or what the peer said.
func demand(t testing.TB, what string, err error, want keystead.Reason) {
	t.Helper()
	var deny *keystead.DenyError
	if !errors.As(err, &deny) || deny.Findings[0].Reason != want {
		t.Errorf("%s: want %s, got %v", what, want, err)
		return
	}
	if f := deny.Findings[0]; f.Want == "" || f.Got == "" || f.Where == "" {
		t.Errorf("%s: %+v does not say what was wanted, found and where", what, f)
	}
}

// told reports whether the error is the peer's word.
func isTold(err error) bool {
	var no *RefusedError
	return errors.As(err, &no)
}

// acting is a prover that a test changes.
type acting struct {
	introduce func() (evidence.TPMKeys, error)
	prove     func(evidence.Binding, *evidence.Credential) (evidence.Bundle, []byte, error)
}

func (a acting) Introduce(context.Context) (evidence.TPMKeys, error) { return a.introduce() }

func (a acting) Prove(_ context.Context, b evidence.Binding, c *evidence.Credential) (evidence.Bundle, []byte, error) {
	return a.prove(b, c)
}

// as is the party's honest prover, to change.
func (p *party) as() acting {
	return acting{
		introduce: func() (evidence.TPMKeys, error) { return p.keys, nil },
		prove: func(b evidence.Binding, c *evidence.Credential) (evidence.Bundle, []byte, error) {
			return p.prover.Prove(ctx, b, c)
		},
	}
}

// restated is a bundle whose own words on its binding were changed.
func restated(t testing.TB, b evidence.Bundle, binding evidence.Binding) evidence.Bundle {
	t.Helper()
	parts := b.Parts()
	parts.Binding = binding
	out, err := evidence.New(parts)
	if err != nil {
		t.Error(err)
	}
	return out
}

func asDeny(t testing.TB, err error) *keystead.DenyError {
	t.Helper()
	var deny *keystead.DenyError
	if !errors.As(err, &deny) {
		t.Fatalf("want a refusal, got %v", err)
	}
	return deny
}

// lax is a policy that asks for next to nothing.
func lax(t testing.TB) *policy.Policy {
	t.Helper()
	p, err := policy.Compile([]byte("keystead-policy/1\nname lax\nminimum-assurance test\nsoftware every-entry\nboot accepted\nrules none\n"), appraise.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

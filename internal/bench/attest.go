package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// connections is how many of each kind are set up, one kind after the other in turn.
const connections = 150

// What setting up a connection may take on software TPMs, both sides in this process.
const (
	limitKnown = 50 * time.Millisecond
	limitFirst = 100 * time.Millisecond
)

// attestRows sets up connections over loopback, both sides with a software TPM that
// the recorded boot was replayed into, beside plain mutual TLS 1.3.
func attestRows() ([]row, error) {
	b, err := newPair()
	defer func() { check(0, b.stop()) }()
	if err != nil {
		return nil, err
	}
	var known, first, plain []time.Duration
	for range connections {
		known = append(known, b.time(b.attested))
		plain = append(plain, b.time(b.mutual))
		for i := range b.sides {
			b.sides[i].Verifier = attest.NewAppraiser(b.terms) // which knows no key yet
		}
		first = append(first, b.time(b.attested))
	}
	peer := fmt.Sprintf("mutual TLS 1.3 %v", median(plain).Round(10*time.Microsecond))
	line := func(figure string, took []time.Duration, limit time.Duration) row {
		return row{figure, median(took).Round(10 * time.Microsecond).String(), "<= " + limit.String(), peer, median(took) <= limit}
	}
	return []row{
		line("attested connection, p50 of set-up: quotes and verdicts of both sides", known, limitKnown),
		line("attested connection, p50 of the first: credential activation of both sides", first, limitFirst),
	}, nil
}

// attestPair is two machines and a port between them.
type attestPair struct {
	sides    [2]attest.Config // client, server
	input    appraise.Input
	listener net.Listener
	closers  []func() error
}

func (b *attestPair) stop() error {
	var errs []error
	for _, f := range b.closers {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func newPair() (*attestPair, error) {
	b := &attestPair{}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return b, err
	}
	b.closers = append(b.closers, func() error { return os.RemoveAll(dir) })
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		return b, err
	}
	ca, err := swtpm.NewCA(dir)
	if err != nil {
		return b, err
	}
	if err := b.judgement(rec, ca); err != nil {
		return b, err
	}
	for i := range b.sides {
		if err := b.side(&b.sides[i], rec, ca, filepath.Join(dir, "root")); err != nil {
			return b, err
		}
	}
	b.listener, err = net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		b.closers = append(b.closers, b.listener.Close)
	}
	return b, err
}

// judgement is by the demo's policy, over the recorded guest's reference values.
func (b *attestPair) judgement(rec *recording.Recording, ca *swtpm.CA) error {
	set, err := refval.Parse(rec.Reference)
	if err != nil {
		return err
	}
	codes, err := refval.ParseCodeSet(rec.CodeSet)
	if err != nil {
		return err
	}
	text, _ := policy.Shipped("demo")
	b.input = appraise.Input{EKRoots: tpm2.Roots{Test: []*x509.Certificate{ca.Root}}, References: []*refval.Set{set}, CodeSets: []*refval.CodeSet{codes}}
	b.input.Policy, err = policy.Compile(text, appraise.Vocabulary())
	return err
}

func (b *attestPair) terms(context.Context, keystead.Digest) (attest.Terms, error) {
	in := b.input
	in.Time = time.Now()
	return attest.Terms{Input: in}, nil
}

// side starts a software TPM, replays the boot and lays out the logs under root.
func (b *attestPair) side(c *attest.Config, rec *recording.Recording, ca *swtpm.CA, root string) error {
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
	process, err := ca.Start(context.Background())
	if err != nil {
		return err
	}
	b.closers = append(b.closers, process.Stop)
	tpm, err := collect.OpenTPM(process.Socket)
	if err != nil {
		return err
	}
	extend := func(pcr int, d map[evidence.Bank][]byte) error { return tpm.Extend(context.Background(), pcr, d) }
	if err := rec.Replay(0, extend); err != nil {
		return err
	}
	c.Prover, c.Verifier = collect.NewProver(tpm, collect.Machine{Root: root}, collect.AKECC, rec.Note()), attest.NewAppraiser(b.terms)
	c.Certificate, err = attest.NewCertificate()
	return err
}

// time connects over TCP and has both sides set up; it takes until both are ready.
func (b *attestPair) time(setUp func(client bool, raw net.Conn) net.Conn) time.Duration {
	start := time.Now()
	served := make(chan net.Conn, 1)
	go func() { served <- setUp(false, check(b.listener.Accept())) }()
	c := setUp(true, check(net.Dial("tcp", b.listener.Addr().String())))
	s := <-served
	took := time.Since(start)
	_, _ = c.Close(), s.Close()
	return took
}

func (b *attestPair) attested(client bool, raw net.Conn) net.Conn {
	if client {
		return check(attest.Client(context.Background(), raw, b.sides[0]))
	}
	return check(attest.Server(context.Background(), raw, b.sides[1]))
}

// mutual is TLS 1.3 with both sides' same certificates, and a byte each way so that
// each knows of the other's.
func (b *attestPair) mutual(client bool, raw net.Conn) net.Conn {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, InsecureSkipVerify: true, ClientAuth: tls.RequireAnyClientCert}
	var c *tls.Conn
	if client {
		cfg.Certificates = []tls.Certificate{b.sides[0].Certificate}
		c = tls.Client(raw, cfg)
	} else {
		cfg.Certificates = []tls.Certificate{b.sides[1].Certificate}
		c = tls.Server(raw, cfg)
	}
	check(c.Write([]byte{1}))
	check(c.Read(make([]byte, 1)))
	return c
}

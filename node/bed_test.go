package node_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/policy"
)

// bed is a domain of nodes on practice machines, each of which may go through its own
// phases.
type bed struct {
	*cluster
	ctx      context.Context
	machines []*practice.Machine
	stage    *practice.Stage
	first    []*key.Node // the keys that the nodes were founded with
	objects  [][]byte
	input    appraise.Input // what its machines are judged by
}

// newBed founds a domain of n nodes, which show evidence anew every second, and starts
// them.
func newBed(t *testing.T, n int, settings ...string) *bed {
	t.Helper()
	return foundBed(t, n, true, settings...)
}

// foundBed is newBed, with founding terms or without: then one node is all that there can be.
func foundBed(t *testing.T, n int, terms bool, settings ...string) *bed {
	t.Helper()
	whole(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	b := &bed{cluster: &cluster{t: t, dir: t.TempDir(), file: &client.Domain{}, evidence: true}, ctx: ctx}
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		t.Fatal(err)
	}
	if b.stage, err = practice.New(rec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.stage.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range n {
		b.file.Contacts = append(b.file.Contacts, b.node(fmt.Sprintf("n%d", i+1)))
	}
	if founding := b.terms(rec); terms {
		settings = append(founding, settings...)
	}
	b.seal(settings...)
	for _, p := range b.nodes {
		for _, o := range b.objects {
			if err := node.PutObject(p.dir, o); err != nil {
				t.Fatal(err)
			}
		}
		b.hurry(p)
	}
	b.startAll()
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	b.signing(all...)
	return b
}

// node makes a machine and the directory of a node on it, and returns its contact.
func (b *bed) node(name string) []byte {
	b.t.Helper()
	m := b.machine(name)
	p := &process{place: node.Place{OpenWrites: true, Name: name, Peer: address(b.t, "127.0.0.1"), API: address(b.t, "127.0.0.1"), Ops: address(b.t, "127.0.0.1"),
		TPM: filepath.Join(m.Dir, practice.TPM), Root: filepath.Join(m.Dir, practice.Root)}, dir: filepath.Join(b.dir, name)}
	contact, err := node.Prepare(b.ctx, p.dir, p.place)
	if err != nil {
		b.t.Fatal(err)
	}
	id, err := node.LoadIdentity(b.ctx, p.dir, m.Device())
	if err != nil {
		b.t.Fatal(err)
	}
	b.machines, b.nodes, b.first = append(b.machines, m), append(b.nodes, p), append(b.first, id.Node)
	return contact
}

// machine sets up a practice machine.
func (b *bed) machine(name string) *practice.Machine {
	b.t.Helper()
	m, err := b.stage.Machine(b.ctx, filepath.Join(b.dir, "machine-"+name))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			b.t.Error(err)
		}
	})
	return m
}

// hurry has a node show evidence anew every second.
func (b *cluster) hurry(p *process) {
	b.t.Helper()
	path := filepath.Join(p.dir, node.ConfigFile)
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "every-s = 1\n"...), 0o600); err != nil { // in the last section, tpm
		b.t.Fatal(err)
	}
}

// terms makes the founding terms for nodes, and the same for hosts, with their objects,
// and returns the settings that name them.
func (b *bed) terms(rec *recording.Recording) []string {
	b.t.Helper()
	text, _ := policy.Shipped("demo")
	roots, err := admit.FormatRoots(tpm2.Roots{Test: []*x509.Certificate{b.stage.Root()}})
	if err != nil {
		b.t.Fatal(err)
	}
	terms := admit.Terms{Role: admit.RoleNode, Policy: keystead.Sum(text), Roots: keystead.Sum(roots),
		References: []keystead.Digest{keystead.Sum(rec.Reference)}, CodeSets: []keystead.Digest{keystead.Sum([]byte(rec.CodeSet))}}
	named, err := terms.Text()
	if err != nil {
		b.t.Fatal(err)
	}
	b.objects = [][]byte{text, roots, rec.Reference, []byte(rec.CodeSet), named}
	rules, err := admit.InForce{Role: admit.RoleNode, Digest: keystead.Sum(named)}.Open(func(d keystead.Digest) ([]byte, error) {
		for _, o := range b.objects {
			if keystead.Sum(o) == d {
				return o, nil
			}
		}
		return nil, nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.input = rules.Input(time.Now())
	terms.Role = admit.RoleHost
	hosts, err := terms.Text()
	if err != nil {
		b.t.Fatal(err)
	}
	b.objects = append([][]byte{hosts}, b.objects...)
	return []string{admit.FoundingTerms(admit.RoleHost, hosts), admit.FoundingTerms(admit.RoleNode, named)}
}

// signing waits until nodes are led, tick, and sign by keys that the roster names, and
// a checkpoint under that roster is signed.
func (b *bed) signing(nodes ...int) {
	b.t.Helper()
	b.whole(nodes...)
	for _, i := range nodes {
		b.until(i, "a key in force", func(s *apiv1.StatusResponse) bool {
			_, err := os.Stat(filepath.Join(b.nodes[i].dir, "node.sealed"))
			return s.GetUnsigned() == "" && s.GetDomainClockMs() > b.created && (os.IsNotExist(err) || b.kept())
		})
	}
}

// kept reports whether the domain's nodes keep their keys.
func (b *bed) kept() bool { return bytes.Contains(b.file.Genesis, []byte("trust-disks=true")) }

// prover makes a machine's evidence.
func prover(m *practice.Machine) *collect.Prover {
	return collect.NewProver(m.Device(), collect.Machine{Root: filepath.Join(m.Dir, practice.Root)}, collect.AKECC, "")
}

// knock opens an attested connection to an address with the TLS key in a directory and
// the evidence of a machine, and returns why it was refused.
func (b *bed) knock(address, dir string, m *practice.Machine) error {
	b.t.Helper()
	c, err := b.dial(address, dir, m)
	if err == nil {
		_ = c.Close()
	}
	return err
}

func (b *bed) dial(address, dir string, m *practice.Machine) (*attest.Conn, error) {
	b.t.Helper()
	id, err := node.LoadIdentity(b.ctx, dir, m.Device())
	if err != nil {
		b.t.Fatal(err)
	}
	cfg := attest.Config{Certificate: id.TLS, Prover: prover(m)}
	cfg.Verifier = attest.NewAppraiser(func(context.Context, keystead.Digest) (attest.Terms, error) {
		in := b.input
		in.Time = time.Now().UTC()
		return attest.Terms{Name: "node", Input: in}, nil
	})
	raw, err := net.Dial("tcp", address)
	if err != nil {
		b.t.Fatal(err)
	}
	return attest.Client(b.ctx, raw, cfg)
}

// nodeService speaks to a node over an attested connection.
func (b *bed) nodeService(c *attest.Conn) apiv1connect.NodeServiceClient {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // encryption is below
	t := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	b.t.Cleanup(t.CloseIdleConnections)
	return apiv1connect.NewNodeServiceClient(&http.Client{Transport: t}, "http://node.invalid")
}

// decree has the member sign a statement and the nodes judge it.
func (b *bed) decree(kind, subject string, text func() ([]byte, error)) {
	b.t.Helper()
	unsigned, err := text()
	if err != nil {
		b.t.Fatal(err)
	}
	note, err := b.member.Sign(unsigned)
	if err != nil {
		b.t.Fatal(err)
	}
	p := ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: kind, Subject: subject, Content: note}
	entry, err := p.Entry()
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.client("").Submit(b.ctx, entry, nil); err != nil {
		b.t.Fatal(err)
	}
}

// says waits until a node's log has a line with all of these words, from an offset on.
func (b *bed) says(i int, from int, words ...string) string {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		text := b.log(i)
		for line := range strings.Lines(text[min(from, len(text)):]) {
			has := true
			for _, w := range words {
				has = has && strings.Contains(line, w)
			}
			if has {
				return line
			}
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s never says %q", b.nodes[i].place.Name, words)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at a file
	}
}

func (b *bed) log(i int) string {
	b.t.Helper()
	text, err := os.ReadFile(b.nodes[i].dir + ".log")
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

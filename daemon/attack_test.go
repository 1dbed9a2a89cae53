package daemon_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/daemon"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
)

// TestStrangersProposeNoLeases has a client without evidence hand in proposals of the
// kinds that nodes alone make. Each would have every node look for evidence for
// seconds, and keep what it found: bytes that the client itself put there.
func TestStrangersProposeNoLeases(t *testing.T) {
	t.Parallel()
	f := newField(t, 1, "trust-disks=true")
	put, err := f.client("").PutObject(f.ctx, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{admit.TypeLease, keyring.EpochType, keyring.KeyType} {
		err := f.propose(kind, "web-1", applicationOf(put, 1), put)
		demand(t, "a stranger's proposal of type "+kind, err, keystead.ReasonNotMember)
	}
	host := f.host("web-1") // enrolled, and shows evidence: still no node
	if err := f.enrol("web-1", host.ek); err != nil {
		t.Fatal(err)
	}
	conn, err := host.dial(f.ctx, f.contacts()["n1"])
	if err != nil {
		t.Fatal(err)
	}
	demand(t, "a host's proposal", f.submitOver(conn, &ledger.Proposal{Type: admit.TypeLease, Subject: "web-1", Inputs: []keystead.Digest{put}, Content: applicationOf(put, 1)}), keystead.ReasonNotMember)
}

// applicationOf is the content of a proposal of type lease (docs/spec/lease.md).
func applicationOf(bundle keystead.Digest, tick uint64) []byte {
	b := append([]byte{1}, bundle[:]...)
	for i := range 8 {
		b = append(b, byte(tick>>(56-8*i)))
	}
	return append(b, make([]byte, 32)...)
}

// submitOver hands in a proposal over an attested connection.
func (f *field) submitOver(conn net.Conn, p *ledger.Proposal) error {
	f.t.Helper()
	p.ID = [16]byte(client.NewRequestID())
	entry, err := p.Entry()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.handOver(f.ctx, conn, entry)
}

// asNode connects to a node as another one: with its TLS key, and from its machine.
func (f *field) asNode(as, to int) (net.Conn, error) {
	f.t.Helper()
	place := f.nodes[as].place
	tpm, err := collect.OpenTPM(place.TPM)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = tpm.Close() })
	id, err := daemon.LoadIdentity(f.ctx, f.nodes[as].dir, tpm)
	if err != nil {
		f.t.Fatal(err)
	}
	c := f.contacts()[f.nodes[to].place.Name]
	raw, err := (&net.Dialer{}).DialContext(f.ctx, "tcp", strings.TrimPrefix(c.API, "https://"))
	if err != nil {
		return nil, err
	}
	return attest.Client(f.ctx, raw, attest.Config{Certificate: id.TLS, Prover: collect.NewProver(tpm, collect.Machine{Root: f.root}, collect.AKECC, place.Note),
		Verifier: attest.NewAppraiser((&host{f: f}).judgeNode), Timeout: 20 * time.Second})
}

// handOver hands in an entry over a connection.
func (f *field) handOver(ctx context.Context, conn net.Conn, entry []byte) error {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // encryption is below
	tr := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	f.t.Cleanup(tr.CloseIdleConnections)
	_, err := apiv1connect.NewDomainServiceClient(&http.Client{Transport: tr}, "http://node.invalid").Submit(ctx, connect.NewRequest(&apiv1.SubmitRequest{Entry: entry}))
	return refusal.Decode(err)
}

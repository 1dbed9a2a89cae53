package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"strings"
	"syscall"
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
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
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
	id, err := node.LoadIdentity(f.ctx, f.nodes[as].dir, tpm)
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

// TestReleaseSeesTheLastRenewal asks for a key whose policy is about something that was not
// so when the host was admitted: every node goes by the verdict on the newest evidence,
// those that did not judge it too. It has to hold the other way round as well: what was
// so and is no more.
func TestReleaseSeesTheLastRenewal(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	web, _ := f.admitted("web")
	cl := f.client("")
	s, err := cl.State(f.ctx, []string{admit.VerdictKey("web")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Claims evidence.Claims }
	if err := json.Unmarshal(s.GetValues()[0].GetValue(), &v); err != nil || v.Claims.Quote.Clock == 0 {
		t.Fatalf("%v, TPM clock %d", err, v.Claims.Quote.Clock)
	}
	for name, is := range map[string]string{"later": ">", "then": "=="} {
		f.specify(f.ctx, cl, name, 1, fmt.Sprintf("keystead-policy/1\nname web\nminimum-assurance test\nrule clock\n  require quote.clock %s %d\n  otherwise the time is not right\n", is, v.Claims.Quote.Clock))
		f.awaitKey(f.ctx, cl, name, 1)
	}
	web.everywhere()
	ask := func(key string) map[string]error {
		out := map[string]error{}
		for name, contact := range f.contacts() {
			_, out[name] = web.at(name, contact).Release(f.ctx, &apiv1.ReleaseRequest{Host: "web", Key: key})
		}
		return out
	}
	check := func(when, key string, refused bool) {
		for node, err := range ask(key) {
			if refused {
				demand(t, when+", "+key+" from "+node, err, keystead.ReasonRuleFailed)
			} else if err != nil {
				t.Errorf("%s, %s from %s: %v", when, key, node, err)
			}
		}
	}
	check("admitted", "later", true)
	check("admitted", "then", false)
	if _, err := web.renew(); err != nil {
		t.Fatal(err)
	}
	check("renewed", "later", false)
	check("renewed", "then", true)
}

// TestSuspendedMidRequest suspends a host's lease while its renewal is under way: judged by
// one node, on evidence from before, and on its way to another that does not answer.
func TestSuspendedMidRequest(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	web, _ := f.admitted("web")
	web.everywhere()
	bundle, tick, err := web.answer(evidence.PurposeRenewal)
	if err != nil {
		t.Fatal(err)
	}
	n1 := web.at("n1", f.contacts()["n1"])
	witness, other := 1, "n3" // whom n1 asks first for this host, and who sees it go bad
	if h := fnv.New32a(); func() bool { h.Write([]byte("web")); return h.Sum32()%2 == 1 }() {
		witness, other = 2, "n2"
	}
	f.signal(witness, syscall.SIGSTOP)
	defer f.signal(witness, syscall.SIGCONT)
	renewed := make(chan error, 1)
	go func() {
		_, err := n1.Renew(f.ctx, &apiv1.RenewRequest{Host: "web", Bundle: bundle, Tick: tick})
		renewed <- err
	}()
	web.goBad()
	bad := f.hostOn("web", web.rig)
	bad.phase = web.phase
	_, err = bad.at(other, f.contacts()[other]).Nonce(f.ctx)
	demand(t, "the host, gone bad", err, keystead.ReasonFileAltered)
	demand(t, "the renewal under way", <-renewed, keystead.ReasonLeaseSuspended)
	_, err = web.at(other, f.contacts()[other]).IssueSVID(f.ctx, "web")
	demand(t, "what the renewal was for", err, keystead.ReasonLeaseSuspended)
}

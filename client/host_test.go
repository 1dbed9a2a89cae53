package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
)

// hostServer answers hosts as a node does that is told what to say.
type hostServer struct {
	apiv1connect.UnimplementedHostServiceHandler
	contact  Contact
	deny     atomic.Pointer[keystead.DenyError]
	asked    atomic.Int64
	dialled  atomic.Int64
	undialed atomic.Pointer[error] // what Dial says instead
}

func (s *hostServer) Nonce(context.Context, *connect.Request[apiv1.NonceRequest]) (*connect.Response[apiv1.NonceResponse], error) {
	s.asked.Add(1)
	if d := s.deny.Load(); d != nil {
		return nil, refusal.Encode(d)
	}
	return connect.NewResponse(&apiv1.NonceResponse{Tick: 7, Nonce: make([]byte, 32)}), nil
}

func (s *hostServer) Release(_ context.Context, q *connect.Request[apiv1.ReleaseRequest]) (*connect.Response[apiv1.ReleaseResponse], error) {
	return connect.NewResponse(&apiv1.ReleaseResponse{Secret: []byte(q.Msg.GetKey()), Version: 3}), nil
}

// hostDomain is two such nodes, and a host that knows them.
func hostDomain(t *testing.T, opts HostOptions) (*Host, []*hostServer, map[string]Contact) {
	t.Helper()
	servers := []*hostServer{{}, {}}
	contacts := map[string]Contact{}
	for i, s := range servers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, h := apiv1connect.NewHostServiceHandler(s)
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		srv := &http.Server{Handler: h, Protocols: protocols}
		go srv.Serve(l)
		t.Cleanup(func() { srv.Close() })
		s.contact = Contact{Name: []string{"n1", "n2"}[i], API: "https://" + l.Addr().String()}
		contacts[s.contact.Name] = s.contact
	}
	opts.Attempt = 30 * time.Second
	if opts.First == nil {
		opts.First = func(int) int { return 0 }
	}
	opts.Dial = func(ctx context.Context, to Contact) (net.Conn, error) {
		for _, s := range servers {
			if s.contact == to {
				s.dialled.Add(1)
				if err := s.undialed.Load(); err != nil {
					return nil, *err
				}
			}
		}
		return new(net.Dialer).DialContext(ctx, "tcp", to.API[len("https://"):])
	}
	h := NewHost(opts)
	h.Nodes(contacts)
	t.Cleanup(h.Close)
	return h, servers, contacts
}

func TestHostPassesFromNodeToNode(t *testing.T) {
	h, s, _ := hostDomain(t, HostOptions{})
	ctx := context.Background()
	if _, err := h.Nonce(ctx); err != nil || s[0].asked.Load() != 1 {
		t.Fatalf("%v; n1 was asked %d times", err, s[0].asked.Load())
	}
	s[0].deny.Store(keystead.Deny(keystead.Finding{Reason: keystead.ReasonClockStale}))
	if r, err := h.Nonce(ctx); err != nil || r.GetTick() != 7 || s[1].asked.Load() != 1 {
		t.Errorf("n1 is stale: got %v, %v", r, err)
	}
	if _, err := h.Nonce(ctx); err != nil || s[0].asked.Load() != 2 {
		t.Errorf("the node that answered last is not asked first: %v", err)
	}
	s[1].deny.Store(keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed}))
	if _, err := h.Nonce(ctx); !errors.Is(err, keystead.ReasonRuleFailed) || s[0].asked.Load() != 2 {
		t.Errorf("a refusal was taken to another node: %v", err)
	}
	s[1].deny.Store(keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum}))
	if _, err := h.Nonce(ctx); !Unavailable(err) {
		t.Errorf("no node is available: got %v", err)
	}
	if r, err := h.Release(ctx, &apiv1.ReleaseRequest{Key: "k"}); err != nil || string(r.GetSecret()) != "k" {
		t.Errorf("got %v, %v", r, err)
	}
}

// TestHostKeepsConnections counts attestations: one a node, until they are too old.
func TestHostKeepsConnections(t *testing.T) {
	h, s, _ := hostDomain(t, HostOptions{MaxAge: time.Hour})
	ctx := context.Background()
	for range 3 {
		for name, err := range h.Connect(ctx) {
			if err != nil {
				t.Fatal(name, err)
			}
		}
	}
	if n := s[0].dialled.Load() + s[1].dialled.Load(); n != 2 {
		t.Errorf("%d connections for two nodes", n)
	}
	for _, n := range h.nodes {
		n.mu.Lock()
		n.since = n.since.Add(-time.Hour)
		n.mu.Unlock()
	}
	h.Connect(ctx)
	if n := s[0].dialled.Load() + s[1].dialled.Load(); n != 4 {
		t.Errorf("%d connections after the first ones were an hour old", n)
	}
}

func TestHostRefusedWhileConnecting(t *testing.T) {
	h, s, _ := hostDomain(t, HostOptions{})
	ctx := context.Background()
	refused := func(s *hostServer, err error) { s.undialed.Store(&err) }
	untrusted := keystead.Deny(keystead.Finding{Reason: keystead.ReasonFileAltered, Where: "node"})
	refused(s[0], untrusted)
	if _, err := h.Nonce(ctx); err != nil {
		t.Errorf("n1 fails attestation, n2 is there: %v", err)
	}
	s[1].deny.Store(keystead.Deny(keystead.Finding{Reason: keystead.ReasonClockStale}))
	if _, err := h.Nonce(ctx); !errors.Is(err, keystead.ReasonFileAltered) {
		t.Errorf("n1 fails attestation, n2 is stale: %v", err)
	}
	refused(s[0], errors.New("connection refused"))
	got := h.Connect(ctx)
	if !errors.Is(got["n1"], keystead.ReasonNoQuorum) || !errors.Is(got["n2"], keystead.ReasonClockStale) {
		t.Errorf("got %v", got)
	}
}

// TestHostsSpreadOverNodes: which node is asked first is drawn once, and kept while that
// node is there.
func TestHostsSpreadOverNodes(t *testing.T) {
	h, s, contacts := hostDomain(t, HostOptions{First: func(n int) int { return n - 1 }})
	ctx := context.Background()
	for range 2 {
		if _, err := h.Nonce(ctx); err != nil {
			t.Fatal(err)
		}
		h.Nodes(contacts) // as they were
	}
	if s[0].asked.Load() != 0 || s[1].asked.Load() != 2 {
		t.Errorf("n1 was asked %d times, n2 %d", s[0].asked.Load(), s[1].asked.Load())
	}
	delete(contacts, "n2")
	h.Nodes(contacts)
	if _, err := h.Nonce(ctx); err != nil || s[0].asked.Load() != 1 {
		t.Errorf("the node that is left: %v", err)
	}
}

func TestHostForgetsNodes(t *testing.T) {
	h, s, contacts := hostDomain(t, HostOptions{})
	ctx := context.Background()
	h.Connect(ctx)
	kept := h.nodes[1]
	delete(contacts, "n1")
	h.Nodes(contacts)
	if _, err := h.Nonce(ctx); err != nil || s[0].asked.Load() != 1 || len(h.nodes) != 1 || h.nodes[0] != kept {
		t.Errorf("a node that is no longer of the domain was asked, or the other forgotten: %v", err)
	}
	h.Nodes(nil)
	if _, err := h.Nonce(ctx); !errors.Is(err, keystead.ReasonNoQuorum) {
		t.Errorf("no node: got %v", err)
	}
}

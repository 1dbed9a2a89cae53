package node_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
)

// watched opens a host's connection to one node, and counts how often it has to.
func (h *host) watched(name string) (api *client.Host, dialed *atomic.Int32) {
	h.f.t.Helper()
	dialed = new(atomic.Int32)
	api = client.NewHost(client.HostOptions{MaxAge: time.Hour, Dial: func(ctx context.Context, to client.Contact) (net.Conn, error) {
		dialed.Add(1)
		return h.dial(ctx, to)
	}})
	h.f.t.Cleanup(api.Close)
	api.Nodes(map[string]client.Contact{name: h.f.contacts()[name]})
	if _, err := api.Nonce(h.f.ctx); err != nil {
		h.f.t.Fatal(err)
	}
	return api, dialed
}

// TestRenewalKeepsConnection has a node that ends connections whose evidence is three
// seconds old. A host that renews its lease, by way of other nodes, stays connected to
// it; one that does not has to show evidence again; and one whose lease was ended can not.
func TestRenewalKeepsConnection(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	if err := f.end(0, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f.hurry(f.nodes[0])
	f.start(0)
	f.whole(0, 1, 2)
	const most = 3 * time.Second
	diligent, _ := f.admitted("diligent")
	idle, _ := f.admitted("idle")
	stays, dialed := diligent.watched("n1")
	ends, again := idle.watched("n1")
	for end := time.Now().Add(2*most + most/2); time.Now().Before(end); {
		if _, err := diligent.renew(); err != nil {
			t.Fatal(err)
		}
		if _, err := stays.Nonce(f.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := dialed.Load(); n != 1 {
		t.Errorf("a host whose lease is renewed had to connect %d times", n)
	}
	if _, err := ends.Nonce(f.ctx); err != nil || again.Load() != 2 {
		t.Errorf("a host that showed nothing since: %v, connected %d times, want 2", err, again.Load())
	}
	diligent.goBad()
	_, err := diligent.renew()
	demand(t, "a bad quote", err, keystead.ReasonFileAltered)
	for err = nil; !errors.Is(err, keystead.ReasonFileAltered); {
		if _, err = stays.Nonce(f.ctx); f.ctx.Err() != nil { // whoever is connected may ask for a nonce: so this tells who is
			t.Fatalf("a host gone bad is answered %v", err)
		}
	}
}

package daemon

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
)

// peers hands this node's ticks to others, over their API.
type peers struct {
	node *Node
	mu   sync.Mutex
	open map[client.Contact]*peer
}

type peer struct {
	api       apiv1connect.DomainServiceClient
	transport *http.Transport
	busy      bool
}

func newPeers(n *Node) *peers { return &peers{node: n, open: map[client.Contact]*peer{}} }

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.open {
		x.transport.CloseIdleConnections()
	}
}

// tick sends a tick to the node that shows the TLS key, unless the last one is
// still on its way. A tick that is lost is followed by the next.
func (p *peers) tick(pin keystead.Digest, t ledger.SignedTick) {
	to, ok := p.node.contactOf(pin)
	if !ok {
		return
	}
	entry, err := ledger.TickEntry([]ledger.SignedTick{t})
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.open[to]
	if x == nil {
		x = p.dial(to)
		p.open[to] = x
	}
	if x.busy {
		return
	}
	x.busy = true
	p.node.tasks.Add(1)
	go func() {
		defer p.node.tasks.Done()
		ctx, cancel := context.WithTimeout(p.node.running, tickMax)
		defer cancel()
		if _, err := x.api.Tick(ctx, connect.NewRequest(&apiv1.TickRequest{Tick: entry})); err != nil {
			p.node.log.Debug("tick not delivered", "to", to.Name, "because", err)
		}
		p.mu.Lock()
		x.busy = false
		p.mu.Unlock()
	}()
}

func (p *peers) dial(to client.Contact) *peer {
	protocols := new(http.Protocols)
	plain := strings.HasPrefix(to.API, "http://")
	protocols.SetHTTP2(!plain)
	protocols.SetUnencryptedHTTP2(plain)
	t := &http.Transport{Protocols: protocols, TLSClientConfig: client.PinnedTLS(to.TLS, &p.node.self.TLS), IdleConnTimeout: time.Minute}
	return &peer{api: apiv1connect.NewDomainServiceClient(&http.Client{Transport: t}, to.API), transport: t}
}

// contactOf returns the contact of the node that shows a TLS key.
func (n *Node) contactOf(pin keystead.Digest) (client.Contact, bool) {
	for _, c := range n.knownContacts() {
		if c.TLS == pin {
			return c, true
		}
	}
	return client.Contact{}, false
}

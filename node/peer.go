package node

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
)

// peers are the other nodes' APIs, as this node reaches them.
type peers struct {
	node         *guard
	dialAttested func(ctx context.Context, to client.Contact, address string) (net.Conn, error) // nil where connections carry no evidence
	mu           sync.Mutex
	open         map[client.Contact]*peer
}

type peer struct {
	client.Contact
	domain    apiv1connect.DomainServiceClient
	host      apiv1connect.HostServiceClient
	nodes     apiv1connect.NodeServiceClient
	public    apiv1connect.HostServiceClient // without evidence, known by the pinned key alone
	transport *http.Transport
	since     time.Time
	ticking   *sync.Mutex // held while a tick is on its way
}

func newPeers(n *guard) *peers { return &peers{node: n, open: map[client.Contact]*peer{}} }

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.open {
		x.transport.CloseIdleConnections()
	}
}

// at returns the node that a contact leads to.
func (p *peers) at(to client.Contact) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.open[to]
	switch {
	case x == nil:
		x = p.dial(to)
		x.ticking = new(sync.Mutex)
	case p.dialAttested != nil && time.Since(x.since) > p.node.cfg.TPM.every(): // a new connection, with new evidence
		old := x
		x = p.dial(to)
		x.ticking = old.ticking
		old.transport.CloseIdleConnections() // requests under way end on the old one
	}
	p.open[to] = x
	return x
}

// others returns the other nodes of the roster, as far as contacts of them are known and
// they are not proven bad.
func (p *peers) others() (out []*peer) {
	roster := p.node.roster()
	for _, c := range p.node.knownContacts() {
		if node, in := roster.Node(c.Name); in && c.Name != p.node.name && !p.node.provenBad(node) {
			out = append(out, p.at(c))
		}
	}
	return out
}

// tick sends a tick to another node, unless the last one is still on its way. A tick
// that is lost is followed by the next.
func (p *peers) tick(to client.Contact, t ledger.SignedTick) {
	entry, err := ledger.TickEntry([]ledger.SignedTick{t})
	if err != nil {
		return
	}
	x := p.at(to)
	if !x.ticking.TryLock() {
		return
	}
	p.node.tasks.Add(1)
	go func() {
		defer p.node.tasks.Done()
		defer x.ticking.Unlock()
		ctx, cancel := context.WithTimeout(p.node.running, tickMax)
		defer cancel()
		if _, err := x.domain.Tick(ctx, connect.NewRequest(&apiv1.TickRequest{Tick: entry})); err != nil {
			p.node.log.Debug("tick not delivered", "to", to.Name, "because", err)
		}
	}()
}

// maxPeerAnswer bounds what another node may answer at once, in bytes.
const maxPeerAnswer = 16 << 20

func (p *peers) dial(to client.Contact) *peer {
	most := connect.WithReadMaxBytes(maxPeerAnswer)
	t, base := client.PinnedTransport(to, &p.node.self.TLS), to.API
	x := &peer{Contact: to, since: time.Now(), public: apiv1connect.NewHostServiceClient(&http.Client{Transport: t}, base, most)}
	if p.dialAttested != nil {
		dial := func(ctx context.Context) (net.Conn, error) {
			return p.dialAttested(ctx, to, strings.TrimPrefix(to.API, "https://"))
		}
		t, base = client.AttestedTransport(dial, p.node.cfg.TPM.every()), "http://"+to.Name+".node.invalid" // who is there, evidence tells
	}
	h := &http.Client{Transport: t}
	x.transport, x.domain = t, apiv1connect.NewDomainServiceClient(h, base, most)
	x.host, x.nodes = apiv1connect.NewHostServiceClient(h, base, most), apiv1connect.NewNodeServiceClient(h, base, most)
	return x
}

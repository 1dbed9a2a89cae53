package client

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
)

// HostOptions say how a host talks to nodes. Dial is required.
type HostOptions struct {
	// Dial opens a connection to a node, on which the node has shown what it runs and
	// this host has shown the same. Its refusal of a node passes to the next.
	Dial func(ctx context.Context, to Contact) (net.Conn, error)
	// MaxAge is how old the evidence on a connection may be before the next request
	// goes over a new one, with new evidence; 1 minute if 0.
	MaxAge time.Duration
	// Attempt is for one node to answer before the next is asked; 10 s if 0.
	Attempt time.Duration
	// First picks the node to ask first among so many, in the order of their names;
	// any if nil, so that a fleet's hosts spread over the nodes.
	First func(nodes int) int
}

// A Host asks a domain's nodes for what a lease gives, on attested connections that it
// keeps. It is safe for concurrent use. Close it in the end.
type Host struct {
	opts HostOptions

	mu    sync.Mutex
	nodes []*hostNode // in the order of names
	at    int         // the one that answered last
}

// NewHost returns a host that knows no node yet; see [Host.Nodes].
func NewHost(opts HostOptions) *Host {
	if opts.MaxAge == 0 {
		opts.MaxAge = time.Minute
	}
	if opts.Attempt == 0 {
		opts.Attempt = 10 * time.Second
	}
	if opts.First == nil {
		opts.First = rand.IntN
	}
	return &Host{opts: opts}
}

// Nodes says where the domain's nodes are now: [View.Contacts]. Connections to nodes
// that stay where they were are kept, those to others closed; the node that was asked
// first still is, if it is there.
func (h *Host) Nodes(contacts map[string]Contact) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var now []*hostNode
	for _, name := range slices.Sorted(maps.Keys(contacts)) {
		same := func(n *hostNode) bool { return n.Contact == contacts[name] }
		if i := slices.IndexFunc(h.nodes, same); i >= 0 {
			now = append(now, h.nodes[i])
			continue
		}
		now = append(now, &hostNode{Contact: contacts[name], opts: h.opts})
	}
	for _, n := range h.nodes {
		if !slices.Contains(now, n) {
			n.drop()
		}
	}
	stays := -1
	if h.at < len(h.nodes) {
		stays = slices.Index(now, h.nodes[h.at])
	}
	if stays < 0 && len(now) > 0 {
		stays = h.opts.First(len(now))
	}
	h.nodes, h.at = now, max(0, stays)
}

// Close drops the connections.
func (h *Host) Close() { h.Nodes(nil) }

// Drop ends the connections: whoever is asked next sees evidence anew.
func (h *Host) Drop() {
	nodes, _ := h.order()
	for _, n := range nodes {
		n.drop()
	}
}

// Connect shows evidence to every node that has not seen any for MaxAge, all at the
// same time, and returns what came of it by the names of nodes: nil for those that are
// connected.
func (h *Host) Connect(ctx context.Context) map[string]error {
	nodes, _ := h.order()
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			_, errs[i] = ask(ctx, n, h.opts.Attempt, func(ctx context.Context, n *hostNode) (*apiv1.NonceResponse, error) {
				return called(ctx, n, apiv1connect.HostServiceClient.Nonce, &apiv1.NonceRequest{})
			})
		})
	}
	all.Wait()
	out := map[string]error{}
	for i, n := range nodes {
		out[n.Name] = errs[i]
	}
	return out
}

// Nonce fetches the newest ledger nonce.
func (h *Host) Nonce(ctx context.Context) (*apiv1.NonceResponse, error) {
	r, err := each(ctx, h, apiv1connect.HostServiceClient.Nonce, &apiv1.NonceRequest{})
	if err == nil && len(r.GetNonce()) != 32 {
		err = &keystead.FormatError{Format: "nonce", Field: "nonce", Problem: fmt.Sprintf("is %d bytes, not 32", len(r.GetNonce()))}
	}
	return r, err
}

// Admit hands in evidence for admission, and answers once a majority endorsed it.
func (h *Host) Admit(ctx context.Context, q *apiv1.AdmitRequest) (*apiv1.AdmitResponse, error) {
	return each(ctx, h, apiv1connect.HostServiceClient.Admit, q)
}

// Renew hands in evidence for a renewal, and answers once it is on the ledger.
func (h *Host) Renew(ctx context.Context, q *apiv1.RenewRequest) (*apiv1.RenewResponse, error) {
	return each(ctx, h, apiv1connect.HostServiceClient.Renew, q)
}

// IssueSVID has a node sign an X.509-SVID for the lease's subject key.
func (h *Host) IssueSVID(ctx context.Context, host string) (*apiv1.IssueSVIDResponse, error) {
	return each(ctx, h, apiv1connect.HostServiceClient.IssueSVID, &apiv1.IssueSVIDRequest{Host: host})
}

// Release asks for an agreed key.
func (h *Host) Release(ctx context.Context, q *apiv1.ReleaseRequest) (*apiv1.ReleaseResponse, error) {
	return each(ctx, h, apiv1connect.HostServiceClient.Release, q)
}

// order returns the nodes, and which of them to ask first.
func (h *Host) order() ([]*hostNode, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nodes, h.at
}

// answered remembers which node to ask first the next time.
func (h *Host) answered(by *hostNode) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = max(0, slices.Index(h.nodes, by))
}

// Package client talks to a domain. It knows the domain by its genesis digest and
// trusts no node: nodes are pinned by the keys that the domain's members signed,
// receipts and checkpoints are verified here, and a transaction keeps its request
// id over all retries, so that it happens once whichever node answers.
//
// What a node answers to a read is believed as that node's word. Whoever needs
// more asks for a receipt.
package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/receipt"
)

// maxAnswer bounds what a node may answer, in bytes.
const maxAnswer = 32 << 20

// Options say how a client goes about it. The zero value is a good one.
type Options struct {
	Certificate *tls.Certificate // shown to nodes whose api.clients asks for one
	Attempt     time.Duration    // for one node to answer before the next is asked; 5 s if 0
	Only        string           // name of the one node to ask, for looking at it
}

// A Client talks to a domain. It is safe for concurrent use.
type Client struct {
	opts     Options
	domain   keystead.Digest
	verifier *receipt.Verifier

	mu    sync.Mutex
	nodes []*node
	at    int // the node that answered last
	clock clock
}

// node is one node of the domain as this client reaches it.
type node struct {
	Contact
	ledger apiv1connect.LedgerServiceClient
	domain apiv1connect.DomainServiceClient
	host   apiv1connect.HostServiceClient
	http   connect.HTTPClient
	close  func()
}

// Open returns a client of the domain. The file's genesis entry must have the
// digest, and every contact must be of a node that the chain leading from there
// names; others are passed over.
func Open(file *Domain, domain keystead.Digest, opts Options) (*Client, error) {
	entry, err := receipt.NoteEntry(file.Genesis)
	if err != nil {
		return nil, err
	}
	genesis, err := receipt.VerifyGenesis(entry, domain)
	if err != nil {
		return nil, err
	}
	if opts.Attempt == 0 {
		opts.Attempt = 5 * time.Second
	}
	c := &Client{opts: opts, domain: domain, verifier: receipt.NewVerifier(domain)}
	c.connect(file.Contacts, &genesis.Roster)
	if opts.Only != "" {
		return c, c.only(opts.Only)
	}
	if len(c.nodes) == 0 {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "domain file",
			Want: "a contact of a node of the domain", Got: fmt.Sprintf("%d contacts, none of them", len(file.Contacts))})
	}
	return c, nil
}

// only keeps the one node of that name, which may have come after the founders.
func (c *Client) only(name string) error {
	named := func(n *node) bool { return n.Name == name }
	if !slices.ContainsFunc(c.nodes, named) && len(c.nodes) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*c.opts.Attempt)
		defer cancel()
		v, err := c.Show(ctx)
		if err != nil {
			return err
		}
		c.connect(v.File.Contacts, &v.Roster) // Show does so itself if there was more than one node to ask
	}
	c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return !named(n) })
	if len(c.nodes) == 0 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "domain", Want: "a node with a contact", Got: name})
	}
	return nil
}

// Domain returns the digest of the domain's genesis entry.
func (c *Client) Domain() keystead.Digest { return c.domain }

// Close drops the connections.
func (c *Client) Close() {
	for _, n := range c.all() {
		n.close()
	}
}

// connect adds the nodes of the roster that are not known yet. One that only has a new
// signing key is found where it was.
func (c *Client) connect(contacts [][]byte, roster *receipt.Roster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, signed := range contacts {
		contact, err := OpenContact(signed)
		if err != nil {
			continue
		}
		n, ok := roster.Node(contact.Name)
		if !ok || n != contact.Node() || slices.ContainsFunc(c.nodes, func(n *node) bool { return n.sameDoor(contact) }) {
			continue
		}
		c.nodes = append(c.nodes, c.dial(contact))
	}
}

// sameDoor reports whether a contact leads where the node was found, as the same node.
func (n *node) sameDoor(c Contact) bool {
	c.Key = n.Key
	return n.Contact == c
}

func (c *Client) dial(to Contact) *node {
	t := PinnedTransport(to, c.opts.Certificate)
	h := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	o := []connect.ClientOption{connect.WithReadMaxBytes(maxAnswer)} // no GET: many keys make no URL
	return &node{to, apiv1connect.NewLedgerServiceClient(h, to.API, o...), apiv1connect.NewDomainServiceClient(h, to.API, o...),
		apiv1connect.NewHostServiceClient(h, to.API, o...), h, t.CloseIdleConnections}
}

// PinnedTLS returns the configuration of a connection to the one holder of the
// key with that digest. Names and dates of the certificate mean nothing here.
func PinnedTLS(pin keystead.Digest, own *tls.Certificate) *tls.Config {
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		InsecureSkipVerify:     true, // VerifyConnection compares the key, and TLS 1.3 proves its possession
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2"},
		VerifyConnection: func(s tls.ConnectionState) error {
			got := keystead.Sum(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if got != pin {
				return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "TLS key of the node", Want: pin.String(), Got: got.String()})
			}
			return nil
		},
	}
	if own != nil {
		cfg.Certificates = []tls.Certificate{*own}
	}
	return cfg
}

func (c *Client) all() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes)
}

func (c *Client) current() (*node, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[c.at%len(c.nodes)], c.at
}

// next passes over the node that was asked at place at, unless someone has.
func (c *Client) next(at int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == at {
		c.at = (c.at + 1) % len(c.nodes)
	}
}

// Pauses between attempts on a domain of which no node answers.
const (
	pauseMin = 20 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// each asks one node after the other until one answers with more than that it is
// unavailable, or ctx ends. Then the last refusal is the error: of those that say more
// than that time is over, if there were any, and of those that name a state of a node. If
// no node answers, and so many say that they are shut that the others are no majority, one of them
// that people have to do something, that ends it at once: the word of one alone may be a lie, or of
// that node's disk only, while the others change leaders.
func (c *Client) each(ctx context.Context, ask func(context.Context, *node) error) error {
	pause := pauseMin
	var told error
	closed := 0 // nodes of this time around
	for n := 1; ; n++ {
		to, at := c.current()
		one, cancel := context.WithTimeout(ctx, c.opts.Attempt)
		err := refusal.Decode(ask(one, to))
		cancel()
		if err == nil || !Unavailable(err) {
			return err
		}
		if told == nil || !late(err) && (shut(err) || !shut(told)) {
			told = err
		}
		if shut(err) {
			closed++
		}
		if ctx.Err() != nil {
			return told
		}
		c.next(at)
		total := len(c.all())
		if n%total != 0 {
			continue
		}
		if lasts(told) && closed > total-(total/2+1) {
			return told
		}
		closed = 0
		select {
		case <-ctx.Done():
			return told
		case <-time.After(pause):
			pause = min(2*pause, pauseMax)
		}
	}
}

// Unavailable reports whether the error says that a node could not answer now:
// another one, or the same one later, may.
func Unavailable(err error) bool {
	var deny *keystead.DenyError
	return errors.As(err, &deny) && deny.Stage() == keystead.StageUnavailable && !errors.Is(deny, keystead.ReasonRequestExpired)
}

// late reports whether the error says only that time is over.
func late(err error) bool {
	var deny *keystead.DenyError
	return errors.As(err, &deny) && !slices.ContainsFunc(deny.Findings, func(f keystead.Finding) bool { return f.Reason != keystead.ReasonTimeout })
}

// shut reports whether the error names a state in which a node does not serve until somebody
// does something.
func shut(err error) bool { return lasts(err) || errors.Is(err, keystead.ReasonClosedNoMajority) }

// lasts reports whether it takes people to end the state that the error names: to ask again is
// no use. Nodes that were down may come back by themselves.
func lasts(err error) bool {
	return errors.Is(err, keystead.ReasonClosedRecovery) || errors.Is(err, keystead.ReasonClosedRekey) || errors.Is(err, keystead.ReasonDiskFull)
}

// NewRequestID returns 16 random bytes.
func NewRequestID() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return b
}

// Status asks the node that this client talks to how it is.
func (c *Client) Status(ctx context.Context) (out *apiv1.StatusResponse, err error) {
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.domain.Status(ctx, connect.NewRequest(&apiv1.StatusRequest{}))
		if err == nil {
			out = r.Msg
		}
		return err
	})
	return out, err
}

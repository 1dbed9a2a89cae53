package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
)

// each asks every node once, from the one on that answered last, until one answers
// with more than that it is unavailable, or that no connection could be had. If none
// does, a refusal that names more than unavailability is the error before another.
func each[Q, A any](ctx context.Context, h *Host, call method[Q, A], q *Q) (*A, error) {
	return eachNode(ctx, h, func(ctx context.Context, n *hostNode) (*A, error) { return called(ctx, n, call, q) })
}

func eachNode[A any](ctx context.Context, h *Host, call func(context.Context, *hostNode) (*A, error)) (*A, error) {
	nodes, at := h.order()
	err := error(keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "domain", Want: "a node to ask", Got: "none is known"}))
	told := false // err says more than that a node is unavailable
	for i := range nodes {
		n := nodes[(at+i)%len(nodes)]
		r, e := ask(ctx, n, h.opts.Attempt, call)
		var unmet *dialError
		switch {
		case e == nil:
			h.answered(n)
			return r, nil
		case ctx.Err() != nil:
			return nil, e
		case !errors.As(e, &unmet) && !Unavailable(e):
			h.answered(n)
			return nil, e
		case !told:
			err, told = e, !Unavailable(e)
		}
	}
	return nil, err
}

// A method is one of HostServiceClient.
type method[Q, A any] = func(apiv1connect.HostServiceClient, context.Context, *connect.Request[Q]) (*connect.Response[A], error)

func called[Q, A any](ctx context.Context, n *hostNode, call method[Q, A], q *Q) (*A, error) {
	to, base := n.transport()
	r, err := call(apiv1connect.NewHostServiceClient(to, base, connect.WithReadMaxBytes(maxHostAnswer)), ctx, connect.NewRequest(q))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

// ask has one node asked, in the time that it has for that.
func ask[A any](ctx context.Context, n *hostNode, patience time.Duration, call func(context.Context, *hostNode) (*A, error)) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer n.used()
	r, err := call(ctx, n)
	if err == nil {
		return r, nil
	}
	var unmet *dialError
	if errors.As(err, &unmet) {
		return nil, unmet
	}
	return nil, refusal.Decode(err)
}

// dialError is why no connection to a node could be had.
type dialError struct {
	node string
	err  error
}

func (e *dialError) Error() string { return "node " + e.node + ": " + e.err.Error() }

// Unwrap returns a refusal, whatever the error was: one that is none means that the
// node is not there.
func (e *dialError) Unwrap() error {
	if deny := refusal.Deny(e.err); deny != nil {
		return deny
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "connection to node " + e.node, Got: e.err.Error()})
}

// hostNode is a node with the connection to it.
type hostNode struct {
	Contact
	opts HostOptions

	mu    sync.Mutex
	since time.Time
	via   *http.Transport
	idle  *time.Timer // closes the connection when it was not used for hostIdle
	to    *http.Client
}

// How long a connection without requests is kept: hosts need one node at a time, and nodes
// have many hosts. A node keeps it longer, so that no host has to show all its logs for a
// renewal that is due within that time.
const (
	hostIdle = 3 * time.Minute
	NodeIdle = hostIdle + 30*time.Second
)

// transport returns a client whose connection's evidence is not older than MaxAge, and where
// the node's API is for it.
func (n *hostNode) transport() (to *http.Client, base string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.via != nil && time.Since(n.since) < n.opts.MaxAge {
		return n.to, n.base()
	}
	if n.via != nil {
		n.via.CloseIdleConnections() // requests under way end on the old one
	}
	n.via, n.since = AttestedTransport(n.connect, n.opts.MaxAge), time.Now()
	n.via.HTTP2.SendPingTimeout = HostSilence // what is asked has its time without that: HostOptions.Attempt
	n.to = &http.Client{Transport: n.via, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return n.to, n.base()
}

// base is the node's API for its transport, which knows where that is.
func (n *hostNode) base() string { return "http://" + n.Name + ".node.invalid" }

// maxHostAnswer bounds what a node answers to a host, in bytes.
const maxHostAnswer = 1 << 20

// connect opens a connection for the node's transport.
func (n *hostNode) connect(ctx context.Context) (net.Conn, error) {
	conn, err := n.opts.Dial(ctx, n.Contact)
	if err != nil {
		return nil, &dialError{n.Name, err}
	}
	return conn, nil
}

// used has the connection kept for hostIdle from now on. net/http closes one without TLS so
// long after it was made, whatever was asked meanwhile (IdleConnTimeout).
func (n *hostNode) used() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.idle != nil {
		n.idle.Stop()
	}
	if n.via != nil {
		n.idle = time.AfterFunc(hostIdle, n.via.CloseIdleConnections)
	}
}

func (n *hostNode) drop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.via != nil {
		n.via.CloseIdleConnections()
	}
	if n.idle != nil {
		n.idle.Stop()
	}
	n.via, n.idle = nil, nil
}

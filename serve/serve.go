// Package serve answers the API of a node: Connect, gRPC and plain HTTP with JSON
// on one port. It turns requests into calls of a [Ledger] and a [Domain], bounds
// what a request may hold, how many are under way and how long they take, and
// sends refusals with their findings.
//
// It trusts no client. What a client may do at all, the ledger decides.
package serve

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
)

// Bounds of requests.
const (
	maxBatch      = 1024 // transactions of one Pipeline message
	maxOperations = 1024
	maxKeys       = 1024
	maxReceipts   = 256
	maxTailBytes  = 1 << 20 // of one Tail message
	maxTail       = 1024    // entries of one Tail message
	maxWait       = 10 * time.Second
)

// An Outcome is what became of a transaction.
type Outcome struct {
	Applied bool // false if a comparison did not hold
	Leaf    uint64
	ID      keystead.Digest
}

// A Ledger is what the handlers write to and read from.
type Ledger interface {
	// Execute runs operations of the key-value contract as one transaction, and calls
	// done, once, with what became of it; done must not block.
	Execute(ctx context.Context, request ledger.RequestID, ops []ledger.Op, done func(Outcome, error))
	// View calls read with the state of one moment: of now, if linearizable, else
	// of any time before.
	View(ctx context.Context, linearizable bool, read func(ledger.View) error) error
	// Receipts returns the receipts of leaves, waiting for a checkpoint; with chainOnce the
	// chain of them all beside them. It calls Spend before it makes each.
	Receipts(ctx context.Context, leaves []uint64, chainOnce bool) (receipts, chain [][]byte, err error)
	// Consistency proves that the newest tree continues that of a checkpoint.
	Consistency(ctx context.Context, from []byte) ([]byte, error)
	// Grown waits until the tree has more leaves than size.
	Grown(ctx context.Context, size uint64) error
}

// Options bound what clients may use.
type Options struct {
	InFlight int           // requests and transactions under way of a class, of strangers at most 4,096
	Rate     int           // of them, a second from one stranger's address; 0 for no limit
	Timeout  time.Duration // of a request
	Evidence Evidence      // bounds of it; zero: DefaultEvidence
	Failed   func(error)   // told of errors that are the node's own; may be nil
	// Observe is told of every answer: procedure, code or "ok", time; may be nil.
	Observe func(procedure, code string, took time.Duration)
	Refused func(error) // told of every error that is answered; may be nil
	// MayWrite says who may execute transactions; nil: anybody.
	MayWrite func(Peer) bool
	Ready    func() error // why the node does not serve now, for health checks; nil: it does
	// Limited is told of every call that a limit kept out; may be nil.
	Limited func(class Class, from, procedure string, because error)
}

// Services are who answers. Of those that are nil, nothing is answered; Ledger and
// Domain are required.
type Services struct {
	Ledger  Ledger
	Domain  Domain
	Objects Objects
	Hosts   Hosts
	Nodes   Nodes
	Keys    Keys
	Archive Archive
	Watch   Watch
}

// server holds what the handlers share.
type server struct {
	apiv1connect.UnimplementedHostServiceHandler // what has no method below is not answered
	opts                                         Options
	ledger                                       Ledger
	domain                                       Domain
	objects                                      Objects
	hosts                                        Hosts
	nodes                                        Nodes
	keys                                         Keys
	archive                                      Archive
	watch                                        Watch
	rows                                         map[string]*row
}

// New returns the handler of a node's API.
func New(by Services, opts Options) http.Handler {
	if opts.Evidence == (Evidence{}) {
		opts.Evidence = DefaultEvidence
	}
	s := &server{opts: opts, ledger: by.Ledger, domain: by.Domain, objects: by.Objects, hosts: by.Hosts, nodes: by.Nodes, keys: by.Keys, archive: by.Archive, watch: by.Watch}
	with := func(most int) []connect.HandlerOption {
		return []connect.HandlerOption{connect.WithReadMaxBytes(most), connect.WithCompression("gzip", nil, nil), connect.WithInterceptors(interceptor{s}),
			connect.WithCodec(strictJSON{"json"}), connect.WithCodec(strictJSON{"json; charset=utf-8"})}
	}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewLedgerServiceHandler(s, with(transaction)...))
	mux.Handle(apiv1connect.NewDomainServiceHandler(s, with(transaction)...))
	mux.Handle(apiv1connect.NewHostServiceHandler(s, with(max(transaction, int(opts.Evidence.Bundle)+frame))...))
	mux.Handle(apiv1connect.NewNodeServiceHandler(s, with(maxEvidence+frame)...))
	describe(mux, opts.Ready, with(maxAsked))
	d := newDoor(mux, &s.opts)
	s.rows = d.rows
	return steady(maxStall, d)
}

// maxStall is how long a client may take none of an answer.
const maxStall = 30 * time.Second

// interceptor gives every call its deadline and every error its wire form.
type interceptor struct{ *server }

// WrapUnary implements connect.Interceptor.
func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, i.opts.Timeout)
		defer cancel()
		began := time.Now()
		out, err := next(ctx, r)
		return out, i.encode(ctx, r.Spec(), began, err)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		began := time.Now()
		return i.encode(ctx, c.Spec(), began, next(ctx, c))
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// encode gives an answer's error its wire form, and reports the answer.
func (i interceptor) encode(ctx context.Context, spec connect.Spec, began time.Time, err error) error {
	if because := refusedIn(ctx); err != nil && because != nil {
		err = because // which the library gives other names
	}
	out, code := refusal.Encode(err), "ok"
	if err != nil {
		if i.opts.Refused != nil {
			i.opts.Refused(err)
		}
		code = connect.CodeOf(out).String()
		if code == connect.CodeInternal.String() && i.opts.Failed != nil {
			i.opts.Failed(err)
		}
	}
	if i.opts.Observe != nil {
		i.opts.Observe(spec.Procedure, code, time.Since(began))
	}
	return out
}

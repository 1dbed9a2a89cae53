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
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
)

// Bounds of requests.
const (
	maxMessage    = 4 << 20 // bytes of one message
	maxBatch      = 1024    // transactions of one Pipeline message
	maxOperations = 1024
	maxKeys       = 1024
	maxReceipts   = 256
	maxReadBytes  = 16 << 20 // of one Read's values together
	maxTailBytes  = 1 << 20  // of one Tail message
	maxTail       = 1024     // entries of one Tail message
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
	// Receipts returns the receipts of leaves, waiting for a checkpoint.
	Receipts(ctx context.Context, leaves []uint64) ([][]byte, error)
	// Consistency proves that the newest tree continues that of a checkpoint.
	Consistency(ctx context.Context, from []byte) ([]byte, error)
	// Grown waits until the tree has more leaves than size.
	Grown(ctx context.Context, size uint64) error
}

// Options bound what clients may use.
type Options struct {
	InFlight int           // requests and transactions under way
	Rate     int           // of them, a second from one address; 0 for no limit
	Timeout  time.Duration // of a request
	Evidence Evidence      // bounds of it; zero: DefaultEvidence
	Failed   func(error)   // told of errors that are the node's own; may be nil
	// Observe is told of every answer: procedure, code or "ok", time; may be nil.
	Observe func(procedure, code string, took time.Duration)
	Refused func(error) // told of every error that is answered; may be nil
	// MayWrite says who may execute transactions; nil: anybody.
	MayWrite func(Peer) bool
	Ready    func() error // why the node does not serve now, for health checks; nil: it does
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
	watchers                                     watchers
	inFlight                                     atomic.Int64
	rate                                         *rate
}

// New returns the handler of a node's API.
func New(by Services, opts Options) http.Handler {
	if opts.Evidence == (Evidence{}) {
		opts.Evidence = DefaultEvidence
	}
	s := &server{opts: opts, ledger: by.Ledger, domain: by.Domain, objects: by.Objects, hosts: by.Hosts, nodes: by.Nodes, keys: by.Keys, archive: by.Archive, watch: by.Watch, rate: newRate(opts.Rate)}
	with := func(most int) []connect.HandlerOption {
		return []connect.HandlerOption{connect.WithReadMaxBytes(most), connect.WithCompressMinBytes(maxMessage), connect.WithInterceptors(interceptor{s}),
			connect.WithCodec(strictJSON{"json"}), connect.WithCodec(strictJSON{"json; charset=utf-8"})}
	}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewLedgerServiceHandler(s, with(maxMessage)...))
	mux.Handle(apiv1connect.NewDomainServiceHandler(s, with(maxMessage)...))
	mux.Handle(apiv1connect.NewHostServiceHandler(s, with(max(maxMessage, int(opts.Evidence.Bundle)+frame))...))
	mux.Handle(apiv1connect.NewNodeServiceHandler(s, with(maxEvidence+frame)...))
	describe(mux, opts.Ready, with(maxAsked))
	return evidenceGate(mux, opts.Evidence)
}

// enter takes up n of the requests and transactions that may be under way.
func (s *server) enter(n int) bool {
	if s.inFlight.Add(int64(n)) > int64(s.opts.InFlight) {
		s.inFlight.Add(-int64(n))
		return false
	}
	return true
}

func (s *server) leave(n int) { s.inFlight.Add(-int64(n)) }

func overloaded() error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "api", Want: "fewer requests and transactions under way", Got: "api.max-in-flight of them"})
}

// interceptor gives every call its deadline and every error its wire form.
type interceptor struct{ *server }

// WrapUnary implements connect.Interceptor.
func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, i.opts.Timeout)
		defer cancel()
		began := time.Now()
		out, err := i.admit(ctx, r, next)
		return out, i.encode(r.Spec(), began, err)
	}
}

// uncounted are calls that are not among those under way: Execute counts its
// transaction itself, and what keeps a domain going is not held up by clients.
var uncounted = map[string]bool{
	apiv1connect.LedgerServiceExecuteProcedure: true,
	apiv1connect.DomainServiceTickProcedure:    true,
	apiv1connect.DomainServiceStatusProcedure:  true,

	apiv1connect.NodeServiceExchangeHeadsProcedure: true,
}

// admit makes a call if there is room for it, and its address has an allowance.
func (i interceptor) admit(ctx context.Context, r connect.AnyRequest, next connect.UnaryFunc) (connect.AnyResponse, error) {
	if err := i.rate.take(r.Peer().Addr); err != nil {
		return nil, err
	}
	if !uncounted[r.Spec().Procedure] {
		if !i.enter(1) {
			return nil, overloaded()
		}
		defer i.leave(1)
	}
	return next(ctx, r)
}

// WrapStreamingHandler implements connect.Interceptor. A Tail is under way as long as
// it is open; of a Pipeline its transactions are.
func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		began := time.Now()
		err := i.rate.take(c.Peer().Addr)
		counted := c.Spec().Procedure != apiv1connect.LedgerServicePipelineProcedure
		if err == nil && counted && !i.enter(1) {
			err, counted = overloaded(), false
		} else if err != nil {
			counted = false
		}
		if counted {
			defer i.leave(1)
		}
		if err == nil {
			err = next(ctx, c)
		}
		return i.encode(c.Spec(), began, err)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// encode gives an answer's error its wire form, and reports the answer.
func (i interceptor) encode(spec connect.Spec, began time.Time, err error) error {
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

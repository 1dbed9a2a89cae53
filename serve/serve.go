// Package serve answers the API of a node: Connect, gRPC and plain HTTP with JSON
// on one port. It answers the procedures that a node's parts declare, bounds
// what a request may hold, how many are under way and how long they take, and
// sends refusals with their findings.
//
// It trusts no client. What a client may do at all, the ledger decides.
package serve

import (
	"context"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
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

// A Ledger is what the handlers write to and read from.
type Ledger interface {
	// Execute runs operations of the key-value contract as one transaction, and calls
	// done, once, with what became of it; done must not block.
	Execute(ctx context.Context, request ledger.RequestID, ops []ledger.Op, done func(part.Outcome, error))
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
	MayWrite func(part.Caller) bool
	Open     func(path string) error // why a procedure can not be answered now; nil: it can
	Ready    func() error            // why the node does not serve now, for health checks; nil: it does
	// Limited is told of every call that a limit kept out; may be nil.
	Limited func(class part.Class, from, procedure string, because error)
}

// New returns the handler of procedures, which a node's parts declare. Of two with one path,
// the first counts: the node refuses parts that declare what another one has.
func New(procedures []part.Procedure, opts Options) http.Handler {
	if opts.Evidence == (Evidence{}) {
		opts.Evidence = DefaultEvidence
	}
	common := []connect.HandlerOption{connect.WithReadMaxBytes(max(transaction, int(opts.Evidence.Bundle), maxEvidence) + frame), connect.WithCompression("gzip", nil, nil),
		connect.WithInterceptors(interceptor{&opts}), connect.WithCodec(strictJSON{"json"}), connect.WithCodec(strictJSON{"json; charset=utf-8"})}
	return steady(maxStall, newDoor(append(slices.Clip(procedures), described(procedures, opts.Ready)...), common, &opts))
}

// maxStall is how long a client may take none of an answer.
const maxStall = 30 * time.Second

// interceptor gives every call its deadline and every error its wire form.
type interceptor struct{ opts *Options }

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

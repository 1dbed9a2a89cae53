package serve

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

func malformed(field, format string, args ...any) error {
	return &keystead.FormatError{Format: "request", Field: field, Problem: fmt.Sprintf(format, args...)}
}

// parse checks a transaction and returns it as the ledger takes it.
func parse(tx *apiv1.Transaction) (ledger.RequestID, []ledger.Op, error) {
	r := ledger.RequestID{Deadline: tx.GetDeadlineMs()}
	bad := func(err error) (ledger.RequestID, []ledger.Op, error) { return r, nil, err }
	switch n := len(tx.GetRequestId()); {
	case n != len(r.ID):
		return bad(malformed("transaction.request_id", "is %d bytes, not %d", n, len(r.ID)))
	case tx.GetContract() != ledger.KV:
		return bad(malformed("transaction.contract", "%.40q is none that this node runs; it runs %q", tx.GetContract(), ledger.KV))
	case len(tx.GetOperations()) == 0 || len(tx.GetOperations()) > maxOperations:
		return bad(malformed("transaction.operations", "are %d, not 1 to %d", len(tx.GetOperations()), maxOperations))
	}
	r.ID = [16]byte(tx.GetRequestId())
	ops := make([]ledger.Op, len(tx.GetOperations()))
	for i, o := range tx.GetOperations() {
		key, inside := strings.CutPrefix(o.GetKey(), ledger.KV+"/")
		switch {
		case !inside:
			return bad(keystead.Deny(keystead.Finding{Reason: keystead.ReasonWriteOutside, Where: fmt.Sprintf("operation %d", i), Want: "keys that start with \"" + ledger.KV + "/\"", Got: fmt.Sprintf("%.80q", o.GetKey())}))
		case key == "" || len(o.GetKey()) > ledger.MaxKey:
			return bad(malformed("operation.key", "is %d bytes, not %d to %d", len(o.GetKey()), len(ledger.KV)+2, ledger.MaxKey))
		case len(o.GetValue()) > ledger.MaxValue:
			return bad(keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: fmt.Sprintf("operation %d", i), Want: fmt.Sprintf("a value of at most %d bytes", ledger.MaxValue), Got: fmt.Sprintf("%d bytes", len(o.GetValue()))}))
		case o.GetDelete() && len(o.GetValue()) > 0:
			return bad(malformed("operation.delete", "has a value as well"))
		}
		ops[i] = ledger.Op{Key: key, Delete: o.GetDelete(), Value: o.GetValue()}
		switch c := o.GetCompare().GetWant().(type) {
		case *apiv1.Compare_Value:
			ops[i].Compare = &ledger.Compare{Value: c.Value}
		case *apiv1.Compare_Absent:
			if !c.Absent {
				return bad(malformed("operation.compare.absent", "is false; leave compare out"))
			}
			ops[i].Compare = &ledger.Compare{Absent: true}
		case nil:
			if o.GetCompare() != nil {
				return bad(malformed("operation.compare", "wants value or absent"))
			}
		}
	}
	return r, ops, nil
}

// patience is the deadline of a transaction that came without one.
const patience = ledger.Window / 2

// complete gives a transaction the request id and deadline that it came without.
func (s *booksAPI) complete(ctx context.Context, tx *apiv1.Transaction) error {
	if tx == nil {
		return malformed("transaction", "is missing")
	}
	if len(tx.RequestId) == 0 {
		tx.RequestId = make([]byte, 16)
		_, _ = rand.Read(tx.RequestId) // never fails
	}
	if tx.DeadlineMs != 0 {
		return nil
	}
	return s.ledger.View(ctx, false, func(v ledger.View) error {
		status, err := v.Status()
		tx.DeadlineMs = status.Clock + patience
		return err
	})
}

// run executes one transaction and calls done, once, which must not block.
func (s *booksAPI) run(ctx context.Context, tx *apiv1.Transaction, done func(*apiv1.Outcome, error)) {
	err := s.mayWrite(ctx)
	if err == nil {
		err = s.complete(ctx, tx)
	}
	var request ledger.RequestID
	var ops []ledger.Op
	if err == nil {
		request, ops, err = parse(tx)
	}
	if err != nil {
		done(nil, err)
		return
	}
	s.ledger.Execute(ctx, request, ops, func(o part.Outcome, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		out := &apiv1.Outcome{RequestId: tx.GetRequestId(), Applied: o.Applied}
		if o.Applied {
			out.Leaf, out.TransactionId = o.Leaf, o.ID[:]
		}
		done(out, nil)
	})
}

// Execute implements the API's LedgerService.
func (s *booksAPI) Execute(ctx context.Context, r *apiv1.ExecuteRequest) (*apiv1.ExecuteResponse, error) {
	in := callOf(ctx)
	if !in.enter(1) {
		return nil, overloaded()
	}
	release := hold(ctx)
	type answer struct {
		out *apiv1.Outcome
		err error
	}
	ended := make(chan answer, 1)
	s.run(ctx, r.GetTransaction(), func(o *apiv1.Outcome, err error) {
		in.leave(1)
		release()
		ended <- answer{o, err}
	})
	select {
	case a := <-ended:
		return &apiv1.ExecuteResponse{Outcome: a.out}, a.err
	case <-ctx.Done():
		return nil, ctx.Err() // it may still take effect
	}
}

// Pipeline implements the API's LedgerService. Transactions run beside each other; a
// goroutine sends what has ended since it last sent, as one message.
func (s *booksAPI) Pipeline(ctx context.Context, stream *connect.BidiStream[apiv1.PipelineRequest, apiv1.PipelineResponse]) error {
	out := &outcomes{wake: make(chan struct{}, 1)}
	sent := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		err := out.send(stream)
		if err != nil {
			cancel() // nobody is there to hear outcomes
		}
		sent <- err
	}()
	err := s.receive(ctx, stream, out)
	out.running.Wait()
	out.close()
	return errors.Join(err, <-sent)
}

// receive starts the transactions of each message until the client ends.
func (s *booksAPI) receive(ctx context.Context, stream *connect.BidiStream[apiv1.PipelineRequest, apiv1.PipelineResponse], out *outcomes) error {
	from, in := stream.Peer().Addr, callOf(ctx)
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		txs := m.GetTransactions()
		if len(txs) > maxBatch {
			return malformed("transactions", "are %d, at most %d are accepted", len(txs), maxBatch)
		}
		batch, cancel := context.WithTimeout(ctx, s.opts.Timeout)
		release := hold(ctx)
		left := &countdown{done: func() { cancel(); release() }}
		left.left.Store(int64(len(txs)) + 1)
		for _, tx := range txs {
			var err error
			if in.class == part.ClassStranger {
				err = in.row.rate.Take(from)
			}
			if err == nil && !in.enter(1) {
				err = overloaded()
			}
			if err != nil {
				out.refuse(tx, err)
				left.one()
				continue
			}
			out.running.Add(1)
			s.run(batch, tx, func(o *apiv1.Outcome, err error) {
				in.leave(1)
				if err != nil {
					out.refuse(tx, err)
				} else {
					out.add(o)
				}
				left.one()
				out.running.Done()
			})
		}
		left.one()
	}
}

// countdown ends a batch's context when all its transactions have.
type countdown struct {
	left atomic.Int64
	done func()
}

func (c *countdown) one() {
	if c.left.Add(-1) == 0 {
		c.done()
	}
}

// outcomes gathers what is to be sent.
type outcomes struct {
	running sync.WaitGroup
	wake    chan struct{}
	mu      sync.Mutex
	ready   []*apiv1.Outcome
	closed  bool
}

func (o *outcomes) add(out *apiv1.Outcome) {
	o.mu.Lock()
	o.ready = append(o.ready, out)
	o.mu.Unlock()
	o.signal()
}

func (o *outcomes) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outcomes) refuse(tx *apiv1.Transaction, err error) {
	deny := refusal.Deny(err)
	if deny == nil {
		deny = keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "node", Got: "an internal error; the node's log has it"})
	}
	o.add(&apiv1.Outcome{RequestId: tx.GetRequestId(), Refusal: refusal.Message(deny)})
}

func (o *outcomes) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.signal()
}

func (o *outcomes) send(stream *connect.BidiStream[apiv1.PipelineRequest, apiv1.PipelineResponse]) error {
	for range o.wake {
		o.mu.Lock()
		ready, closed := o.ready, o.closed
		o.ready = nil
		o.mu.Unlock()
		for len(ready) > 0 {
			n := min(len(ready), maxBatch)
			if err := stream.Send(&apiv1.PipelineResponse{Outcomes: ready[:n]}); err != nil {
				return err
			}
			ready = ready[n:]
		}
		if closed {
			break
		}
	}
	return nil
}

// Read implements the API's LedgerService.
func (s *booksAPI) Read(ctx context.Context, r *apiv1.ReadRequest) (*apiv1.ReadResponse, error) {
	if n := len(r.GetKeys()); n == 0 || n > maxKeys {
		return nil, malformed("keys", "are %d, not 1 to %d", n, maxKeys)
	}
	out := &apiv1.ReadResponse{}
	stale := r.GetConsistency() == apiv1.Consistency_CONSISTENCY_STALE
	err := s.ledger.View(ctx, !stale, func(v ledger.View) error {
		status, err := v.Status()
		if err != nil {
			return err
		}
		out.Index = status.Applied
		for _, k := range r.GetKeys() {
			x, err := v.Get(k)
			if err == nil {
				err = part.Spend(ctx, len(k)+len(x.Data))
			}
			if err != nil {
				return err
			}
			out.Values = append(out.Values, &apiv1.Value{Key: k, Value: x.Data, Version: x.Version})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Tail implements the API's LedgerService.
func (s *booksAPI) Tail(ctx context.Context, r *apiv1.TailRequest, send func(*apiv1.TailResponse) error) error {
	from, to := r.GetFrom(), r.GetTo()
	for to == 0 || from < to {
		msg := &apiv1.TailResponse{}
		err := s.ledger.View(ctx, false, func(v ledger.View) error {
			status, err := v.Status()
			if err != nil {
				return err
			}
			for size := 0; from < status.Size && (to == 0 || from < to) && size < maxTailBytes && len(msg.Entries) < maxTail; from++ {
				e, err := v.Entry(from)
				if err != nil {
					return err
				}
				kind, _, err := receipt.Split(e)
				if err != nil {
					return err
				}
				if size > 0 && size+len(e) > maxTailBytes {
					break
				}
				if err := part.Spend(ctx, len(e)); err != nil {
					return err
				}
				size += len(e)
				msg.Entries = append(msg.Entries, &apiv1.Entry{Leaf: from, Kind: kind.String(), Entry: e})
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(msg.Entries) == 0 {
			if err := s.ledger.Grown(ctx, from); err != nil {
				return err
			}
			continue
		}
		if err := send(msg); err != nil {
			return err
		}
		sent(ctx)
	}
	return nil
}

// GetCheckpoint implements the API's LedgerService.
func (s *booksAPI) GetCheckpoint(ctx context.Context, _ *apiv1.GetCheckpointRequest) (*apiv1.GetCheckpointResponse, error) {
	out := &apiv1.GetCheckpointResponse{}
	err := s.ledger.View(ctx, false, func(v ledger.View) (err error) {
		out.Note, err = v.Checkpoint()
		return err
	})
	if err == nil && out.Note == nil {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "checkpoint", Want: "a checkpoint that a majority signed", Got: "none yet"})
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetReceipts implements the API's LedgerService.
func (s *booksAPI) GetReceipts(ctx context.Context, r *apiv1.GetReceiptsRequest) (*apiv1.GetReceiptsResponse, error) {
	if n := len(r.GetLeaves()); n == 0 || n > maxReceipts {
		return nil, malformed("leaves", "are %d, not 1 to %d", n, maxReceipts)
	}
	for i, leaf := range r.GetLeaves() {
		if slices.Contains(r.GetLeaves()[:i], leaf) { // of 256 at most
			return nil, malformed("leaves", "name leaf %d twice", leaf)
		}
	}
	wait := time.Duration(r.GetWaitMs()) * time.Millisecond
	if wait == 0 {
		wait = time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, min(wait, maxWait))
	defer cancel()
	receipts, chain, err := s.ledger.Receipts(ctx, r.GetLeaves(), r.GetChainOnce())
	if err != nil {
		return nil, err
	}
	return &apiv1.GetReceiptsResponse{Receipts: receipts, Chain: chain}, nil
}

// GetConsistency implements the API's LedgerService.
func (s *booksAPI) GetConsistency(ctx context.Context, r *apiv1.GetConsistencyRequest) (*apiv1.GetConsistencyResponse, error) {
	text, err := s.ledger.Consistency(ctx, r.GetFrom())
	if err != nil {
		return nil, err
	}
	return &apiv1.GetConsistencyResponse{Proof: text}, nil
}

// booksAPI answers the API's LedgerService.
type booksAPI struct {
	ledger Ledger
	opts   *Options
}

// LedgerProcedures are those of the API's LedgerService.
func LedgerProcedures(by Ledger, opts *Options) []part.Procedure {
	s := &booksAPI{by, opts}
	return []part.Procedure{
		part.Unary(api.LedgerServiceExecuteProcedure, part.Limits{In: transaction, Values: 8 * maxOperations, Out: small, Uncounted: true}, s.Execute),
		part.Both(api.LedgerServicePipelineProcedure, part.Limits{In: transaction, Values: 16 * maxBatch, Out: 1 << 20, Flight: 256, Uncounted: true}, s.Pipeline),
		part.Unary(api.LedgerServiceReadProcedure, part.Limits{In: transaction, Values: 2 * maxKeys, Out: answers, Flight: 128}, s.Read),
		part.Stream(api.LedgerServiceTailProcedure, part.Limits{In: small, Values: 8, Out: maxTailBytes + small, Waits: true}, s.Tail),
		part.Unary(api.LedgerServiceGetCheckpointProcedure, part.Limits{In: small, Values: 8, Out: usual}, s.GetCheckpoint),
		part.Unary(api.LedgerServiceGetReceiptsProcedure, part.Limits{In: small, Values: 2 * maxReceipts, Out: answers, Rate: 100, Flight: 16}, s.GetReceipts),
		part.Unary(api.LedgerServiceGetConsistencyProcedure, part.Limits{In: usual, Values: 8, Out: answers, Rate: 100, Flight: 16}, s.GetConsistency),
		part.Unary(api.HostServiceGetStateProcedure, part.Limits{In: usual, Values: 2 * maxStateKeys, Out: answers, Flight: 64}, s.GetState),
	}
}

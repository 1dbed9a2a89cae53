package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/receipt"
)

// KV is the name of the key-value contract; its keys start with "kv/".
const KV = "kv"

// patience is how far ahead a transaction's deadline lies: the ledger keeps
// request ids for 30 s of the domain clock. That clock stands still while there is
// no majority, so what is known of it serves for clockAge only: a deadline is never
// more than the sum of both ahead.
const (
	patience = 25 * time.Second
	clockAge = 4 * time.Second
)

// clock is what a node said of the domain clock, in Unix milliseconds, and when.
// From there on this machine's monotonic clock counts, so that setting its time of
// day moves no deadline.
type clock struct {
	domain uint64
	known  time.Time
}

func (k clock) now() uint64 { return k.domain + uint64(time.Since(k.known).Milliseconds()) }

// Deadline returns the domain clock patience from now, in Unix milliseconds.
func (c *Client) Deadline(ctx context.Context) (uint64, error) {
	c.mu.Lock()
	k := c.clock
	c.mu.Unlock()
	if time.Since(k.known) > clockAge {
		err := c.each(ctx, func(ctx context.Context, n *node) error {
			s, err := n.domain.Status(ctx, connect.NewRequest(&apiv1.StatusRequest{}))
			if err == nil && s.Msg.GetDomainClockMs() == 0 {
				err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "node " + n.Name, Want: "a domain clock", Got: "none yet"})
			}
			if err == nil {
				k = clock{s.Msg.GetDomainClockMs(), time.Now()}
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		c.mu.Lock()
		c.clock = k
		c.mu.Unlock()
	}
	return k.now() + uint64(patience.Milliseconds()), nil
}

// Prepare gives a transaction its request id and deadline if it has none.
func (c *Client) Prepare(ctx context.Context, tx *apiv1.Transaction) error {
	if len(tx.RequestId) == 0 {
		tx.RequestId = NewRequestID()
	}
	if tx.DeadlineMs == 0 {
		d, err := c.Deadline(ctx)
		if err != nil {
			return err
		}
		tx.DeadlineMs = d
	}
	return nil
}

// Execute runs a transaction once, asking node after node until one knows the
// outcome. If it ends with an unavailable error the transaction may still take
// effect until its deadline; Execute with the same transaction then tells.
func (c *Client) Execute(ctx context.Context, tx *apiv1.Transaction) (out *apiv1.Outcome, err error) {
	if err := c.Prepare(ctx, tx); err != nil {
		return nil, err
	}
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.ledger.Execute(ctx, connect.NewRequest(&apiv1.ExecuteRequest{Transaction: tx}))
		if err == nil {
			out = r.Msg.GetOutcome()
		}
		return err
	})
	return out, err
}

// Put writes a value under a key of the key-value contract, such as "kv/colour".
func (c *Client) Put(ctx context.Context, key string, value []byte) (*apiv1.Outcome, error) {
	return c.Execute(ctx, &apiv1.Transaction{Contract: KV, Operations: []*apiv1.Operation{
		{Key: key, Value: value}}})
}

// Delete removes a key of the key-value contract.
func (c *Client) Delete(ctx context.Context, key string) (*apiv1.Outcome, error) {
	return c.Execute(ctx, &apiv1.Transaction{Contract: KV, Operations: []*apiv1.Operation{
		{Key: key, Delete: true}}})
}

// Read reads keys at one moment. Stale reads may miss the newest writes.
func (c *Client) Read(ctx context.Context, stale bool, keys ...string) (out *apiv1.ReadResponse, err error) {
	req := &apiv1.ReadRequest{Keys: keys, Consistency: apiv1.Consistency_CONSISTENCY_LINEARIZABLE}
	if stale {
		req.Consistency = apiv1.Consistency_CONSISTENCY_STALE
	}
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.ledger.Read(ctx, connect.NewRequest(req))
		if err == nil {
			out = r.Msg
		}
		return err
	})
	return out, err
}

// Size returns how many leaves the tree has, with all that were acknowledged to
// anyone before the call: a node says so that has asked a majority.
func (c *Client) Size(ctx context.Context) (leaves uint64, err error) {
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		read := &apiv1.ReadRequest{Keys: []string{KV + "/-"}, Consistency: apiv1.Consistency_CONSISTENCY_LINEARIZABLE}
		if _, err := n.ledger.Read(ctx, connect.NewRequest(read)); err != nil { // it has caught up after this
			return err
		}
		s, err := n.domain.Status(ctx, connect.NewRequest(&apiv1.StatusRequest{}))
		if err == nil && s.Msg.GetTreeSize() == 0 {
			err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "node " + n.Name, Want: "a ledger that has begun", Got: "none yet"})
		}
		if err == nil {
			leaves = s.Msg.GetTreeSize()
		}
		return err
	})
	return leaves, err
}

// Tail calls yield with every leaf from one on, in order, until yield returns
// false, leaf to (if not 0) is reached, or ctx ends. It goes on at the next node
// when one fails, and never skips or repeats a leaf.
func (c *Client) Tail(ctx context.Context, from, to uint64, yield func(*apiv1.Entry) bool) error {
	stop := false
	for !stop && (to == 0 || from < to) {
		n, at := c.current()
		s, err := n.ledger.Tail(ctx, connect.NewRequest(&apiv1.TailRequest{From: from, To: to}))
		if err == nil {
			for !stop && s.Receive() {
				for _, e := range s.Msg().GetEntries() {
					if e.GetLeaf() != from {
						stop, err = true, keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: "tail of node " + n.Name,
							Want: "every leaf once and in order", Got: "a leaf out of order"})
						break
					}
					if from++; !yield(e) {
						stop = true
						break
					}
				}
			}
			if s.Err() != nil && err == nil {
				err = s.Err()
			}
			_ = s.Close() // the answer is read or not wanted
		}
		if err == nil {
			continue
		}
		if err = refusal.Decode(err); !Unavailable(err) || ctx.Err() != nil {
			return err
		}
		c.next(at)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pauseMax):
		}
	}
	return nil
}

// Receipt fetches the receipt of a leaf and verifies it from the genesis digest. It
// waits for the checkpoint that covers the leaf.
func (c *Client) Receipt(ctx context.Context, leaf uint64) ([]byte, receipt.Proven, error) {
	texts, proven, err := c.Receipts(ctx, leaf)
	if err != nil {
		return nil, receipt.Proven{}, err
	}
	return texts[0], proven[0], nil
}

// Receipts is Receipt for up to 256 leaves, none twice. Where these are too much for one
// answer it asks for the halves.
func (c *Client) Receipts(ctx context.Context, leaves ...uint64) (texts [][]byte, proven []receipt.Proven, err error) {
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.ledger.GetReceipts(ctx, connect.NewRequest(&apiv1.GetReceiptsRequest{Leaves: leaves, ChainOnce: true}))
		if err == nil {
			texts, err = withChain(r.Msg)
		}
		return err
	})
	if half := len(leaves) / 2; half > 0 && errors.Is(err, keystead.ReasonTooLarge) {
		if texts, proven, err = c.Receipts(ctx, leaves[:half]...); err != nil {
			return nil, nil, err
		}
		t, p, err := c.Receipts(ctx, leaves[half:]...)
		return append(texts, t...), append(proven, p...), err
	}
	if err != nil {
		return nil, nil, err
	}
	wrong := func(want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: "receipts", Want: want, Got: got})
	}
	if len(texts) != len(leaves) {
		return nil, nil, wrong(fmt.Sprintf("%d receipts", len(leaves)), fmt.Sprint(len(texts)))
	}
	for i, text := range texts {
		p, err := c.verifier.Verify(text)
		if err == nil && p.Index != leaves[i] {
			err = wrong(fmt.Sprintf("one of leaf %d", leaves[i]), fmt.Sprintf("one of leaf %d", p.Index))
		}
		if err != nil {
			return nil, nil, err
		}
		proven = append(proven, p)
	}
	return texts, proven, nil
}

// withChain returns receipts as they stand alone: with the chain that came beside them.
func withChain(r *apiv1.GetReceiptsResponse) ([][]byte, error) {
	texts := r.GetReceipts()
	if len(r.GetChain()) == 0 {
		return texts, nil
	}
	for i, text := range texts {
		one, err := receipt.Parse(text)
		if err != nil {
			return nil, err
		}
		one.Chain = r.GetChain()
		texts[i] = one.Bytes()
	}
	return texts, nil
}

// A Pipeline sends many transactions over one stream. It stays with one node; when
// that fails, so do those under way, and their outcome is found by Execute with
// the same transaction.
type Pipeline struct {
	stream *connect.BidiStreamForClient[apiv1.PipelineRequest, apiv1.PipelineResponse]
	mu     sync.Mutex
	wait   map[string]func(*apiv1.Outcome, error)
	err    error
}

// Pipeline opens a stream to a node. Different calls take different nodes in turn.
func (c *Client) Pipeline(ctx context.Context) *Pipeline {
	n, at := c.current()
	c.next(at)
	p := &Pipeline{stream: n.ledger.Pipeline(ctx), wait: map[string]func(*apiv1.Outcome, error){}}
	go p.receive()
	return p
}

// Send sends transactions, which [Client.Prepare] has prepared, in one message.
// Done is called once for each, with the outcome or why there is none.
func (p *Pipeline) Send(txs []*apiv1.Transaction, done func(*apiv1.Outcome, error)) error {
	p.mu.Lock()
	if p.err != nil {
		defer p.mu.Unlock()
		return p.err
	}
	for _, tx := range txs {
		p.wait[string(tx.GetRequestId())] = done
	}
	p.mu.Unlock()
	if err := p.stream.Send(&apiv1.PipelineRequest{Transactions: txs}); err != nil {
		err = refusal.Decode(err)
		p.fail(err)
		return err
	}
	return nil
}

// Close says that nothing more is sent. Outcomes still come in.
func (p *Pipeline) Close() error { return p.stream.CloseRequest() }

func (p *Pipeline) receive() {
	for {
		r, err := p.stream.Receive()
		if err != nil {
			p.fail(refusal.Decode(err))
			_ = p.stream.CloseResponse() // it has ended
			return
		}
		for _, o := range r.GetOutcomes() {
			p.mu.Lock()
			done := p.wait[string(o.GetRequestId())]
			delete(p.wait, string(o.GetRequestId()))
			p.mu.Unlock()
			if done == nil {
				continue
			}
			if deny := refusal.Parse(o.GetRefusal()); deny != nil {
				done(nil, deny)
			} else {
				done(o, nil)
			}
		}
	}
}

// fail ends all that wait.
func (p *Pipeline) fail(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	waiting := p.wait
	p.wait = map[string]func(*apiv1.Outcome, error){}
	p.mu.Unlock()
	for _, done := range waiting {
		done(nil, err)
	}
}

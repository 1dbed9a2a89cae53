package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keystead/keystead"
)

// A Proposal is a command on its way into the log. Done is called exactly once,
// on the loop's goroutine, with Result or Err set.
type Proposal struct {
	Command []byte
	Result  []byte
	Err     error
	Done    func(*Proposal)

	change   *Change // instead of a command
	deadline uint64  // tick
}

func (p *Proposal) finish(result []byte, err error) {
	p.Result, p.Err = result, err
	p.Done(p)
}

func (p *Proposal) size() int { return len(p.Command) + 16 }

// batch is a log entry of ours on its way. Proposals that timed out are nil.
type batch struct {
	seq       uint64
	sent      uint64 // tick
	bytes     int
	proposals []*Proposal
}

// proposals is what this node proposed and has no outcome of. Batches are
// numbered; when one is applied, those before it that were not are dead and are
// proposed anew. An empty batch, a fence, settles what may have been lost.
type proposals struct {
	queue       []*Proposal // not in a batch yet
	queueBytes  int
	pending     []*batch // by sequence number
	pendBytes   int
	count       int // of proposals, in queue and pending
	seq         uint64
	free        []*batch
	maxCount    int
	maxBytes    int // queued and pending together
	batchCount  int
	batchBytes  int
	maxInFlight int // batches
}

// add queues the proposal, or refuses it when the queue is full.
func (q *proposals) add(p *Proposal) error {
	if q.count >= q.maxCount || q.queueBytes+q.pendBytes+p.size() > q.maxBytes {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "proposals",
			Want: fmt.Sprintf("at most %d proposals and %d bytes without an outcome", q.maxCount, q.maxBytes),
			Got:  fmt.Sprintf("%d and %d", q.count, q.queueBytes+q.pendBytes)})
	}
	q.queue = append(q.queue, p)
	q.queueBytes += p.size()
	q.count++
	return nil
}

// next moves proposals from the queue to a new batch and returns its entry. A
// change of membership goes alone.
func (q *proposals) next(origin, tick uint64) (data []byte, change *Change) {
	b := q.newBatch(tick)
	n := 0
	for ; n < len(q.queue) && n < q.batchCount && (n == 0 || b.bytes+q.queue[n].size() <= q.batchBytes); n++ {
		p := q.queue[n]
		if p.change != nil && n > 0 {
			break
		}
		b.proposals = append(b.proposals, p)
		b.bytes += p.size()
		if change = p.change; change != nil {
			n++
			break
		}
	}
	q.queue = q.queue[:copy(q.queue, q.queue[n:])]
	q.queueBytes -= b.bytes
	q.pendBytes += b.bytes
	data = appendHead(make([]byte, 0, batchHead+b.bytes), origin, b.seq)
	if change != nil {
		return append(data, encode(*change)...), change
	}
	for _, p := range b.proposals {
		data = binary.AppendUvarint(data, uint64(len(p.Command)))
		data = append(data, p.Command...)
	}
	return data, nil
}

// fence returns the entry of an empty batch.
func (q *proposals) fence(origin, tick uint64) []byte {
	return appendHead(nil, origin, q.newBatch(tick).seq)
}

func (q *proposals) newBatch(tick uint64) *batch {
	b := &batch{}
	if n := len(q.free); n > 0 {
		b, q.free = q.free[n-1], q.free[:n-1]
	}
	q.seq++
	b.seq, b.sent, b.bytes, b.proposals = q.seq, tick, 0, b.proposals[:0]
	q.pending = append(q.pending, b)
	return b
}

// unsend takes back the newest batch, which raft did not take.
func (q *proposals) unsend() {
	b := q.pending[len(q.pending)-1]
	q.pending = q.pending[:len(q.pending)-1]
	q.requeue(b)
}

// requeue puts the proposals of a dead batch before all others.
func (q *proposals) requeue(b *batch) {
	q.pendBytes -= b.bytes
	live := b.proposals[:0]
	for _, p := range b.proposals {
		if p != nil {
			live = append(live, p)
			q.queueBytes += p.size()
		}
	}
	q.queue = append(append(make([]*Proposal, 0, len(live)+len(q.queue)), live...), q.queue...)
	q.release(b)
}

func (q *proposals) release(b *batch) {
	clear(b.proposals)
	if len(q.free) < q.maxInFlight {
		q.free = append(q.free, b)
	}
}

// carries reports whether what follows the head of an entry is this batch as it was sent.
// A proposal that timed out is not compared any more.
func (b *batch) carries(rest []byte) bool {
	n := 0
	for ; len(rest) > 0 && n < len(b.proposals); n++ {
		p := b.proposals[n]
		if p != nil && p.change != nil {
			return bytes.Equal(rest, encode(*p.change))
		}
		size, w := binary.Uvarint(rest)
		if w <= 0 || size > uint64(len(rest)-w) || p != nil && !bytes.Equal(rest[w:w+int(size)], p.Command) {
			return false
		}
		rest = rest[w+int(size):]
	}
	return len(rest) == 0 && n == len(b.proposals)
}

// applied settles the batch, and those before it as dead. A leader that lies may have put
// other commands under the batch's number: of what was sent nothing is known then.
func (q *proposals) applied(a appliedBatch) {
	var dead []*batch
	for len(q.pending) > 0 && q.pending[0].seq <= a.seq {
		b := q.pending[0]
		q.pending = q.pending[:copy(q.pending, q.pending[1:])]
		if b.seq < a.seq {
			dead = append(dead, b)
			continue
		}
		q.pendBytes -= b.bytes
		if !b.carries(a.rest) {
			q.fail(b.proposals, timeoutError("another member altered the batch on its way; the command may still take effect"))
			q.release(b)
			continue
		}
		for i, p := range b.proposals {
			if p == nil {
				continue
			}
			q.count--
			switch {
			case a.err != nil:
				p.finish(nil, a.err)
			case i < len(a.results):
				p.finish(a.results[i], nil)
			default: // a change of membership
				p.finish(nil, nil)
			}
		}
		q.release(b)
	}
	for i := len(dead) - 1; i >= 0; i-- { // so that they keep their order
		q.requeue(dead[i])
	}
}

// unknown settles what a snapshot may have brought, and so has no result here.
func (q *proposals) unknown(upTo uint64) {
	for len(q.pending) > 0 && q.pending[0].seq <= upTo {
		b := q.pending[0]
		q.pending = q.pending[:copy(q.pending, q.pending[1:])]
		q.pendBytes -= b.bytes
		q.fail(b.proposals, timeoutError("the entry may be in a snapshot that was received"))
		q.release(b)
	}
}

func (q *proposals) fail(ps []*Proposal, err error) {
	for _, p := range ps {
		if p != nil {
			q.count--
			p.finish(nil, err)
		}
	}
}

// expire ends what has waited too long.
func (q *proposals) expire(tick uint64, queued error) {
	kept := q.queue[:0]
	for _, p := range q.queue {
		if p.deadline > tick {
			kept = append(kept, p)
			continue
		}
		q.queueBytes -= p.size()
		q.count--
		p.finish(nil, queued)
	}
	clear(q.queue[len(kept):])
	q.queue = kept
	for _, b := range q.pending {
		for i, p := range b.proposals {
			if p != nil && p.deadline <= tick {
				b.proposals[i] = nil
				q.count--
				p.finish(nil, timeoutError("no outcome in time; the command may still take effect"))
			}
		}
	}
}

// close ends everything. What was sent may still take effect without this node.
func (q *proposals) close(err error) {
	q.fail(q.queue, err)
	sent := errors.Join(timeoutError("the node stopped; the command may still take effect"), err)
	for _, b := range q.pending {
		q.fail(b.proposals, sent)
	}
	q.queue, q.pending, q.queueBytes, q.pendBytes = nil, nil, 0, 0
}

func timeoutError(got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Got: got, Where: "proposal"})
}

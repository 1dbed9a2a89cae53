package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
)

// A Read is a wait for the moment from which this node's state shows every write
// acknowledged before the read began. Done is called exactly once, on the loop's
// goroutine, with Err set or not.
type Read struct {
	Err  error
	Done func(*Read)

	index    uint64 // to wait for
	deadline uint64 // tick
}

func (r *Read) finish(err error) {
	r.Err = err
	r.Done(r)
}

// reads are batched: all that came while one question to the leader was under way
// share the next.
type reads struct {
	queue   []*Read // not asked for yet
	asked   []*Read // waiting for the answer to context
	waiting []*Read // waiting for the state to reach their index
	context uint64  // of the question under way
	sent    uint64  // tick; 0 to ask anew at once
	max     int
}

func (q *reads) add(r *Read) error {
	if n := len(q.queue) + len(q.asked) + len(q.waiting); n >= q.max {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Want: fmt.Sprintf("at most %d reads without an outcome", q.max), Got: fmt.Sprint(n), Where: "reads"})
	}
	q.queue = append(q.queue, r)
	return nil
}

// ask returns the context of a question to put to the leader, if one is due. A
// question without an answer is put anew: it reads no less.
func (q *reads) ask(id, tick, patience uint64) []byte {
	lost := len(q.asked) > 0 && tick >= q.sent+patience
	if len(q.asked) > 0 && !lost || len(q.asked)+len(q.queue) == 0 {
		return nil
	}
	q.asked = append(q.asked, q.queue...)
	q.queue = q.queue[:0]
	q.context++
	q.sent = tick
	return binary.BigEndian.AppendUint64(be64(id), q.context)
}

// answered moves the reads of the question on to wait for the index.
func (q *reads) answered(context []byte, index, applied uint64) {
	if len(context) != 16 || binary.BigEndian.Uint64(context[8:]) != q.context {
		return
	}
	for _, r := range q.asked {
		r.index = index
	}
	q.waiting = append(q.waiting, q.asked...)
	clear(q.asked)
	q.asked = q.asked[:0]
	q.reached(applied)
}

// reached ends the reads whose index is applied.
func (q *reads) reached(applied uint64) {
	q.waiting = endReads(q.waiting, func(r *Read) bool { return r.index <= applied }, nil)
}

// expire ends what has waited too long.
func (q *reads) expire(tick uint64, err error) {
	late := func(r *Read) bool { return r.deadline <= tick }
	q.queue = endReads(q.queue, late, err)
	q.asked = endReads(q.asked, late, err)
	q.waiting = endReads(q.waiting, late, err)
}

func (q *reads) close(err error) { q.expire(^uint64(0), err) }

func endReads(rs []*Read, over func(*Read) bool, err error) []*Read {
	kept := rs[:0]
	for _, r := range rs {
		if over(r) {
			r.finish(err)
		} else {
			kept = append(kept, r)
		}
	}
	clear(rs[len(kept):])
	return kept
}

package replica

import (
	"context"
	"io"
	"sync"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// An inbox gathers what happens for the loop, which takes it all at once.
type inbox struct {
	mu     sync.Mutex
	wake   chan struct{}
	now    letters
	spare  letters
	bytes  int   // of messages in now
	closed error // why proposals and reads are refused: not open yet, or closed
}

type letters struct {
	messages  []*pb.Message
	proposals []*Proposal
	reads     []*Read
	appended  []*pb.Message
	applied   []Applied
	events    []func(*Core) error
	err       error
}

const maxInboxBytes = 64 << 20 // of messages from peers that the loop has not taken

func (in *inbox) put(add func(*letters)) {
	in.mu.Lock()
	add(&in.now)
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) messages(ms []*pb.Message) {
	size := 0
	for _, m := range ms {
		size += messageSize(m)
	}
	in.put(func(l *letters) {
		if in.bytes+size <= maxInboxBytes { // else they are lost, as messages may be
			l.messages = append(l.messages, ms...)
			in.bytes += size
		}
	})
}

func (in *inbox) appended(ms []*pb.Message) {
	in.put(func(l *letters) { l.appended = append(l.appended, ms...) })
}
func (in *inbox) applied(a Applied) {
	in.put(func(l *letters) { l.applied = append(l.applied, a) })
}
func (in *inbox) event(f func(*Core) error) {
	in.put(func(l *letters) { l.events = append(l.events, f) })
}
func (in *inbox) fail(err error) { in.put(func(l *letters) { l.err = err }) }

func (in *inbox) propose(p *Proposal) {
	in.mu.Lock()
	if err := in.closed; err != nil {
		in.mu.Unlock()
		p.finish(nil, err)
		return
	}
	in.now.proposals = append(in.now.proposals, p)
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) read(r *Read) {
	in.mu.Lock()
	if err := in.closed; err != nil {
		in.mu.Unlock()
		r.finish(err)
		return
	}
	in.now.reads = append(in.now.reads, r)
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// drain hands everything to the core. Finished writes go first: they make room.
func (in *inbox) drain(c *Core) error {
	in.mu.Lock()
	l := in.now
	in.now, in.bytes = in.spare, 0
	in.mu.Unlock()
	defer func() {
		l.clear()
		in.spare = l
	}()
	if l.err != nil {
		return l.err
	}
	for _, m := range l.appended {
		c.Appended(m)
	}
	for _, a := range l.applied {
		c.Applied(a)
	}
	for _, m := range l.messages {
		if err := c.Step(m); err != nil {
			return err
		}
	}
	for _, f := range l.events {
		if err := f(c); err != nil {
			return err
		}
	}
	for _, p := range l.proposals {
		if p.change != nil {
			c.Change(*p.change, p)
		} else {
			c.Propose(p)
		}
	}
	for _, r := range l.reads {
		c.Read(r)
	}
	return nil
}

func (l *letters) clear() {
	clear(l.messages)
	clear(l.proposals)
	clear(l.reads)
	clear(l.appended)
	clear(l.applied)
	clear(l.events)
	*l = letters{messages: l.messages[:0], proposals: l.proposals[:0], reads: l.reads[:0], appended: l.appended[:0], applied: l.applied[:0], events: l.events[:0]}
}

// open takes proposals and reads from now on.
func (in *inbox) open() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = nil
}

// close refuses what comes from now on, and what came too late.
func (in *inbox) close(c *Core, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = err
	for _, p := range in.now.proposals {
		p.finish(nil, err)
	}
	for _, r := range in.now.reads {
		r.finish(err)
	}
	in.now = letters{}
}

// A queue hands slices of work to one goroutine.
type queue[T any] struct {
	mu     sync.Mutex
	more   *sync.Cond
	items  []T
	closed bool
}

func (q *queue[T]) init() { q.more = sync.NewCond(&q.mu) }

func (q *queue[T]) push(v T) {
	q.mu.Lock()
	q.items = append(q.items, v)
	q.mu.Unlock()
	q.more.Signal()
}

func (q *queue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Signal()
}

// batches yields all that is queued, again and again, until the queue is closed
// and empty.
func (q *queue[T]) batches(yield func([]T) bool) {
	for {
		q.mu.Lock()
		for len(q.items) == 0 && !q.closed {
			q.more.Wait()
		}
		items := q.items
		q.items = nil
		q.mu.Unlock()
		if len(items) == 0 || !yield(items) {
			return
		}
	}
}

// handler is a Node as its transport sees it.
type handler Node

// Receive takes raft's messages.
func (h *handler) Receive(ms []*pb.Message) { h.in.messages(ms) }

// Unreachable notes that messages to the member were dropped.
func (h *handler) Unreachable(id uint64) {
	h.in.event(func(c *Core) error { c.Unreachable(id); return nil })
}

// ReceiveSnapshot reads a snapshot to disk and then shows it to raft.
func (h *handler) ReceiveSnapshot(m *pb.Message, r io.Reader) error {
	if !h.ready.Load() {
		return waits(h.opts.Address)
	}
	meta, err := h.store.Receive(h.ctx, r)
	if err != nil {
		h.log.Warn("snapshot refused", "from", m.GetFrom(), "because", err)
		return err
	}
	m.Snapshot = &pb.Snapshot{Metadata: meta}
	h.in.event(func(c *Core) error { return c.Step(m) })
	return nil
}

// Join gives a fresh id to a member that has lost its memory.
func (h *handler) Join(ctx context.Context, key keystead.Digest, request JoinRequest) (JoinReply, error) {
	n := (*Node)(h)
	if !n.ready.Load() {
		return JoinReply{Waits: true}, nil
	}
	members := n.store.Membership()
	if len(members.Members) == 0 {
		return JoinReply{Waits: true}, nil // it has its id, and no state yet
	}
	reply, change, err := members.Admit(key, request)
	if err != nil || change == nil {
		return reply, err
	}
	_, refused := n.Change(ctx, *change)
	// Another member may have been asked as well, and been faster.
	if reply, change, err = n.store.Membership().Admit(key, request); err == nil && change != nil {
		err = refused
		if err == nil {
			err = timeoutError("another start of the same node was faster")
		}
	}
	return reply, err
}

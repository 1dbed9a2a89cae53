package replica

import (
	"context"
	"net"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// A peer is the stream of messages to a member.
type peer struct {
	t      *TLSTransport
	to     Member
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	wake  chan struct{}
	queue []*pb.Message
	bytes int
}

func newPeer(t *TLSTransport, to Member) *peer {
	p := &peer{t: t, to: to, wake: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	return p
}

func (p *peer) push(m *pb.Message) bool {
	size := messageSize(m)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes+size > p.t.opts.QueueBytes {
		return false
	}
	p.queue, p.bytes = append(p.queue, m), p.bytes+size
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

func (p *peer) take() []*pb.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	ms := p.queue
	p.queue, p.bytes = nil, 0
	return ms
}

// run keeps a connection and sends what is queued. While there is none, messages
// are dropped, for they are stale by the time there is one again.
func (p *peer) run() {
	defer p.t.tasks.Done()
	for p.ctx.Err() == nil {
		conn, err := p.t.dial(p.ctx, p.to.Address, p.to.Key, frameMessages)
		if err == nil {
			err = p.stream(conn)
			conn.Close()
		}
		if p.ctx.Err() == nil {
			p.t.opts.Log.Debug("no stream", "to", p.to.Address, "because", err)
		}
		p.take()
		p.t.handler.Unreachable(p.to.ID)
		select {
		case <-p.ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *peer) stream(conn net.Conn) error {
	defer context.AfterFunc(p.ctx, func() { conn.Close() })()
	gone := make(chan error, 1)
	go func() { // the other side sends nothing: a read ends when it goes
		_, err := conn.Read(make([]byte, 1))
		gone <- err
	}()
	var buf []byte
	for {
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case err := <-gone:
			return err
		case <-p.wake:
		}
		for ms := p.take(); len(ms) > 0; {
			var err error
			if buf, ms, err = appendMessages(buf[:0], ms); err != nil {
				return err
			}
			if _, err := (&patient{Conn: conn}).Write(buf); err != nil {
				return err
			}
		}
	}
}

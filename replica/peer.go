package replica

import (
	"context"
	"errors"
	"log/slog"
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
	pause := dialPause
	for p.ctx.Err() == nil {
		conn, err := p.dial()
		if pause = min(2*pause, maxDialPause); err == nil || unanswered(err) {
			pause = dialPause
		}
		if err == nil {
			p.t.news.over("stream " + p.to.Address)
		}
		for err == nil { // until no connection takes the place of the last
			conn, err = p.stream(conn)
		}
		if p.ctx.Err() == nil {
			p.t.news.tell(slog.LevelWarn, "stream "+p.to.Address, "no connection to a node", err, "to", p.to.Address)
		}
		p.take()
		p.t.handler.Unreachable(p.to.ID)
		select {
		case <-p.ctx.Done():
		case <-time.After(pause):
		}
	}
}

// Pauses between attempts on a member: the longer ones if it answers and refuses, or
// is refused, which costs both sides something each time.
const (
	dialPause    = 100 * time.Millisecond
	maxDialPause = 2 * time.Second
)

// unanswered reports whether nobody took the call.
func unanswered(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (p *peer) dial() (net.Conn, error) {
	return p.t.dial(p.ctx, p.to.Address, p.to.Key, frameMessages)
}

// stream sends what is queued over a connection, and closes it in the end: when it
// fails, or when it is old and there is a new one, which is returned.
func (p *peer) stream(conn net.Conn) (net.Conn, error) {
	defer conn.Close()
	defer context.AfterFunc(p.ctx, func() { conn.Close() })()
	if most := p.t.opts.MaxAge; most > 0 { // also if the other side thinks otherwise
		defer time.AfterFunc(most, func() { conn.Close() }).Stop()
	}
	gone := make(chan error, 1)
	go func() { // the other side sends nothing: a read ends when it goes
		_, err := conn.Read(make([]byte, 1))
		gone <- err
	}()
	next, stop := p.successor()
	defer stop()
	var buf []byte
	for {
		select {
		case <-p.ctx.Done():
			return nil, p.ctx.Err()
		case err := <-gone:
			return nil, err
		case conn := <-next:
			return conn, nil
		case <-p.wake:
		}
		for ms := p.take(); len(ms) > 0; {
			var err error
			if buf, ms, err = appendMessages(buf[:0], ms); err != nil {
				return nil, err
			}
			if _, err := (&patient{Conn: conn}).Write(buf); err != nil {
				return nil, err
			}
		}
	}
}

// successor opens another connection when that of a stream has had its time, and
// tries again until there is one. What nobody took when stop is called is closed.
func (p *peer) successor() (next <-chan net.Conn, stop func()) {
	made := make(chan net.Conn)
	if p.t.opts.MaxAge <= 0 {
		return made, func() {}
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.t.tasks.Add(1)
	go func() {
		defer p.t.tasks.Done()
		every := time.NewTicker(p.t.opts.MaxAge / 3)
		defer every.Stop()
		for {
			select {
			case <-every.C:
			case <-ctx.Done():
				return
			}
			conn, err := p.dial()
			if err != nil {
				p.t.opts.Log.Info("stream not renewed yet", "to", p.to.Address, "because", err)
				continue
			}
			select {
			case made <- conn:
			case <-ctx.Done():
				conn.Close()
			}
			return
		}
	}()
	return made, cancel
}

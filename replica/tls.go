package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A Guard secures connections between members: a reader there learns and alters
// nothing, and each side knows whose key the other holds. *NodeKey does so by pinned
// keys alone; another may ask for more than the key. Both methods own raw until they
// return a connection, and close it if they do not; ctx bounds them.
type Guard interface {
	// Digest names this node's key.
	Digest() keystead.Digest
	// Client secures a connection that this node dialled. The other side must show
	// that key.
	Client(ctx context.Context, raw net.Conn, key keystead.Digest) (net.Conn, error)
	// Server secures one that it accepted, and returns the key that the other side
	// showed. It asks accept whether that key may speak here.
	Server(ctx context.Context, raw net.Conn, accept func(keystead.Digest) error) (net.Conn, keystead.Digest, error)
}

// TLSOptions say how a [TLSTransport] listens and dials.
type TLSOptions struct {
	Guard      Guard
	Listener   net.Listener
	QueueBytes int // messages to one member that wait; 16 MiB if 0
	Log        *slog.Logger

	// MaxAge is how long a stream of messages stands on what the guard saw when it was
	// opened; 0 is without end. Another takes its place after a third of it. Snapshots
	// and joins, each of which has its own connection, may take longer.
	MaxAge time.Duration
}

// A TLSTransport carries messages over connections that a [Guard] secures: one stream
// to each member, snapshots and joins on connections of their own.
type TLSTransport struct {
	opts    TLSOptions
	handler Handler
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	news    news // of connections, by the host at the other end

	mu      sync.RWMutex
	members map[keystead.Digest]Member
	peers   map[uint64]*peer
	conns   map[net.Conn]bool
	unknown map[netip.Prefix]int // of conns, those that are not known to be a member's, by address
}

// ListenTLS returns what [Options].Connect takes.
func ListenTLS(opts TLSOptions) func(Handler) (Transport, error) {
	return func(h Handler) (Transport, error) {
		if opts.QueueBytes == 0 {
			opts.QueueBytes = 16 << 20
		}
		if opts.Log == nil {
			opts.Log = slog.New(slog.DiscardHandler)
		}
		t := &TLSTransport{opts: opts, handler: h, members: map[keystead.Digest]Member{}, peers: map[uint64]*peer{}, conns: map[net.Conn]bool{}, unknown: map[netip.Prefix]int{}}
		t.news.log = opts.Log
		t.ctx, t.cancel = context.WithCancel(context.Background())
		t.tasks.Add(1)
		go t.accept()
		return t, nil
	}
}

// Members says who may connect, and where they are.
func (t *TLSTransport) Members(members []Member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.members)
	now := map[uint64]bool{}
	for _, m := range members {
		t.members[m.Key] = m
		if m.Key == t.opts.Guard.Digest() || m.ID == 0 {
			continue
		}
		now[m.ID] = true
		p := t.peers[m.ID]
		if p == nil && t.ctx.Err() == nil {
			p = newPeer(t, m)
			t.peers[m.ID] = p
			t.tasks.Add(1)
			go p.run()
		}
	}
	for id, p := range t.peers {
		if !now[id] {
			p.cancel()
			delete(t.peers, id)
		}
	}
}

// member returns the member whose key it is, or why it may not speak here.
func (t *TLSTransport) member(key keystead.Digest) (Member, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	m, ok := t.members[key]
	if !ok {
		return m, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Want: fmt.Sprintf("the key of one of %d members", len(t.members)), Got: key.String(), Where: "connection"})
	}
	return m, nil
}

// Send queues messages and drops what finds no room.
func (t *TLSTransport) Send(ms []*pb.Message) {
	for _, m := range ms {
		t.mu.RLock()
		p := t.peers[m.GetTo()]
		t.mu.RUnlock()
		if p == nil || !p.push(m) {
			t.handler.Unreachable(m.GetTo())
		}
	}
}

const (
	dialTimeout  = 15 * time.Second // evidence takes a while on a busy machine
	writeTimeout = 30 * time.Second // of a batch or chunk; a peer that takes longer is cut off
)

// dial connects to the address and demands that key there.
func (t *TLSTransport) dial(ctx context.Context, address string, key keystead.Digest, kind frameKind) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := t.opts.Guard.Client(ctx, raw, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if _, err := conn.Write([]byte{byte(kind)}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// SendSnapshot sends the message and then the snapshot on a connection of their own.
func (t *TLSTransport) SendSnapshot(ctx context.Context, m *pb.Message, write func(io.Writer) error) error {
	t.mu.RLock()
	p := t.peers[m.GetTo()]
	t.mu.RUnlock()
	if p == nil {
		return fmt.Errorf("no member has id %d", m.GetTo())
	}
	conn, err := t.dial(ctx, p.to.Address, p.to.Key, frameSnapshot)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	head, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	if err := writeFrame(conn, frameSnapshot, head); err != nil {
		return err
	}
	if err := write(&patient{Conn: conn}); err != nil {
		return err
	}
	return readAnswer(bufio.NewReader(&patient{Conn: conn}), nil)
}

// patient gives each read and write of a long stream its own time.
type patient struct {
	net.Conn
	idle bool // reads may wait for ever
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

func (p *patient) Read(b []byte) (int, error) {
	until := time.Now().Add(writeTimeout)
	if p.idle {
		until = time.Time{}
	}
	if err := p.SetReadDeadline(until); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// Join asks a member for a fresh id.
func (t *TLSTransport) Join(ctx context.Context, to Member, request JoinRequest) (JoinReply, error) {
	var reply JoinReply
	conn, err := t.dial(ctx, to.Address, to.Key, frameJoin)
	if err != nil {
		return reply, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := writeFrame(conn, frameJoin, encode(request)); err != nil {
		return reply, err
	}
	return reply, readAnswer(bufio.NewReader(conn), &reply)
}

// Close ends all connections and waits for their goroutines.
func (t *TLSTransport) Close() error {
	t.cancel()
	err := t.opts.Listener.Close()
	t.mu.Lock()
	for c := range t.conns {
		c.Close()
	}
	t.mu.Unlock()
	t.tasks.Wait()
	return err
}

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

func (t *TLSTransport) accept() {
	defer t.tasks.Done()
	for {
		raw, err := t.opts.Listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil {
				return
			}
			t.opts.Log.Warn("connection not accepted", "because", err)
			select { // out of descriptors, most likely: some will be free soon
			case <-time.After(50 * time.Millisecond):
			case <-t.ctx.Done():
			}
			continue
		}
		from := addressOf(raw)
		t.mu.Lock()
		if len(t.conns) >= maxConns || t.unknown[from] >= maxUnknown || t.ctx.Err() != nil {
			raw.Close()
			t.mu.Unlock()
			continue
		}
		t.conns[raw] = true
		t.unknown[from]++
		t.tasks.Add(1)
		t.mu.Unlock()
		go func() {
			defer t.tasks.Done()
			if err := t.serve(raw, sync.OnceFunc(func() { t.known(from) })); err != nil && t.ctx.Err() == nil && !errors.Is(err, io.EOF) {
				host, _, _ := net.SplitHostPort(raw.RemoteAddr().String()) // its port is another each time
				t.news.tell(slog.LevelInfo, host, "connection ended", err, "from", raw.RemoteAddr())
			}
			raw.Close()
			t.mu.Lock()
			delete(t.conns, raw)
			t.mu.Unlock()
		}()
	}
}

// Bounds of connections at a time: from anyone, and from one address of those that have
// not shown yet that they are a member's.
const (
	maxConns   = 4 * maxMembers
	maxUnknown = 32
)

// addressOf is what counts as one address: of IPv6 the network.
func addressOf(raw net.Conn) netip.Prefix {
	at, err := netip.ParseAddrPort(raw.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := at.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// known says that a connection of an address is a member's now, or is over.
func (t *TLSTransport) known(from netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unknown[from]--; t.unknown[from] == 0 {
		delete(t.unknown, from)
	}
}

// serve reads one connection to its end. Known is called once it is a member's, and in
// any case in the end.
func (t *TLSTransport) serve(raw net.Conn, known func()) error {
	defer known()
	ctx, cancel := context.WithTimeout(t.ctx, dialTimeout)
	defer cancel()
	conn, from, err := t.opts.Guard.Server(ctx, raw, func(key keystead.Digest) error {
		_, err := t.member(key)
		return err
	})
	if err != nil {
		return err
	}
	known()
	p := &patient{Conn: conn}
	r := bufio.NewReaderSize(p, 256<<10)
	kind, err := r.ReadByte()
	if err != nil {
		return err
	}
	switch frameKind(kind) {
	case frameMessages:
		p.idle = true
		if t.opts.MaxAge > 0 {
			defer time.AfterFunc(t.opts.MaxAge, func() { raw.Close() }).Stop()
		}
		return t.serveMessages(r, from)
	case frameSnapshot:
		return t.serveSnapshot(p, r, from)
	case frameJoin:
		return t.serveJoin(p, r, from)
	}
	return &keystead.FormatError{Format: "replica-stream", Field: "kind", Problem: fmt.Sprintf("is %d, which is none", kind)}
}

// serveMessages takes raft's messages, as long as they are from the member whose
// key the connection showed and it still is one.
func (t *TLSTransport) serveMessages(r *bufio.Reader, key keystead.Digest) error {
	for {
		body, err := readFrame(r, frameMessages, maxFrame)
		if err != nil {
			return err
		}
		ms, err := parseMessages(body)
		if err != nil {
			return err
		}
		if err := t.checkFrom(key, ms...); err != nil {
			return err
		}
		t.handler.Receive(ms)
	}
}

// checkFrom refuses messages that name another sender than the connection's. A
// member that has just rejoined may be known here by its old id still.
func (t *TLSTransport) checkFrom(key keystead.Digest, ms ...*pb.Message) error {
	m, err := t.member(key)
	if err != nil {
		return err
	}
	for _, msg := range ms {
		if msg.GetFrom() != m.ID && m.ID != 0 && msg.GetFrom() <= t.lastID() {
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Want: fmt.Sprintf("messages of id %d", m.ID), Got: fmt.Sprintf("one of id %d", msg.GetFrom()), Where: m.Address})
		}
	}
	return nil
}

func (t *TLSTransport) lastID() (last uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, m := range t.members {
		last = max(last, m.ID)
	}
	return last
}

func (t *TLSTransport) serveSnapshot(conn net.Conn, r *bufio.Reader, key keystead.Digest) error {
	head, err := readFrame(r, frameSnapshot, maxFrame)
	if err != nil {
		return err
	}
	m := &pb.Message{}
	if err := proto.Unmarshal(head, m); err != nil || m.GetType() != pb.MsgSnap {
		return &keystead.FormatError{Format: "replica-stream", Field: "snapshot message", Problem: "does not parse"}
	}
	if err := t.checkFrom(key, m); err != nil {
		return err
	}
	return writeAnswer(conn, t.handler.ReceiveSnapshot(m, r), nil)
}

func (t *TLSTransport) serveJoin(conn net.Conn, r *bufio.Reader, key keystead.Digest) error {
	body, err := readFrame(r, frameJoin, maxJoin)
	if err != nil {
		return err
	}
	var request JoinRequest
	if err := decode(body, &request); err != nil {
		return err
	}
	reply, err := t.handler.Join(t.ctx, key, request)
	return writeAnswer(conn, err, reply)
}

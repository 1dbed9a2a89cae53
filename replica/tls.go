package replica

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A NodeKey is what a node is known by on its connections. Its digest is pinned by
// the others: a certificate is only its wrapping, and no authority signs it.
// Attested connections take the place of this pinning later; the streams stay.
type NodeKey struct {
	private *ecdsa.PrivateKey
	cert    tls.Certificate
	digest  keystead.Digest
}

// GenerateNodeKey draws a P-256 key.
func GenerateNodeKey(random io.Reader) (*NodeKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, err
	}
	return newNodeKey(k)
}

// ParseNodeKey reads a key that Marshal wrote.
func ParseNodeKey(der []byte) (*NodeKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	p, ok := k.(*ecdsa.PrivateKey)
	if !ok || p.Curve != elliptic.P256() {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyUnsuitable, Want: "an ECDSA P-256 key", Got: fmt.Sprintf("%T", k), Where: "node key"})
	}
	return newNodeKey(p)
}

func newNodeKey(k *ecdsa.PrivateKey) (*NodeKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keystead node"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)} // pinned, so undated: RFC 5280 4.1.2.5
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, err
	}
	return &NodeKey{k, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: crypto.PrivateKey(k)}, keystead.Sum(spki)}, nil
}

// Marshal returns the key in PKCS #8, to be kept secret.
func (k *NodeKey) Marshal() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(k.private) }

// Digest returns the digest of the public key's SubjectPublicKeyInfo.
func (k *NodeKey) Digest() keystead.Digest { return k.digest }

// String names the key by its digest, and never prints it.
func (k *NodeKey) String() string { return "node key " + k.digest.String() }

// Format keeps the private key out of every verb of fmt.
func (k *NodeKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// config returns TLS 1.3 without tickets, which demands the peer's certificate and
// asks accept whether its key may speak here.
func (k *NodeKey) config(accept func(keystead.Digest) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{k.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // no chains and names: the key itself is checked below
		NextProtos:             []string{"keystead-replica/1"},
		VerifyConnection:       func(cs tls.ConnectionState) error { return accept(peerKey(cs)) },
	}
}

func peerKey(cs tls.ConnectionState) keystead.Digest {
	if len(cs.PeerCertificates) == 0 {
		return keystead.Digest{}
	}
	return keystead.Sum(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
}

// TLSOptions say how a [TLSTransport] listens and dials.
type TLSOptions struct {
	Key        *NodeKey
	Listener   net.Listener
	QueueBytes int // messages to one member that wait; 16 MiB if 0
	Log        *slog.Logger
}

// A TLSTransport carries messages over mutual TLS 1.3 with pinned keys: one stream
// to each member, snapshots and joins on connections of their own.
type TLSTransport struct {
	opts    TLSOptions
	handler Handler
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup

	mu      sync.RWMutex
	members map[keystead.Digest]Member
	peers   map[uint64]*peer
	conns   map[net.Conn]bool
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
		t := &TLSTransport{opts: opts, handler: h, members: map[keystead.Digest]Member{}, peers: map[uint64]*peer{}, conns: map[net.Conn]bool{}}
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
		if m.Key == t.opts.Key.digest || m.ID == 0 {
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
	dialTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second // of a batch or chunk; a peer that takes longer is cut off
)

// dial connects to the address and demands that key there.
func (t *TLSTransport) dial(ctx context.Context, address string, key keystead.Digest, kind frameKind) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, t.opts.Key.config(func(got keystead.Digest) error {
		if got == key {
			return nil
		}
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Want: key.String(), Got: got.String(), Where: address})
	}))
	err = conn.HandshakeContext(ctx)
	if err == nil {
		_, err = conn.Write([]byte{byte(kind)})
	}
	if err != nil {
		return nil, errors.Join(err, raw.Close())
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
		t.mu.Lock()
		if len(t.conns) >= maxConns || t.ctx.Err() != nil {
			raw.Close()
			t.mu.Unlock()
			continue
		}
		t.conns[raw] = true
		t.tasks.Add(1)
		t.mu.Unlock()
		go func() {
			defer t.tasks.Done()
			if err := t.serve(raw); err != nil && t.ctx.Err() == nil && !errors.Is(err, io.EOF) {
				t.opts.Log.Info("connection ended", "from", raw.RemoteAddr(), "because", err)
			}
			raw.Close()
			t.mu.Lock()
			delete(t.conns, raw)
			t.mu.Unlock()
		}()
	}
}

const maxConns = 4 * maxMembers // at a time, from anyone

// serve reads one connection to its end.
func (t *TLSTransport) serve(raw net.Conn) error {
	var from Member
	conn := tls.Server(raw, t.opts.Key.config(func(key keystead.Digest) (err error) {
		from, err = t.member(key)
		return err
	}))
	ctx, cancel := context.WithTimeout(t.ctx, dialTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	p := &patient{Conn: conn}
	r := bufio.NewReaderSize(p, 256<<10)
	kind, err := r.ReadByte()
	if err != nil {
		return err
	}
	switch frameKind(kind) {
	case frameMessages:
		p.idle = true
		return t.serveMessages(r, from.Key)
	case frameSnapshot:
		return t.serveSnapshot(p, r, from.Key)
	case frameJoin:
		return t.serveJoin(p, r, from.Key)
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

func (p *peer) stream(conn *tls.Conn) error {
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

package replica

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// sink is a handler that notes what arrives.
type sink struct {
	messages    chan []*pb.Message
	unreachable chan uint64
}

func (s *sink) Receive(ms []*pb.Message) { s.messages <- ms }
func (s *sink) Unreachable(id uint64) {
	select {
	case s.unreachable <- id:
	default:
	}
}
func (s *sink) ReceiveSnapshot(_ *pb.Message, r io.Reader) error {
	_, err := io.CopyN(io.Discard, r, 3)
	return errors.Join(err, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "here"}))
}
func (s *sink) Join(context.Context, keystead.Digest, JoinRequest) (JoinReply, error) {
	return JoinReply{ID: 7}, nil
}

// end is one end of a test's connections.
type end struct {
	*sink
	*TLSTransport
	key     *NodeKey
	address string
}

func newEnd(t *testing.T) *end {
	t.Helper()
	key, err := GenerateNodeKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return endWith(t, key, TLSOptions{Guard: key, QueueBytes: 1 << 20})
}

func endWith(t *testing.T, key *NodeKey, opts TLSOptions) *end {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opts.Listener = l
	e := &end{sink: &sink{make(chan []*pb.Message, 16), make(chan uint64, 16)}, key: key, address: l.Addr().String()}
	tr, err := ListenTLS(opts)(e.sink)
	if err != nil {
		t.Fatal(err)
	}
	e.TLSTransport = tr.(*TLSTransport)
	t.Cleanup(func() { tr.Close() })
	return e
}

func (e *end) as(id uint64) Member { return Member{ID: id, Key: e.key.digest, Address: e.address} }

// pair are two ends, ids 1 and 2, that know each other.
func pair(t *testing.T) (a, b *end) {
	a, b = newEnd(t), newEnd(t)
	a.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	b.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	return a, b
}

func heartbeat(from, to uint64) *pb.Message {
	return &pb.Message{Type: pb.MsgHeartbeat.Enum(), From: &from, To: &to, Term: new(uint64(1))}
}

// sendUntil sends, once more each time one is dropped for want of a connection.
func sendUntil(t *testing.T, a, b *end, m *pb.Message) []*pb.Message {
	t.Helper()
	for {
		a.Send([]*pb.Message{m})
		select {
		case ms := <-b.messages:
			return ms
		case <-a.unreachable:
		case <-time.After(time.Minute):
			t.Fatal("nothing arrived")
		}
	}
}

func TestMessagesArrive(t *testing.T) {
	a, b := pair(t)
	got := sendUntil(t, a, b, heartbeat(1, 2))
	if got[0].GetFrom() != 1 || got[0].GetType() != pb.MsgHeartbeat {
		t.Errorf("got %v", got)
	}
	reply, err := a.TLSTransport.Join(context.Background(), b.as(2), JoinRequest{})
	if err != nil || reply.ID != 7 {
		t.Errorf("join: %+v, %v", reply, err)
	}
	err = a.SendSnapshot(context.Background(), heartbeatAs(pb.MsgSnap), func(w io.Writer) error { _, err := w.Write([]byte("abc")); return err })
	if !errors.Is(err, keystead.ReasonOverloaded) {
		t.Errorf("a refusal's reason must cross the connection: got %v", err)
	}
}

func heartbeatAs(typ pb.MessageType) *pb.Message {
	m := heartbeat(1, 2)
	m.Type = &typ
	return m
}

// TestQueueIsBounded: a member that does not take messages costs a bounded queue,
// and Send never waits for it.
func TestQueueIsBounded(t *testing.T) {
	a := newEnd(t)
	hole, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	other := newEnd(t)
	a.TLSTransport.Members([]Member{a.as(1), {ID: 2, Key: other.key.digest, Address: hole.Addr().String()}})
	m := &pb.Message{Type: pb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(2)), Entries: []*pb.Entry{{Data: make([]byte, 100<<10)}}}
	for range 100 {
		a.Send([]*pb.Message{m})
	}
	if id := <-a.unreachable; id != 2 {
		t.Errorf("want 2 unreachable, got %d", id)
	}
	p := a.peers[2]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes > 1<<20 || len(p.queue) > 11 {
		t.Errorf("%d messages, %d bytes wait", len(p.queue), p.bytes)
	}
}

// TestHostileConnections: each is cut off, and none of it reaches the node.
func TestHostileConnections(t *testing.T) {
	a, b := pair(t)
	stranger := newEnd(t)
	frame := func(ms ...*pb.Message) []byte {
		f, _, err := appendMessages([]byte{byte(frameMessages)}[:1], ms)
		if err != nil {
			t.Fatal(err)
		}
		binary.BigEndian.PutUint32(f[2:], uint32(len(f)-1-frameHead))
		return f
	}
	local := heartbeat(1, 2)
	local.Responses = []*pb.Message{heartbeat(1, 2)}
	for _, tc := range []struct {
		name  string
		key   *NodeKey
		bytes []byte
	}{
		{"a stranger's key", stranger.key, frame(heartbeat(1, 2))},
		{"another member's name", a.key, frame(heartbeat(2, 2))},
		{"a local message's responses", a.key, frame(local)},
		{"an unknown kind", a.key, []byte{99}},
		{"an oversized frame", a.key, []byte{1, 1, 0xff, 0xff, 0xff, 0xff}},
		{"a frame of another kind", a.key, []byte{1, 3, 0, 0, 0, 0}},
		{"a message cut short", a.key, []byte{1, 1, 0, 0, 0, 2, 9, 9}},
		{"garbage for a message", a.key, []byte{1, 1, 0, 0, 0, 3, 2, 0xff, 0xff}},
		{"garbage for a snapshot", a.key, []byte{2, 2, 0, 0, 0, 2, 0xff, 0xff}},
		{"garbage for a join", a.key, []byte{3, 3, 0, 0, 0, 2, 0xff, 0xff}},
		{"an entry of a proposal that does not parse", a.key, frame(&pb.Message{Type: pb.MsgProp.Enum(), From: new(uint64(1)), To: new(uint64(2)),
			Entries: []*pb.Entry{{Type: pb.EntryConfChangeV2.Enum(), Data: []byte{0xff}}}})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", b.address, tc.key.config(func(keystead.Digest) error { return nil }))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Write(tc.bytes)
			if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, err = conn.Read(make([]byte, 1))
			var late net.Error
			if err == nil || errors.As(err, &late) && late.Timeout() {
				t.Errorf("the connection goes on: %v", err)
			}
			select {
			case ms := <-b.messages:
				t.Errorf("the node was given %v", ms)
			default:
			}
		})
	}
}

// TestStrangersLeaveRoom has one address open as many connections as there may be, and
// say nothing on them: a member at another address gets through.
func TestStrangersLeaveRoom(t *testing.T) {
	a, b := newEnd(t), newEnd(t)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range maxConns + 8 {
		conn, err := from.Dial("tcp", b.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	a.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	b.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	began := time.Now()
	sendUntil(t, a, b, heartbeat(1, 2))
	if took := time.Since(began); took > dialTimeout {
		t.Errorf("the member got through after %v, when the strangers' time was over", took)
	}
}

// TestOnlyTLS13 without tickets, and with a certificate from both sides.
func TestOnlyTLS13(t *testing.T) {
	a, b := pair(t)
	old := a.key.config(func(keystead.Digest) error { return nil })
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err := tls.Dial("tcp", b.address, old); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: want a refusal of the version, got %v", err)
	}
	bare := a.key.config(func(keystead.Digest) error { return nil })
	bare.Certificates = nil
	conn, err := tls.Dial("tcp", b.address, bare)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("no certificate: want a refusal, got %v", err)
	}
	cache := tls.NewLRUClientSessionCache(8)
	for range 2 {
		c := a.key.config(func(keystead.Digest) error { return nil })
		c.SessionTicketsDisabled, c.ClientSessionCache, c.ServerName = false, cache, "node"
		conn, err := tls.Dial("tcp", b.address, c)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte{99})
		_, _ = conn.Read(make([]byte, 1)) // takes in a ticket, were there one
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
		conn.Close()
	}
}

func TestNodeKey(t *testing.T) {
	k, err := GenerateNodeKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := k.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseNodeKey(der)
	if err != nil || again.Digest() != k.Digest() {
		t.Errorf("%v, %v", again, err)
	}
	if _, err := ParseNodeKey(der[:20]); err == nil {
		t.Error("a key cut short was read")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s"} {
		if s := fmt.Sprintf(verb, k); s != k.String() {
			t.Errorf("%s prints %s", verb, s)
		}
	}
}

func FuzzMessages(f *testing.F) {
	b, _, err := appendMessages(nil, []*pb.Message{heartbeat(1, 2), {Type: pb.MsgApp.Enum(), Index: new(uint64(4)), Entries: []*pb.Entry{entry(5, 1, "x")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[frameHead:])
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, body []byte) {
		ms, err := parseMessages(body)
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Fatalf("want a FormatError, got %v", err)
		}
		if err != nil || len(ms) == 0 {
			return
		}
		again, rest, err := appendMessages(nil, ms)
		if err != nil || len(again) < frameTarget && len(rest) > 0 {
			t.Fatalf("%d messages left, %v", len(rest), err)
		}
		if len(rest) == 0 {
			if _, err := parseMessages(again[frameHead:]); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	_ = writeAnswer(&b, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember}), nil)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var reply JoinReply
		_ = readAnswer(bufio.NewReader(bytes.NewReader(b)), &reply)
		body, err := readFrame(bufio.NewReader(bytes.NewReader(b)), frameJoin, maxJoin)
		if err == nil && len(body) > maxJoin {
			t.Fatalf("a body of %d bytes", len(body))
		}
	})
}

func FuzzEntry(f *testing.F) {
	f.Add(entry(2, 1, "a", "bc").Data)
	f.Add(append(appendHead(nil, 1, 2), encode(Change{Remove: []uint64{1}, Add: []Member{{Address: "x"}}})...))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, rest, err := parseHead(data)
		if err != nil {
			return
		}
		if commands, err := appendCommands(nil, 1, 1, rest); err == nil && len(commands) > len(rest) {
			t.Fatalf("%d commands of %d bytes", len(commands), len(rest))
		}
		var c Change
		if decode(rest, &c) == nil {
			m := &Membership{Members: []Member{{ID: 1}}, LastID: 1, conf: &pb.ConfState{Voters: []uint64{1}}}
			if next, _, err := m.apply(c); err == nil && len(next.Voters()) == 0 {
				t.Fatal("a change left no voter")
			}
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	s, err := OpenStore(StoreOptions{FS: vfs.NewMem(), Dir: "data", Machine: &tally{}, MemTableBytes: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	defer s.Close()
	if err := s.Bootstrap(1, []Member{{}}); err != nil {
		f.Fatal(err)
	}
	stream := checkpoint(f, s)
	f.Add(stream)
	f.Add(stream[:100])
	f.Add([]byte(snapshotMagic + "\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("in", 0o700); err != nil {
			t.Fatal(err)
		}
		meta, err := receiveFiles(bytes.NewReader(b), fs, "in", 1<<20)
		if err == nil && meta.GetIndex() == 0 {
			t.Fatal("a snapshot of nothing")
		}
	})
}

// Package flood asks a node for what a stranger asks who wants it to fall over: from an
// address of its choice, by a key that nobody knows. Tests and benches use it; what it
// sends is what the API's own clients never would.
package flood

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
)

// A Stranger attacks one node from one address.
type Stranger struct {
	to   client.Contact
	from net.Addr
	http *http.Client
}

// New returns a stranger at an address of this machine; the zero one lets the system choose.
func New(to client.Contact, from netip.Addr) *Stranger {
	s := &Stranger{to: to}
	if from.IsValid() {
		s.from = &net.TCPAddr{IP: from.AsSlice()}
	}
	t := client.PinnedTransport(to, nil)
	t.DialContext = s.dial
	t.HTTP2.MaxReceiveBufferPerConnection, t.HTTP2.MaxReceiveBufferPerStream = 64<<10, 64<<10 // what is not read stays with the node
	s.http = &http.Client{Transport: t}
	return s
}

// OneConnection has the stranger open no more than one connection: what a node does not take
// on it waits. It is called before anything else.
func (s *Stranger) OneConnection() {
	s.http.Transport.(*http.Transport).HTTP2.StrictMaxConcurrentRequests = true
}

// Addresses returns so many addresses of the loopback, from 127.0.1.1 on.
func Addresses(n int) (out []netip.Addr) {
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{127, 0, byte(1 + i/250), byte(1 + i%250)}))
	}
	return out
}

// Close drops the stranger's connections.
func (s *Stranger) Close() { s.http.CloseIdleConnections() }

func (s *Stranger) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: 3 * time.Second, LocalAddr: s.from}).DialContext(ctx, network, address)
}

// address is where the node's API listens.
func (s *Stranger) address() string {
	_, host, _ := strings.Cut(s.to.API, "//")
	return host
}

// Operations is an ExecuteRequest of that many bytes, of operations that have nothing in
// them: two bytes each, and a hundred where they are unpacked.
func Operations(size int) []byte {
	tx := bytes.Repeat([]byte{0x1a, 0x00}, size/2)
	return append(protowire.AppendVarint([]byte{0x0a}, uint64(len(tx))), tx...)
}

// Packed is bytes as gzip has them.
func Packed(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b) // a buffer takes all
	_ = w.Close()
	return out.Bytes()
}

// Post sends a request with a body and headers (name, value, ...), and returns status and
// answer, of which at most 64 KiB are kept.
func (s *Stranger) Post(ctx context.Context, procedure string, body io.Reader, headers ...string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to.API+procedure, body)
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/proto")
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	a, err := s.http.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, 64<<10))
	if err == nil {
		_, err = io.Copy(io.Discard, a.Body)
	}
	return a.StatusCode, string(b), err
}

// Bomb sends an Execute whose body is that of Operations, packed.
func (s *Stranger) Bomb(ctx context.Context, packed []byte) (int, string, error) {
	return s.Post(ctx, apiv1connect.LedgerServiceExecuteProcedure, bytes.NewReader(packed), "Content-Encoding", "gzip")
}

// Large sends an Execute with that body as it is.
func (s *Stranger) Large(ctx context.Context, body []byte) (int, string, error) {
	return s.Post(ctx, apiv1connect.LedgerServiceExecuteProcedure, bytes.NewReader(body))
}

// Receipts asks for the receipt of one leaf so many times over.
func (s *Stranger) Receipts(ctx context.Context, leaf uint64, times int) (int, string, error) {
	var packed []byte
	for range times {
		packed = protowire.AppendVarint(packed, leaf)
	}
	body := append(protowire.AppendVarint([]byte{0x0a}, uint64(len(packed))), packed...)
	return s.Post(ctx, apiv1connect.LedgerServiceGetReceiptsProcedure, bytes.NewReader(body))
}

// Tail opens a Tail of leaves that are not there yet, and holds it until ctx ends or the
// node does. The error is why it ended.
func (s *Stranger) Tail(ctx context.Context) error {
	t, err := apiv1connect.NewLedgerServiceClient(s.http, s.to.API).Tail(ctx, connect.NewRequest(&apiv1.TailRequest{From: 1 << 40}))
	if err != nil {
		return err
	}
	defer t.Close()
	for t.Receive() {
		continue
	}
	return t.Err()
}

// Object hands in an object.
func (s *Stranger) Object(ctx context.Context, content []byte) error {
	p := apiv1connect.NewHostServiceClient(s.http, s.to.API).PutObject(ctx)
	_ = p.Send(&apiv1.PutObjectRequest{Chunk: content}) // the answer tells why
	_, err := p.CloseAndReceive()
	return err
}

// trickle gives a byte now and then, so many in all.
type trickle struct {
	ctx   context.Context
	left  int
	every time.Duration
}

// Read implements io.Reader.
func (t *trickle) Read(b []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(t.every):
	case <-t.ctx.Done():
		return 0, t.ctx.Err()
	}
	t.left--
	b[0] = 0x0a
	return 1, nil
}

// Slow sends an Execute of which most comes at once, and the rest a byte at a time.
func (s *Stranger) Slow(ctx context.Context, first, rest int, every time.Duration) (int, string, error) {
	head := protowire.AppendVarint([]byte{0x0a}, uint64(first+rest))
	body := io.MultiReader(bytes.NewReader(append(head, make([]byte, first)...)), &trickle{ctx, rest, every})
	return s.Post(ctx, apiv1connect.LedgerServiceExecuteProcedure, body)
}

// Handshake opens a connection with TLS and drops it.
func (s *Stranger) Handshake(ctx context.Context) error {
	raw, err := s.dial(ctx, "tcp", s.address())
	if err != nil {
		return err
	}
	defer raw.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = raw.SetDeadline(d) // a TCP connection takes it
	}
	c := client.PinnedTLS(s.to.TLS, nil)
	c.NextProtos = []string{"h2"}
	return tls.Client(raw, c).HandshakeContext(ctx)
}

// Silent opens a connection on which nothing is said until ctx ends or the node closes it,
// which it reports.
func (s *Stranger) Silent(ctx context.Context) error {
	raw, err := s.dial(ctx, "tcp", s.address())
	if err != nil {
		return err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	if _, err := raw.Read(make([]byte, 1)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("closed by the node: %w", err)
	}
	return ctx.Err()
}

package attest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
)

// listen attests what connects to a port of loopback. What is refused goes to the
// channel.
func listen(t testing.TB, cfg Config, opts ListenerOptions) (*Listener, <-chan error) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 256)
	opts.Refused = func(_ net.Addr, err error) { refused <- err }
	l, err := NewListener(inner, cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, refused
}

func dial(t testing.TB, l *Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestSlowStrangers: many connections that never say a word hold up no honest one, and
// those above the bound are closed unread.
func TestSlowStrangers(t *testing.T) {
	s := onStage(t)
	l, _ := listen(t, s.config(s.bob, s.alice), ListenerOptions{Handshakes: 8, PerAddress: 8})
	for range 7 {
		dial(t, l)
	}
	honest := begin(t, roleClient, dial(t, l), s.config(s.alice, s.bob))
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if e := <-honest; e.err != nil || got.(*Conn).Peer().Name() != "alice" {
		t.Fatalf("the honest client: %v; the server's peer is %q", e.err, got.(*Conn).Peer().Name())
	}

	l, refused := listen(t, s.config(s.bob, s.alice), ListenerOptions{Handshakes: 4, PerAddress: 8})
	for range 4 {
		dial(t, l)
	}
	one := dial(t, l)
	demand(t, "one more", <-refused, keystead.ReasonOverloaded)
	if _, err := one.Read(make([]byte, 1)); err == nil {
		t.Error("one more than the bound is not closed")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for range 4 {
		if err := <-refused; !errors.Is(err, context.Canceled) {
			t.Errorf("a stranger at the listener's end: %v", err)
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// TestPerAddress: one address gets its share of the places and no more.
func TestPerAddress(t *testing.T) {
	s := onStage(t)
	l, refused := listen(t, s.config(s.bob, s.alice), ListenerOptions{Handshakes: 8})
	for range 2 {
		dial(t, l)
	}
	dial(t, l)
	err := <-refused
	demand(t, "a third of one address", err, keystead.ReasonOverloaded)
	if !strings.Contains(err.Error(), "127.0.0.1/32") {
		t.Errorf("the refusal does not name the address: %v", err)
	}
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	raw, err := other.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	honest := begin(t, roleClient, raw, s.config(s.alice, s.bob))
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	if e := <-honest; e.err != nil {
		t.Errorf("from another address: %v", e.err)
	}
	for address, want := range map[string]string{"127.0.0.1:5": "127.0.0.1/32", "[::ffff:10.0.0.1]:5": "10.0.0.1/32", "[2001:db8:1:2:3::4%eth0]:5": "2001:db8:1:2::/64"} {
		if got := network(fakeAddr(address)); got.String() != want {
			t.Errorf("%s: want %s, got %v", address, want, got)
		}
	}
	if network(fakeAddr("pipe")).IsValid() || network(nil).IsValid() {
		t.Error("what is no address has a network")
	}
}

type fakeAddr string

func (fakeAddr) Network() string  { return "" }
func (a fakeAddr) String() string { return string(a) }

// failing fails once, as a process without free descriptors does, and then goes on.
type failing struct {
	net.Listener
	times chan struct{}
}

func (f failing) Accept() (net.Conn, error) {
	select {
	case <-f.times:
		return nil, errors.New("too many open files")
	default:
		return f.Listener.Accept()
	}
}

// TestAcceptFails: a failure is whoever accepts's to judge; the listener goes on.
func TestAcceptFails(t *testing.T) {
	s := onStage(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	times := make(chan struct{}, 1)
	times <- struct{}{}
	l, err := NewListener(failing{inner, times}, s.config(s.bob, s.alice), ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Accept(); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("want the failure, got %v", err)
	}
	honest := begin(t, roleClient, dial(t, l), s.config(s.alice, s.bob))
	if _, err := l.Accept(); err != nil {
		t.Errorf("after the failure: %v", err)
	}
	<-honest
	if _, err := NewListener(inner, Config{}, ListenerOptions{}); err == nil {
		t.Error("a listener without prover and verifier")
	}
}

// whoAmI answers with the name of the attested peer.
type whoAmI struct {
	apiv1connect.UnimplementedDomainServiceHandler
}

func (whoAmI) Status(ctx context.Context, _ *connect.Request[apiv1.StatusRequest]) (*connect.Response[apiv1.StatusResponse], error) {
	p := FromContext(ctx).Peer()
	if p.IsZero() {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("no evidence"))
	}
	return connect.NewResponse(&apiv1.StatusResponse{Node: p.Name()}), nil
}

// serving runs an HTTP server with whoAmI on the listener.
func serving(t testing.TB, l net.Listener) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewDomainServiceHandler(whoAmI{}))
	mux.HandleFunc("GET /proto", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", FromContext(r.Context()).TLS().NegotiatedProtocol)
	})
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: mux, Protocols: protocols, ConnContext: ConnContext}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// attested is an HTTP client whose connections attest with cfg.
func attested(t testing.TB, cfg Config) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // TLS is below: a Conn is no *tls.Conn
	transport := &http.Transport{Protocols: protocols, DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return Client(ctx, raw, cfg)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func get(t testing.TB, c *http.Client, url string) string {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestHTTP2: calls over an attested connection know their caller by its hardware; on
// the same port clients without evidence are served, and are nobody.
func TestHTTP2(t *testing.T) {
	s := onStage(t)
	cfg := s.config(s.bob, s.alice)
	cfg.Plain = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.bob.cert}, NextProtos: []string{"h2", "http/1.1"}}
	l, refused := listen(t, cfg, ListenerOptions{})
	serving(t, l)
	base := "https://" + l.Addr().String()

	client := attested(t, s.config(s.alice, s.bob))
	for range 2 {
		r, err := apiv1connect.NewDomainServiceClient(client, base).Status(ctx, connect.NewRequest(&apiv1.StatusRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if r.Msg.GetNode() != "alice" {
			t.Errorf("the server takes the caller for %q", r.Msg.GetNode())
		}
	}
	if got := get(t, client, base+"/proto"); got != "HTTP/2.0 "+Protocol {
		t.Errorf("attested: %s", got)
	}
	for protocol, want := range map[string]string{"h2": "HTTP/2.0 h2", "http/1.1": "HTTP/1.1 http/1.1", "": "HTTP/1.1 "} {
		only := &tls.Config{InsecureSkipVerify: true}
		transport := &http.Transport{TLSClientConfig: only, ForceAttemptHTTP2: protocol == "h2"}
		if protocol == "http/1.1" {
			only.NextProtos = []string{protocol}
		}
		plain := &http.Client{Transport: transport, Timeout: 30 * time.Second}
		if got := get(t, plain, base+"/proto"); got != want {
			t.Errorf("without evidence, ALPN %q: %s", protocol, got)
		}
		_, err := apiv1connect.NewDomainServiceClient(plain, base).Status(ctx, connect.NewRequest(&apiv1.StatusRequest{}))
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("without evidence, ALPN %q: want permission denied, got %v", protocol, err)
		}
		transport.CloseIdleConnections()
	}
	stranger := attested(t, s.config(s.carol, s.bob))
	_, err := stranger.Get(base + "/proto")
	demand(t, "an unknown TPM", err, keystead.ReasonNotMember)
	demand(t, "an unknown TPM", <-refused, keystead.ReasonNotMember)
	if got := FromContext(ctx); got != nil || !got.Peer().IsZero() || ConnContext(ctx, &net.TCPConn{}) != ctx {
		t.Error("a context without a connection has a peer")
	}
}

// TestPlainIsOptional: without Plain, whoever does not offer the protocol is refused.
func TestPlainIsOptional(t *testing.T) {
	s := onStage(t)
	l, refused := listen(t, s.config(s.bob, s.alice), ListenerOptions{})
	go tls.Client(dial(t, l), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).Handshake()
	demand(t, "h2", <-refused, keystead.ReasonChannelUnsuitable)
}

// TestRequestsEndWithTheEvidence: a request that is under way when the connection's
// time is over does not go on.
func TestRequestsEndWithTheEvidence(t *testing.T) {
	s := onStage(t)
	cfg := s.config(s.bob, s.alice)
	cfg.MaxAge = time.Second
	l, _ := listen(t, cfg, ListenerOptions{})
	ended := make(chan struct{}, 16)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, ConnContext: ConnContext, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		ended <- struct{}{}
	})}
	go server.Serve(l)
	defer server.Close()
	client := attested(t, s.config(s.alice, s.bob))
	for {
		if _, err := client.Get("https://" + l.Addr().String()); err == nil {
			t.Fatal("the request was answered")
		}
		select {
		case <-ended:
			return
		default: // on a loaded machine the time was over before the request came
		}
	}
}

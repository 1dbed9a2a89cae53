package client

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keystead/keystead/api/v1/apiv1connect"
)

// piped listens for the one connection whose host's end dial gives, and counts what both
// sides write. Cut off, it loses what is written.
type piped struct {
	server chan net.Conn
	wrote  *atomic.Int64
	cut    *atomic.Bool
}

type pipedConn struct {
	net.Conn
	of *piped
}

func (c pipedConn) Write(b []byte) (int, error) {
	c.of.wrote.Add(1)
	if c.of.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (p *piped) dial(context.Context, Contact) (net.Conn, error) {
	host, node := net.Pipe()
	p.server <- pipedConn{node, p}
	return pipedConn{host, p}, nil
}

func (p *piped) Accept() (net.Conn, error) {
	c, ok := <-p.server
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *piped) Close() error   { close(p.server); return nil }
func (p *piped) Addr() net.Addr { return &net.UnixAddr{} }

// TestSilentHosts has a host wait as between two renewals: neither side says a word. Who
// is gone is found out all the same, and the next request has a new connection.
func TestSilentHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &piped{server: make(chan net.Conn, 1), wrote: new(atomic.Int64), cut: new(atomic.Bool)}
		s := &hostServer{}
		_, handler := apiv1connect.NewHostServiceHandler(s)
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		srv := &http.Server{Handler: handler, Protocols: protocols, HTTP2: &http.HTTP2Config{SendPingTimeout: HostSilence, PingTimeout: 10 * time.Second}}
		go srv.Serve(p)
		dialled := 0
		h := NewHost(HostOptions{MaxAge: time.Hour, Dial: func(ctx context.Context, to Contact) (net.Conn, error) {
			dialled++
			return p.dial(ctx, to)
		}})
		h.Nodes(map[string]Contact{"n1": {Name: "n1"}})
		ask := func() {
			t.Helper()
			if _, err := h.Nonce(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		ask()
		for range 3 {
			before := p.wrote.Load()
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := p.wrote.Load() - before; n != 0 {
				t.Errorf("in a minute without a request %d writes", n)
			}
			ask()
		}
		if dialled != 1 {
			t.Errorf("%d connections, want one", dialled)
		}
		p.cut.Store(true)
		time.Sleep(HostSilence + 11*time.Second)
		p.cut.Store(false)
		ask()
		if dialled != 2 {
			t.Errorf("after a cut %d connections, want another", dialled)
		}
		h.Close()
		srv.Close()
	})
}

// TestIdleHosts has a host renew at long intervals, as far apart as it keeps a connection
// without requests: the node keeps it as well. The node does not ask whether the host is
// there, for a pipe holds nothing, and both asking at once would wait for each other.
func TestIdleHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &piped{server: make(chan net.Conn, 1), wrote: new(atomic.Int64), cut: new(atomic.Bool)}
		_, handler := apiv1connect.NewHostServiceHandler(&hostServer{})
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		srv := &http.Server{Handler: handler, Protocols: protocols, IdleTimeout: NodeIdle}
		go srv.Serve(p)
		dialled := 0
		h := NewHost(HostOptions{MaxAge: time.Hour, Dial: func(ctx context.Context, to Contact) (net.Conn, error) {
			dialled++
			return p.dial(ctx, to)
		}})
		h.Nodes(map[string]Contact{"n1": {Name: "n1"}})
		for range 4 {
			if _, err := h.Nonce(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			time.Sleep(hostIdle - time.Second)
		}
		if dialled != 1 {
			t.Errorf("%d connections, want one", dialled)
		}
		time.Sleep(2 * time.Second)
		if _, err := h.Nonce(t.Context()); err != nil || dialled != 2 {
			t.Errorf("after more than that: %v, %d connections, want another", err, dialled)
		}
		h.Close()
		srv.Close()
	})
}

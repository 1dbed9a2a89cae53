package attest

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keystead/keystead"
)

// A Conn is a TLS connection whose other side is known: an attested [Peer], or on a
// server with Config.Plain a client that showed none. It is a net.Conn, safe for
// concurrent use as that one is.
type Conn struct {
	tls     *tls.Conn
	peer    Peer
	expired atomic.Bool

	mu    sync.Mutex
	asked time.Time
	timer *time.Timer // nil without an end, and when closed
}

// Client attests over raw as TLS client. The Conn takes raw over; on an error raw is
// closed. A *keystead.DenyError is what this side holds against the peer, a
// *[RefusedError] what the peer holds against this side.
func Client(ctx context.Context, raw net.Conn, cfg Config) (*Conn, error) {
	c, err := cfg.checked()
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c.open(ctx, raw, tls.Client(raw, c.tls()), roleClient)
}

// Server attests over raw as TLS server, like [Client].
func Server(ctx context.Context, raw net.Conn, cfg Config) (*Conn, error) {
	c, err := cfg.checked()
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c.open(ctx, raw, tls.Server(raw, c.serverTLS()), roleServer)
}

// open runs TLS and the exchange within the time that they have.
func (c *Config) open(ctx context.Context, raw net.Conn, tc *tls.Conn, r role) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	err := raw.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	var conn *Conn
	if err == nil {
		if err = tc.HandshakeContext(ctx); err != nil {
			err = explain(ctx, err, true)
		} else if conn, err = c.attest(ctx, tc, r); err != nil {
			err = explain(ctx, err, false)
		}
	}
	if !stop() && err == nil {
		err = explain(ctx, ctx.Err(), false)
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	conn.age(c)
	return conn, nil
}

// attest runs the exchange over a finished handshake, unless the client is one of
// those without evidence.
func (c *Config) attest(ctx context.Context, tc *tls.Conn, r role) (*Conn, error) {
	state := tc.ConnectionState()
	if r == roleServer && c.Plain != nil && state.NegotiatedProtocol != Protocol {
		return &Conn{tls: tc, asked: time.Now()}, nil
	}
	channel, err := newChannel(state, &c.Certificate, r)
	if err != nil && state.NegotiatedProtocol != Protocol {
		return nil, err // who is there would not understand more
	}
	x := &exchange{cfg: c, channel: channel, in: tc, out: newSender(tc)}
	var peer Peer
	var asked time.Time
	if err == nil {
		peer, asked, err = x.run(ctx)
	}
	if err != nil {
		x.dismiss(ctx, tc, err)
		return nil, err
	}
	if err := x.out.flush(); err != nil {
		return nil, err
	}
	return &Conn{tls: tc, peer: peer, asked: asked}, nil
}

// age has an attested connection end at its time, unless there is newer evidence then.
func (c *Conn) age(cfg *Config) {
	if cfg.MaxAge <= 0 || c.peer.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(time.Until(c.asked.Add(cfg.MaxAge)), func() {
		if cfg.Renewed == nil || !c.renew(cfg.Renewed(c), cfg.MaxAge) {
			c.expired.Store(true)
			_ = c.tls.NetConn().Close() // at once: no farewell that a peer could hold up
		}
	})
}

// renew has the age count from newer evidence, and reports whether that is young enough.
func (c *Conn) renew(asked time.Time, most time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := time.Until(asked.Add(most))
	if c.timer == nil || left <= 0 || !asked.After(c.asked) {
		return false
	}
	c.asked = asked
	c.timer.Reset(left)
	return true
}

// Peer returns who the other side is; nobody if it showed no evidence, or there is
// no connection.
func (c *Conn) Peer() Peer {
	if c == nil {
		return Peer{}
	}
	return c.peer
}

// Established returns when this side asked for the peer's evidence, or for newer
// evidence ([Config.Renewed]): it is not older than that.
func (c *Conn) Established() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// TLS returns the state of the TLS connection. It is not named ConnectionState, by
// which net/http would know a TLS connection and keep HTTP/2 off it.
func (c *Conn) TLS() tls.ConnectionState { return c.tls.ConnectionState() }

// Read implements net.Conn. After Config.MaxAge it gives no more data.
func (c *Conn) Read(b []byte) (int, error) { return c.fresh(c.tls.Read(b)) }

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	if c.expired.Load() {
		return c.fresh(0, nil)
	}
	return c.fresh(c.tls.Write(b))
}

// fresh holds a result back on a connection whose time is over.
func (c *Conn) fresh(n int, err error) (int, error) {
	if c.expired.Load() {
		return 0, keystead.Deny(keystead.Finding{Reason: keystead.ReasonConnectionExpired, Where: "connection", Want: "evidence that is young enough", Got: "that of " + c.Established().UTC().Format(time.RFC3339)})
	}
	return n, err
}

// NetConn returns the connection that TLS is over. Nothing is to be read from it or written
// to it, as with that of *tls.Conn.
func (c *Conn) NetConn() net.Conn { return c.tls.NetConn() }

// CloseWrite ends what this side sends, as that of *tls.Conn.
func (c *Conn) CloseWrite() error { return c.tls.CloseWrite() }

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.mu.Unlock()
	return c.tls.Close()
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.tls.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.tls.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.tls.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.tls.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.tls.SetWriteDeadline(t) }

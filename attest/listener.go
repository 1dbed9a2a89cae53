package attest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/keystead/keystead"
)

// ListenerOptions bound what strangers can take of a [Listener]'s side.
type ListenerOptions struct {
	// Handshakes is how many connections may be under attestation at a time; 256 if 0.
	// One more is closed before a byte of it is read.
	Handshakes int
	// PerAddress is how many of them may be of one IPv4 address or IPv6 /64; a quarter
	// of Handshakes if 0.
	PerAddress int
	// Refused, if not nil, hears of each connection that did not come to be, from
	// several goroutines.
	Refused func(from net.Addr, err error)
}

const defaultHandshakes = 256

// A Listener accepts attested connections, and those of clients without evidence if
// its Config has Plain. Connections attest side by side, each within Config.Timeout,
// so one that is slow holds nobody up.
type Listener struct {
	inner  net.Listener
	cfg    *Config
	tls    *tls.Config
	opts   ListenerOptions
	ready  chan accepted
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	pending int
	by      map[netip.Prefix]int // pending by address
}

type accepted struct {
	conn *Conn
	err  error
}

// NewListener attests what inner accepts, which the Listener takes over.
func NewListener(inner net.Listener, cfg Config, opts ListenerOptions) (*Listener, error) {
	c, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	if opts.Handshakes == 0 {
		opts.Handshakes = defaultHandshakes
	}
	if opts.PerAddress == 0 {
		opts.PerAddress = max(1, opts.Handshakes/4)
	}
	l := &Listener{inner: inner, cfg: c, tls: c.serverTLS(), opts: opts, ready: make(chan accepted), by: map[netip.Prefix]int{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.tasks.Go(l.run)
	return l, nil
}

// run takes connections until inner is closed.
func (l *Listener) run() {
	for {
		raw, err := l.inner.Accept()
		if err != nil {
			l.hand(accepted{err: err})
			if errors.Is(err, net.ErrClosed) || l.ctx.Err() != nil {
				return
			}
			continue // whoever accepts decides whether to go on
		}
		from := network(raw.RemoteAddr())
		if err := l.enter(from); err != nil {
			_ = raw.Close()
			l.refused(raw.RemoteAddr(), err)
			continue
		}
		l.tasks.Go(func() {
			defer l.leave(from)
			conn, err := l.cfg.open(l.ctx, raw, tls.Server(raw, l.tls), roleServer)
			if err != nil {
				l.refused(raw.RemoteAddr(), err)
				return
			}
			if !l.hand(accepted{conn: conn}) {
				_ = conn.tls.NetConn().Close()
			}
		})
	}
}

// hand gives to Accept, and reports whether it took.
func (l *Listener) hand(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.ctx.Done():
		return false
	}
}

func (l *Listener) refused(from net.Addr, err error) {
	if l.opts.Refused != nil {
		l.opts.Refused(from, err)
	}
}

// enter makes room for one more attestation, or refuses it (overloaded).
func (l *Listener) enter(from netip.Prefix) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "listener"}
	switch {
	case l.pending >= l.opts.Handshakes:
		f.Want, f.Got = fmt.Sprintf("at most %d attestations at a time", l.opts.Handshakes), "one more"
	case l.by[from] >= l.opts.PerAddress:
		f.Want, f.Got = fmt.Sprintf("at most %d attestations at a time from one address", l.opts.PerAddress), "one more from "+from.String()
	default:
		l.pending++
		l.by[from]++
		return nil
	}
	return keystead.Deny(f)
}

func (l *Listener) leave(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending--
	if l.by[from]--; l.by[from] == 0 {
		delete(l.by, from)
	}
}

// network is what counts as one address; the zero prefix for what is none.
func network(a net.Addr) netip.Prefix {
	if a == nil {
		return netip.Prefix{}
	}
	at, err := netip.ParseAddrPort(a.String())
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

// Accept implements net.Listener; the connections are of type *[Conn].
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		if a.err != nil {
			return nil, a.err
		}
		return a.conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends the listener and what is under attestation. Connections that were
// accepted stay.
func (l *Listener) Close() error {
	l.cancel()
	err := l.inner.Close()
	l.tasks.Wait()
	return err
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

type contextKey struct{}

// ConnContext is for http.Server's field of that name: it keeps a *[Conn] for the
// handlers of its requests, whose Request.TLS is nil. A Conn is not a *tls.Conn, so
// the server speaks HTTP/2 on it as if it were in the clear: set Protocols to
// UnencryptedHTTP2, and to HTTP1 for plain clients. An http.Transport likewise has
// UnencryptedHTTP2 alone, and a DialTLSContext that returns a Conn.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if conn, ok := c.(*Conn); ok {
		return context.WithValue(ctx, contextKey{}, conn)
	}
	return ctx
}

// FromContext returns the connection that a request came on, nil if it is not known
// or none of this package.
func FromContext(ctx context.Context) *Conn {
	c, _ := ctx.Value(contextKey{}).(*Conn)
	return c
}

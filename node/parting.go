package node

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/serve"
)

// handshakeTime is how long TLS without evidence may take.
const handshakeTime = 5 * time.Second

// parting parts what a listener accepts into strangers and others, once it is known who is
// there: each has a server with bounds of its own.
type parting struct {
	inner net.Listener
	crowd *crowd
	shake *tls.Config                               // nil: what comes is attested, or in the clear
	who   func(net.Conn) (class part.Class, of any) // of a finished handshake
	ready [2]chan net.Conn
	ended chan struct{}
	once  sync.Once
	tasks sync.WaitGroup
}

func newParting(inner net.Listener, c *crowd, shake *tls.Config, who func(net.Conn) (part.Class, any)) *parting {
	p := &parting{inner: inner, crowd: c, shake: shake, who: who, ready: [2]chan net.Conn{make(chan net.Conn), make(chan net.Conn)}, ended: make(chan struct{})}
	p.tasks.Go(p.run)
	return p
}

// strangers and others are the two listeners.
func (p *parting) strangers() net.Listener { return half{p, 0} }
func (p *parting) others() net.Listener    { return half{p, 1} }

func (p *parting) run() {
	for pause := time.Millisecond; ; {
		conn, err := p.inner.Accept()
		switch {
		case err == nil:
			pause = time.Millisecond
			p.tasks.Go(func() { p.take(conn) })
			continue
		case p.closed():
			return
		}
		select { // out of descriptors, mostly
		case <-time.After(pause):
			pause = min(2*pause, time.Second)
		case <-p.ended:
			return
		}
	}
}

func (p *parting) closed() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// take finds out who is there, and hands the connection on.
func (p *parting) take(conn net.Conn) {
	if p.shake != nil {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		t := tls.Server(conn, p.shake)
		err := t.HandshakeContext(ctx)
		if !stop() || err != nil {
			_ = conn.Close()
			return
		}
		conn = t
	}
	class, of := p.who(conn)
	g := below(conn)
	if g == nil || p.crowd.settle(g, class, of) != nil {
		_ = conn.Close()
		return
	}
	at := 1
	if class == part.ClassStranger {
		at = 0
	}
	select {
	case p.ready[at] <- conn:
	case <-p.ended:
		_ = conn.Close()
	}
}

// below returns the guest that a connection is over.
func below(c net.Conn) *guest {
	for {
		switch t := c.(type) {
		case *guest:
			return t
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
}

// half is a listener of one of the two.
type half struct {
	*parting
	at int
}

// Accept implements net.Listener.
func (h half) Accept() (net.Conn, error) {
	select {
	case c := <-h.ready[h.at]:
		return c, nil
	case <-h.ended:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (h half) Addr() net.Addr { return h.inner.Addr() }

// Close implements net.Listener: it ends both.
func (h half) Close() error {
	var err error
	h.once.Do(func() {
		close(h.ended)
		err = h.inner.Close()
	})
	return err
}

// whoConnects says what a connection's other end is known as, and by what.
func (n *Node) whoConnects(c net.Conn) (part.Class, any) {
	p := n.peerAt(c)
	switch class := p.Class(); {
	case class == part.ClassStranger:
		return class, serve.Source(c.RemoteAddr().String())
	case p.Node != "":
		return class, p.Node
	case !p.EK.IsZero():
		return class, p.EK
	default:
		return class, p.TLS
	}
}

// keyClass is as what a TLS key alone is known.
func (n *Node) keyClass(pin keystead.Digest) part.Class {
	switch {
	case pin.IsZero():
		return part.ClassStranger
	case n.nameOf(pin) != "":
		return part.ClassNode
	case n.listed(pin):
		return part.ClassClient
	case n.lastLeases.known(pin):
		return part.ClassHost
	}
	return part.ClassStranger
}

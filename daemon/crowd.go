package daemon

import (
	"net"
	"net/netip"
	"sync"

	"github.com/keystead/keystead/serve"
)

// crowd is a listener that keeps at most so many connections open, and of those so
// many from one address: one more is closed before a byte of it is read.
type crowd struct {
	net.Listener
	room chan struct{}
	each int

	mu   sync.Mutex
	from map[netip.Addr]int
}

func newCrowd(l net.Listener, most, each int) net.Listener {
	return &crowd{Listener: l, room: make(chan struct{}, most), each: each, from: map[netip.Addr]int{}}
}

// enter counts a connection, unless its address has as many as it may.
func (c *crowd) enter(addr netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from[addr] >= c.each && !addr.IsLoopback() {
		return false
	}
	c.from[addr]++
	return true
}

func (c *crowd) leave(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from[addr]--; c.from[addr] == 0 {
		delete(c.from, addr)
	}
}

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := serve.Source(conn.RemoteAddr().String())
		if !c.enter(addr) {
			_ = conn.Close()
			continue
		}
		select {
		case c.room <- struct{}{}:
			return &guest{Conn: conn, leave: func() { c.leave(addr); <-c.room }}, nil
		default:
			c.leave(addr)
			_ = conn.Close() // the client tries again, or another node
		}
	}
}

// guest is a connection that makes room when it is closed.
type guest struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	defer g.once.Do(g.leave)
	return g.Conn.Close()
}

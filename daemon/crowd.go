package daemon

import (
	"net"
	"sync"
)

// crowd is a listener that keeps at most so many connections open: one more is
// closed before a byte of it is read.
type crowd struct {
	net.Listener
	room chan struct{}
}

func newCrowd(l net.Listener, most int) net.Listener {
	return &crowd{l, make(chan struct{}, most)}
}

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case c.room <- struct{}{}:
			return &guest{Conn: conn, leave: func() { <-c.room }}, nil
		default:
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

package daemon

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// TestCrowd opens more connections than there is room for, and makes room.
func TestCrowd(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newCrowd(inner, 1, 1)
	defer l.Close()
	accepted := make(chan net.Conn, 3)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	dial()
	first := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil || err == io.ErrNoProgress {
		t.Error("a connection too many was kept")
	}
	for range 2 {
		if err := first.Close(); err != nil && len(accepted) > 0 {
			t.Error(err)
		}
	}
	dial()
	select {
	case <-accepted:
	case <-time.After(patience):
		t.Error("there is room, and nobody is let in")
	}
}

// arrivals is a listener that hands out connections as from other machines.
type arrivals struct {
	net.Listener
	from chan string
}

type arrival struct {
	net.Conn
	from net.Addr
}

func (a arrival) RemoteAddr() net.Addr { return a.from }

func (a arrivals) Accept() (net.Conn, error) {
	from, ok := <-a.from
	if !ok {
		return nil, net.ErrClosed
	}
	addr, err := net.ResolveTCPAddr("tcp", from)
	near, far := net.Pipe()
	far.Close()
	return arrival{near, addr}, err
}

// TestCrowdFromOneAddress opens more connections than one address may have.
func TestCrowdFromOneAddress(t *testing.T) {
	a := arrivals{from: make(chan string, 16)}
	l := newCrowd(a, 8, 2)
	for _, from := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"} {
		a.from <- from
	}
	close(a.from)
	var got []string
	var open []net.Conn
	for c, err := l.Accept(); err == nil; c, err = l.Accept() {
		got, open = append(got, c.RemoteAddr().String()), append(open, c)
	}
	want := []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}
	if !slices.Equal(got, want) {
		t.Errorf("let in %q, want %q", got, want)
	}
	for _, c := range open {
		c.Close()
	}
	if left := l.(*crowd); len(left.from) > 0 || len(left.room) > 0 {
		t.Errorf("all have left, and %v with %d places are counted", left.from, len(left.room))
	}
}

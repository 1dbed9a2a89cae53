package daemon

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestCrowd opens more connections than there is room for, and makes room.
func TestCrowd(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newCrowd(inner, 1)
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

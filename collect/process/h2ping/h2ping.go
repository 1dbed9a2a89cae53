// Package h2ping asks whoever is at the other end of an HTTP/2 connection for a sign of life
// that only it can give: a PING with a random payload (RFC 9113, 6.7), which every client
// answers by itself. Together with a connection that names the sender of each read, the answer
// shows that the process at the other end, and none that was handed its socket, holds the
// connection now.
//
// It trusts neither side: what is no HTTP/2 passes through unchanged and can not be asked, and
// no more than a frame's header and a PING are held back.
package h2ping

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"sync"
)

// What stands in frames (RFC 9113, 4.1 and 6).
const (
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	headerSize  = 9
	pingSize    = 8
	typeHeaders = 0x1
	typePush    = 0x5
	typePing    = 0x6
	typeMore    = 0x9 // CONTINUATION
	flagAck     = 0x1
	flagEnd     = 0x4 // END_HEADERS
)

// ErrNotHTTP2 says that the connection does not speak HTTP/2, or not yet.
var ErrNotHTTP2 = errors.New("the connection does not speak HTTP/2: it can not be asked by a PING")

// A Conn is a server's side of a connection. It is read, written and asked at the same time as
// a net.Conn is.
type Conn struct {
	net.Conn
	asking sync.Mutex // one PING at a time
	gone   chan struct{}
	once   sync.Once

	reading sync.Mutex // what follows
	begun   bool       // the first bytes were read
	in      frames
	ready   []byte // for the server
	chunk   []byte

	mu    sync.Mutex // what follows
	http2 bool
	sent  *[pingSize]byte // that is not answered
	heard chan struct{}   // closed by the answer

	writing sync.Mutex // what follows
	out     frames
	first   bool   // a frame was written: the server's SETTINGS
	due     []byte // a PING that waits for the end of a frame
}

// Wrap returns the server's side of a connection on which nothing was read or written.
func Wrap(c net.Conn) *Conn {
	return &Conn{Conn: c, gone: make(chan struct{}), in: frames{preface: len(preface)}}
}

// Close closes the connection. Whoever waits for an answer hears of it.
func (c *Conn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// frames follows the frames of one direction.
type frames struct {
	preface int // bytes of it that are to come
	header  [headerSize]byte
	have    int  // bytes of the header
	left    int  // bytes of the payload to come
	block   bool // between HEADERS and the last CONTINUATION: no other frame may stand there
}

// begin takes a header that is complete.
func (f *frames) begin() (kind, flags byte) {
	f.left = int(binary.BigEndian.Uint32(f.header[:]) >> 8)
	f.have = 0
	kind, flags = f.header[3], f.header[4]
	switch kind {
	case typeHeaders, typePush, typeMore:
		f.block = flags&flagEnd == 0
	}
	return kind, flags
}

// boundary reports whether a frame may begin here.
func (f *frames) boundary() bool { return f.preface == 0 && f.have == 0 && f.left == 0 && !f.block }

// Read implements net.Conn. Answers to Ping are taken out.
func (c *Conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for len(c.ready) == 0 {
		if c.chunk == nil {
			c.chunk = make([]byte, 16<<10)
		}
		n, err := c.Conn.Read(c.chunk)
		if n > 0 {
			c.take(c.chunk[:n])
		}
		if err != nil && len(c.ready) == 0 {
			c.once.Do(func() { close(c.gone) })
			return 0, err
		}
	}
	n := copy(b, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

// take passes on what was read.
func (c *Conn) take(b []byte) {
	c.ready = c.ready[:0]
	f := &c.in
	if !c.begun || f.preface > 0 && c.speaks() {
		b = c.begin(b)
	}
	if !c.speaks() || f.preface > 0 {
		c.ready = append(c.ready, b...)
		return
	}
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, len(b))
			c.ready, b = append(c.ready, b[:n]...), b[n:]
			f.left -= n
			continue
		}
		n := copy(f.header[f.have:], b)
		f.have, b = f.have+n, b[n:]
		if f.have < headerSize {
			return
		}
		if kind, flags := f.begin(); kind == typePing && flags&flagAck != 0 && f.left == pingSize {
			b = c.answer(b)
			continue
		}
		c.ready = append(c.ready, f.header[:]...)
	}
}

// begin looks for the preface.
func (c *Conn) begin(b []byte) []byte {
	f := &c.in
	at := len(preface) - f.preface
	n := min(f.preface, len(b))
	if !c.begun || c.speaks() {
		is := string(b[:n]) == preface[at:at+n]
		c.mu.Lock()
		c.http2 = is
		c.mu.Unlock()
	}
	c.begun = true
	if !c.speaks() {
		return b
	}
	f.preface -= n
	c.ready = append(c.ready, b[:n]...)
	return b[n:]
}

func (c *Conn) speaks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.http2
}

// answer takes the payload of a PING's answer, all of it: a client that sends it in two goes is
// read until it is here. One that answers nobody's question is passed on.
func (c *Conn) answer(b []byte) []byte {
	f := &c.in
	var payload [pingSize]byte
	have := copy(payload[:], b)
	b = b[have:]
	for have < pingSize {
		n, err := c.Conn.Read(payload[have:])
		have += n
		if err != nil {
			return nil
		}
	}
	f.left = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent == nil || payload != *c.sent {
		c.ready = append(append(c.ready, f.header[:]...), payload[:]...)
		return b
	}
	close(c.heard)
	c.sent = nil
	return b
}

// Write implements net.Conn. A PING that is due is put between two frames.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.speaks() {
		return c.Conn.Write(b)
	}
	for from := 0; ; {
		at := c.follow(b[from:])
		m, err := c.Conn.Write(b[from : from+at])
		from, n = from+at, n+m
		if err != nil {
			return n, err
		}
		if err := c.put(); err != nil {
			return n, err
		}
		if from == len(b) {
			return n, nil
		}
	}
}

// follow follows the frames in b up to where a PING that is due may stand, or to its end.
func (c *Conn) follow(b []byte) (at int) {
	f := &c.out
	for at < len(b) {
		if c.first && c.due != nil && f.boundary() && at > 0 {
			return at
		}
		if f.left > 0 {
			n := min(f.left, len(b)-at)
			f.left, at = f.left-n, at+n
			continue
		}
		n := copy(f.header[f.have:], b[at:])
		f.have, at = f.have+n, at+n
		if f.have == headerSize {
			f.begin()
			c.first = true
		}
	}
	return at
}

// put writes the PING that is due, where it may stand.
func (c *Conn) put() error {
	if c.due == nil || !c.first || !c.out.boundary() {
		return nil
	}
	due := c.due
	c.due = nil
	_, err := c.Conn.Write(due)
	return err
}

// Ping asks the other end, and waits for its answer.
func (c *Conn) Ping(ctx context.Context) error {
	c.asking.Lock()
	defer c.asking.Unlock()
	if !c.speaks() {
		return ErrNotHTTP2
	}
	var payload [pingSize]byte
	_, _ = rand.Read(payload[:]) // never fails
	heard := make(chan struct{})
	c.mu.Lock()
	c.sent, c.heard = &payload, heard
	c.mu.Unlock()
	c.writing.Lock()
	c.due = append([]byte{0, 0, pingSize, typePing, 0, 0, 0, 0, 0}, payload[:]...)
	err := c.put()
	c.writing.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-heard:
		return nil
	case <-c.gone:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.mu.Lock()
	c.sent = nil
	c.mu.Unlock()
	c.writing.Lock()
	c.due = nil
	c.writing.Unlock()
	return err
}

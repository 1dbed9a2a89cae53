package serve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
)

// prefix is what stands before a message in an envelope: a byte of flags, and its length.
const prefix = 5

// packed names the header by which a body says that it unpacks to something else, in one of
// the ways that Connect, gRPC and HTTP have.
func packed(r *http.Request) string {
	for _, name := range []string{"Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding"} {
		for _, v := range r.Header.Values(name) {
			if v != "" && v != "identity" {
				return name
			}
		}
	}
	if r.Method == http.MethodGet {
		if v := r.URL.Query().Get("compression"); v != "" && v != "identity" {
			return "compression"
		}
	}
	return ""
}

func notPacked(where string) error {
	return &keystead.FormatError{Format: "request", Field: where, Problem: "says that the message is compressed; requests are taken as they are"}
}

// source reads the messages of a body, each within the bounds of its procedure.
type source struct {
	*call
	from      io.ReadCloser
	limit     int64 // of a message, in bytes
	perByte   int64 // of memory
	enveloped bool
	json      bool
	done      <-chan struct{}     // closed when there is no more time for it
	began     func() (end func()) // called when a message of a stream begins, if not nil
}

func newSource(c *call, r *http.Request) *source {
	kind := r.Header.Get("Content-Type")
	return &source{call: c, from: r.Body, limit: c.row.In, perByte: perRead, enveloped: strings.HasPrefix(kind, "application/grpc") || strings.HasPrefix(kind, "application/connect+"), json: strings.Contains(kind, "json")}
}

func (s *source) tooLarge(got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "request", Want: fmt.Sprintf("a message of at most %d bytes", s.limit), Got: got})
}

// next reads one message, with its envelope if it has one, and takes memory for it as it
// comes. It returns io.EOF at the end of the body.
func (s *source) next() ([]byte, error) {
	s.drop(&s.message)
	limit, whole := s.limit, false
	var out []byte
	if s.enveloped {
		out = make([]byte, prefix)
		if n, err := io.ReadFull(s.from, out); err != nil {
			if n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if s.began != nil {
			defer s.began()()
		}
		size := int64(binary.BigEndian.Uint32(out[1:]))
		switch {
		case out[0]&1 != 0:
			return nil, notPacked("envelope")
		case size > limit:
			return nil, s.tooLarge(fmt.Sprintf("%d bytes", size))
		}
		limit, whole = size, true
	}
	head := len(out)
	out, err := s.read(out, limit, whole)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.lastSize = int64(len(out))
	s.mu.Unlock()
	return out, s.row.count(out[head:], s.json)
}

// step is how much is read at once, in bytes, and taken before it is.
const step = 16 << 10

// read appends a message of at most limit bytes; or of as many, if it is to be whole.
func (s *source) read(out []byte, limit int64, whole bool) ([]byte, error) {
	for left := limit; ; {
		n := int(min(step, left))
		if !whole && left < step {
			n++ // to see that there is more
		}
		if n == 0 {
			return out, nil
		}
		if err := s.slow(n); err != nil {
			return nil, err
		}
		if err := s.take(int64(n)*s.perByte, &s.message); err != nil {
			return nil, err
		}
		out = slices.Grow(out, n)
		got, err := io.ReadFull(s.from, out[len(out):len(out)+n])
		out = out[:len(out)+got]
		left -= int64(got)
		switch {
		case left < 0:
			return nil, s.tooLarge("more")
		case err == nil:
		case whole || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return nil, err
		default:
			return out, nil
		}
	}
}

// slow waits until a stranger's next bytes may be read.
func (s *source) slow(n int) error {
	addr, ok := s.who.(netip.Addr)
	if s.pace == nil || !ok {
		return nil
	}
	wait := s.pace.take(addr, n, time.Now())
	if wait == 0 {
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-s.done:
		return os.ErrDeadlineExceeded
	}
}

// once is a body that was read already; what the reader has taken is let go of.
type once struct{ rest []byte }

// Read implements io.Reader.
func (o *once) Read(b []byte) (int, error) {
	if len(o.rest) == 0 {
		o.rest = nil
		return 0, io.EOF
	}
	n := copy(b, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (o *once) Close() error { return nil }

// stream is a body of many messages, of which one at a time is here.
type stream struct {
	*source
	once
}

// Read implements io.Reader. After an error there is nothing more.
func (s *stream) Read(b []byte) (int, error) {
	if err := s.refusedBefore(); err != nil {
		return 0, err
	}
	if len(s.rest) == 0 {
		next, err := s.next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				err = s.refuse(untimely(err))
			}
			return 0, err
		}
		s.rest = next
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (s *stream) Close() error { return s.from.Close() }

func (s *stream) refusedBefore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

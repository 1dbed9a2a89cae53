package h2ping_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead/collect/process/h2ping"
)

// listener wraps what it accepts.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return h2ping.Wrap(c), nil
}

type connKey struct{}

// served serves on a socket; answer is given the connection of each request.
func served(t *testing.T, answer func(c *h2ping.Conn, w http.ResponseWriter, r *http.Request)) (dial func(ctx context.Context) (net.Conn, error)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: protocols, ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer(r.Context().Value(connKey{}).(*h2ping.Conn), w, r)
		})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(listener{l}) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) }
}

// asking is a client that speaks one protocol.
func asking(t *testing.T, http2 bool, dial func(ctx context.Context) (net.Conn, error)) *http.Client {
	t.Helper()
	p := &http.Protocols{}
	p.SetHTTP1(!http2)
	p.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{Protocols: p, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestPing asks an HTTP/2 client while bodies go both ways on many streams: it answers each time,
// and the bodies are what was sent.
func TestPing(t *testing.T) {
	dial := served(t, func(c *h2ping.Conn, w http.ResponseWriter, r *http.Request) {
		var got bytes.Buffer
		var asked sync.WaitGroup
		for range 3 {
			asked.Go(func() {
				if err := c.Ping(r.Context()); err != nil {
					t.Errorf("ping: %v", err)
				}
			})
		}
		if _, err := io.Copy(&got, r.Body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Long", string(bytes.Repeat([]byte("x"), 40<<10))) // in CONTINUATIONs
		if _, err := w.Write(got.Bytes()); err != nil {
			t.Error(err)
		}
		asked.Wait()
	})
	client := asking(t, true, dial)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			body := make([]byte, 300<<10)
			_, _ = rand.Read(body)
			r, err := client.Post("http://agent/", "", bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Body.Close()
			got, err := io.ReadAll(r.Body)
			if err != nil || !bytes.Equal(got, body) || len(r.Header.Get("Long")) != 40<<10 {
				t.Errorf("%d bytes came back of %d: %v", len(got), len(body), err)
			}
		})
	}
	all.Wait()
}

// TestNotHTTP2 has an HTTP/1 client pass unchanged; it can not be asked.
func TestNotHTTP2(t *testing.T) {
	dial := served(t, func(c *h2ping.Conn, w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%v", errors.Is(c.Ping(r.Context()), h2ping.ErrNotHTTP2))
	})
	r, err := asking(t, false, dial).Get("http://agent/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "true" {
		t.Errorf("%s: %v", b, err)
	}
}

// TestWrongAnswers has clients that do not answer, or answer what was not asked.
func TestWrongAnswers(t *testing.T) {
	settings := []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}
	for what, x := range map[string]struct {
		answer func(payload []byte) []byte
		good   bool
	}{
		"the answer":           {func(p []byte) []byte { return append([]byte{0, 0, 8, 6, 1, 0, 0, 0, 0}, p...) }, true},
		"nothing":              {func([]byte) []byte { return nil }, false},
		"another payload":      {func(p []byte) []byte { return append([]byte{0, 0, 8, 6, 1, 0, 0, 0, 0}, bytes.Repeat([]byte{1}, 8)...) }, false},
		"the question":         {func(p []byte) []byte { return append([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0}, p...) }, false},
		"an answer of 7 bytes": {func(p []byte) []byte { return append([]byte{0, 0, 7, 6, 1, 0, 0, 0, 0}, p[:7]...) }, false},
		"the payload, as content": {func(p []byte) []byte {
			return append([]byte{0, 0, 17, 0, 0, 0, 0, 0, 1, 0, 0, 8, 6, 1, 0, 0, 0, 0}, p...)
		}, false},
	} {
		client, server := net.Pipe()
		c := h2ping.Wrap(server)
		go func() { // the server's reads
			for {
				if _, err := c.Read(make([]byte, 100)); err != nil {
					return
				}
			}
		}()
		got := make(chan []byte, 1)
		go func() {
			_, _ = client.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
			_, _ = client.Write(settings)
			b := make([]byte, len(settings)+17)
			_, err := io.ReadFull(client, b)
			if err != nil {
				return
			}
			got <- b
			a := x.answer(b[len(b)-8:])
			for i := range a { // byte by byte
				_, _ = client.Write(a[i : i+1])
			}
		}()
		for !c.Speaks() { // until the preface was read
			runtime.Gosched()
		}
		if _, err := c.Write(settings); err != nil {
			t.Fatal(err)
		}
		wait := time.Second / 5
		if x.good {
			wait = 10 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		err := c.Ping(ctx)
		cancel()
		if x.good && err != nil || !x.good && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
		select {
		case b := <-got:
			if b[12] != 6 {
				t.Errorf("%s: the server sent % x", what, b)
			}
		default:
			t.Errorf("%s: nothing was asked", what)
		}
		if err := errors.Join(c.Close(), client.Close()); err != nil {
			t.Error(err)
		}
	}
}

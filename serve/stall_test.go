package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
)

// TestClientThatDoesNotRead asks for an answer without end and takes none of it,
// over both versions of HTTP: the handler must not wait for it for ever.
func TestClientThatDoesNotRead(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		ended := make(chan error, 1)
		s := httptest.NewUnstartedServer(steady(100*time.Millisecond, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			// The head of the answer goes out without haste, on however busy a machine.
			if err := http.NewResponseController(w.(*steadyWriter).Unwrap()).Flush(); err != nil {
				ended <- err
				return
			}
			b := make([]byte, 1<<20)
			var err error
			for err == nil {
				if _, err = w.Write(b); err == nil {
					err = http.NewResponseController(w).Flush()
				}
			}
			ended <- err
		})))
		s.EnableHTTP2 = h2
		s.StartTLS()
		defer s.Close()
		c := s.Client()
		c.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS13
		r, err := c.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if (r.ProtoMajor == 2) != h2 {
			t.Fatalf("HTTP/%d", r.ProtoMajor)
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Errorf("HTTP/%d: the handler waits for a client that does not read", r.ProtoMajor)
			s.CloseClientConnections()
		}
	}
}

// TestSlowAnswersGoOn leaves more time than the patience between two writes.
func TestSlowAnswersGoOn(t *testing.T) {
	const patience = 2 * time.Second // for writes of a byte
	for _, h2 := range []bool{false, true} {
		s := httptest.NewUnstartedServer(steady(patience, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), patience+patience/4)
			defer cancel()
			fmt.Fprint(w, "a")
			err := http.NewResponseController(w).Flush()
			<-ctx.Done() // the pause of a stream to which nothing is added
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) || err != nil {
				t.Errorf("%v, %v", ctx.Err(), err)
			}
			fmt.Fprint(w, "b")
		})))
		s.EnableHTTP2 = h2
		s.StartTLS()
		defer s.Close()
		r, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if string(b) != "ab" || err != nil {
			t.Errorf("HTTP/%d: %q, %v", r.ProtoMajor, b, err)
		}
	}
}

// TestBodyThatDoesNotCome sends half a request, over both versions of HTTP: the handler
// must not wait for the rest for longer than requests take.
func TestBodyThatDoesNotCome(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		ended := make(chan error, 1)
		d := doorOf(http.NotFoundHandler(), &Options{InFlight: 10, Timeout: 100 * time.Millisecond, Limited: func(_ part.Class, _, _ string, because error) { ended <- because }})
		s := httptest.NewUnstartedServer(d)
		s.EnableHTTP2 = h2
		s.StartTLS()
		defer s.Close()
		body, rest := io.Pipe()
		go func() { _, _ = rest.Write([]byte("half")) }() // until it is read or the pipe closed
		go func() {
			if r, err := s.Client().Post(s.URL+apiv1connect.LedgerServiceExecuteProcedure, "application/proto", body); err == nil {
				r.Body.Close()
			}
		}()
		select {
		case err := <-ended:
			if !errors.Is(err, keystead.ReasonTimeout) {
				t.Errorf("HTTP/2 %v: the body ended: %v", h2, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("HTTP/2 %v: the handler waits for a body that does not come", h2)
			s.CloseClientConnections()
		}
		rest.Close()
	}
}

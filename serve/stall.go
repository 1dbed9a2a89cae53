package serve

import (
	"net/http"
	"sync"
	"time"
)

// steady ends answers that a client does not take: no single write may last longer
// than patience. The pauses between writes are as long as they may be.
func steady(patience time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&steadyWriter{w, patience}, r)
	})
}

type steadyWriter struct {
	http.ResponseWriter
	patience time.Duration
}

// Unwrap is for [http.ResponseController].
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *steadyWriter) Write(b []byte) (int, error) {
	defer w.watch()()
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (w *steadyWriter) Flush() { _ = w.FlushError() } // the next write tells

// FlushError is for [http.ResponseController].
func (w *steadyWriter) FlushError() error {
	defer w.watch()()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// watch has writing fail once the patience is over, until end is called.
func (w *steadyWriter) watch() (end func()) {
	return watch(w.patience, func() {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(-time.Second)) // both versions of HTTP have it
	})
}

// watch calls cut once the patience is over, unless the function that it returns is
// called before. That function waits for a cut that is under way, since a request is not
// to be touched when its handler has returned. A deadline that is set at the start would
// cost each request a word with the connection's goroutine, and is hardly ever due.
func watch(patience time.Duration, cut func()) (end func()) {
	var mu sync.Mutex
	ended := false
	timer := time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			cut()
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		ended = true
	}
}

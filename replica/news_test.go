package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/keystead/keystead"
)

// heard keeps the levels at which something was logged.
type heard struct {
	slog.Handler
	levels []slog.Level
}

func (h *heard) Enabled(context.Context, slog.Level) bool { return true }
func (h *heard) Handle(_ context.Context, r slog.Record) error {
	h.levels = append(h.levels, r.Level)
	return nil
}

// TestNewsIsToldOnce tells the same again and again, which must not fill a log.
func TestNewsIsToldOnce(t *testing.T) {
	h := &heard{Handler: slog.DiscardHandler}
	n := &news{log: slog.New(h)}
	closed := func(port int) error {
		return errors.Join(fmt.Errorf("peer: %w", keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Got: fmt.Sprint(port)})),
			&net.OpError{Op: "read", Source: &net.TCPAddr{Port: port}, Err: syscall.ECONNRESET})
	}
	const info, debug = slog.LevelInfo, slog.LevelDebug
	for port := range 100 {
		n.tell(info, "n1", "not joined", closed(port))
	}
	n.tell(info, "n2", "not joined", closed(1))                                           // of another
	n.tell(info, "n1", "not joined", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}) // changed
	n.tell(info, "n1", "not joined", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}) // the same
	n.over("n1")                                                                          // joined
	n.tell(info, "n1", "not joined", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}) // again
	want := append(append([]slog.Level{info}, slices.Repeat([]slog.Level{debug}, 99)...), info, info, debug, info)
	if !slices.Equal(h.levels, want) {
		t.Errorf("told at %v", h.levels)
	}
	for i := range 10 * maxSubjects {
		n.tell(info, fmt.Sprint(i), "connection ended", errors.New("x"))
	}
	if len(n.last) > maxSubjects {
		t.Errorf("%d subjects are remembered", len(n.last))
	}
}

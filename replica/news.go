package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/keystead/keystead"
)

// news tells what goes on and on once: again when it changes, and in between, for who
// looks for it, at debug level.
type news struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]string // gist of what was told last, by subject
}

// maxSubjects bounds what is remembered; strangers connect from anywhere.
const maxSubjects = 1024

// tell logs an error of a subject, such as a peer's address.
func (n *news) tell(level slog.Level, subject, message string, err error, args ...any) {
	g := message + ": " + gist(err)
	n.mu.Lock()
	if n.last == nil || len(n.last) >= maxSubjects {
		n.last = map[string]string{}
	}
	known := n.last[subject] == g
	n.last[subject] = g
	n.mu.Unlock()
	if known {
		level = slog.LevelDebug
	}
	n.log.Log(context.Background(), level, message, append(args, "because", err)...)
}

// over forgets a subject: what comes next is new.
func (n *news) over(subject string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.last, subject)
}

// gist returns what an error says without what differs from one time to the next:
// the reasons of a refusal, the errors of the network without ports of connections.
func gist(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []string
		for _, e := range joined.Unwrap() {
			all = append(all, gist(e))
		}
		slices.Sort(all)
		return strings.Join(slices.Compact(all), "; ")
	}
	var deny *keystead.DenyError
	var op *net.OpError
	switch {
	case errors.As(err, &deny):
		var all []string
		for _, f := range deny.Findings {
			all = append(all, string(f.Reason))
		}
		return strings.Join(all, ", ")
	case errors.As(err, &op):
		return fmt.Sprintf("%s: %v", op.Op, op.Err)
	case err == nil:
		return ""
	}
	return err.Error()
}

package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keystead/keystead"
)

// strict is a guard that counts what it lets through, and at last lets nobody.
type strict struct {
	*NodeKey
	clients, servers atomic.Int64
	closed           atomic.Bool
}

func (s *strict) refuse(raw net.Conn) error {
	if !s.closed.Load() {
		return nil
	}
	return errors.Join(keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "guard"}), raw.Close())
}

func (s *strict) Client(ctx context.Context, raw net.Conn, key keystead.Digest) (net.Conn, error) {
	if err := s.refuse(raw); err != nil {
		return nil, err
	}
	s.clients.Add(1)
	return s.NodeKey.Client(ctx, raw, key)
}

func (s *strict) Server(ctx context.Context, raw net.Conn, accept func(keystead.Digest) error) (net.Conn, keystead.Digest, error) {
	if err := s.refuse(raw); err != nil {
		return nil, keystead.Digest{}, err
	}
	s.servers.Add(1)
	return s.NodeKey.Server(ctx, raw, accept)
}

// strictEnd is an end with a guard of its own, whose streams grow old.
func strictEnd(t *testing.T, age time.Duration) (*end, *strict) {
	t.Helper()
	key, err := GenerateNodeKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	guard := &strict{NodeKey: key}
	return endWith(t, key, TLSOptions{Guard: guard, MaxAge: age}), guard
}

// forget drops what was noted of members that could not be reached.
func (e *end) forget() {
	for len(e.unreachable) > 0 {
		<-e.unreachable
	}
}

// TestStreamsAreRenewed wants a stream to be replaced before it is old, and to end
// once its guard lets no other take its place.
func TestStreamsAreRenewed(t *testing.T) {
	a, guard := strictEnd(t, 300*time.Millisecond)
	b := newEnd(t)
	a.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	b.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	for guard.clients.Load() < 3 {
		sendUntil(t, a, b, heartbeat(1, 2))
	}
	a.forget()
	guard.closed.Store(true)
	for { // messages that are still on their way
		select {
		case <-a.unreachable:
			return
		case <-b.messages:
		case <-time.After(time.Minute):
			t.Fatal("the stream goes on")
		}
	}
}

// TestGuardRefuses wants no message, join or snapshot through a guard that lets nobody
// in, and none to stay on a connection that has had its time.
func TestGuardRefuses(t *testing.T) {
	a := newEnd(t)
	b, guard := strictEnd(t, 300*time.Millisecond)
	a.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	b.TLSTransport.Members([]Member{a.as(1), b.as(2)})
	sendUntil(t, a, b, heartbeat(1, 2))
	a.forget()
	guard.closed.Store(true)
	select {
	case <-a.unreachable: // the other side has closed the stream
	case <-time.After(time.Minute):
		t.Fatal("the stream goes on")
	}
	if _, err := a.TLSTransport.Join(context.Background(), b.as(2), JoinRequest{}); err == nil {
		t.Error("a join was answered")
	}
	if got := guard.servers.Load(); got < 1 {
		t.Errorf("%d connections were let in before", got)
	}
}

package replica

import (
	"crypto/rand"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// journal keeps what is logged at a level that a person sees.
type journal struct {
	mu    sync.Mutex
	lines []string
	wrote chan struct{}
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	j.lines = append(j.lines, string(line))
	j.mu.Unlock()
	select {
	case j.wrote <- struct{}{}:
	default:
	}
	return len(line), nil
}

func (j *journal) all() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "")
}

// TestUnreachedNodeIsNamedOnce has a node look for another one that is down: the log says
// which, and says it once however many attempts follow.
func TestUnreachedNodeIsNamedOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := l.Addr().String()
	l.Close()
	key, err := GenerateNodeKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	j := &journal{wrote: make(chan struct{}, 1)}
	e := endWith(t, key, TLSOptions{Guard: key, QueueBytes: 1 << 20, Log: slog.New(slog.NewTextHandler(j, nil))})
	other, err := GenerateNodeKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e.TLSTransport.Members([]Member{e.as(1), {ID: 2, Key: other.digest, Address: down}})
	select {
	case <-j.wrote:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is logged")
	}
	for range 3 { // each attempt that fails is told to the handler
		e.Send([]*pb.Message{heartbeat(1, 2)})
		select {
		case <-e.unreachable:
		case <-time.After(10 * time.Second):
			t.Fatal("no further attempt")
		}
	}
	if n := strings.Count(j.all(), "no connection to a node"); n != 1 || !strings.Contains(j.all(), "level=WARN") || !strings.Contains(j.all(), "to="+down) {
		t.Errorf("want one warning that names %s, got %d:\n%s", down, n, j.all())
	}
}

package node_test

import (
	"syscall"
	"testing"
	"time"
)

// TestCrashes kills, stops and restarts processes of a domain that does not trust
// its disks, a minority at a time, under load.
func TestCrashes(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	h := c.load(6, 3, 1)

	lead := c.leader(0)
	_ = c.end(lead, syscall.SIGKILL) // its status says that it was killed
	other := (lead + 1) % 3
	c.leader(other)
	c.start(lead)
	c.whole(0, 1, 2) // back under a new raft id, and promoted

	lead = c.leader(other)
	c.signal(lead, syscall.SIGSTOP)
	time.Sleep(1500 * time.Millisecond) // as long as a process is frozen, past an election
	c.signal(lead, syscall.SIGCONT)
	c.whole(0, 1, 2)

	if err := c.end(other, syscall.SIGTERM); err != nil {
		t.Errorf("a clean shutdown ended with %v", err)
	}
	c.start(other)
	c.whole(0, 1, 2)
	h.finish(t)
}

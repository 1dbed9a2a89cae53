package node_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead/receipt"
)

// TestRemovedWhileDown removes a node that does not run, so that nothing in the log
// ever tells it: started again, in place or to rejoin, it asks the others and stops by itself.
func TestRemovedWhileDown(t *testing.T) {
	t.Parallel()
	t.Run("in place", func(t *testing.T) { t.Parallel(); removedWhileDown(t, syscall.SIGTERM) })
	t.Run("without a record", func(t *testing.T) { t.Parallel(); removedWhileDown(t, syscall.SIGKILL) })
}

func removedWhileDown(t *testing.T, by syscall.Signal) {
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	if err := c.end(2, by); err != nil && by == syscall.SIGTERM {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	c.changeRoster(ctx, c.client(""), nil, func(r *receipt.Roster) {
		r.Nodes = slices.DeleteFunc(r.Nodes, func(n receipt.Node) bool { return n.Name == "n3" })
	})
	c.whole(0, 1)
	c.start(2)
	select {
	case err := <-c.nodes[2].ended:
		c.nodes[2].cmd = nil
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("it ended with %v, not with status 7", err)
		}
	case <-time.After(patience):
		t.Error("n3 was removed and goes on")
	}
	log, err := os.ReadFile(c.nodes[2].dir + ".log")
	if err != nil || !strings.Contains(string(log), "not-member: roster 1: want this node, n3, got a roster without it") {
		t.Errorf("the node did not say why it stopped: %v\n%s", err, log)
	}
}

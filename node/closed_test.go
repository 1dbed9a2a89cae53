package node_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
)

// asked is what a node's operators are told at a path, and how long it took.
func (c *cluster) asked(i int, path string) (status int, text string, took time.Duration) {
	c.t.Helper()
	cl := http.Client{Timeout: 5 * time.Second}
	began, end := time.Now(), time.Now().Add(patience)
	r, err := cl.Get("http://" + c.nodes[i].place.Ops + path)
	for ; errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // it has just been started
		began = time.Now()
		r, err = cl.Get("http://" + c.nodes[i].place.Ops + path)
	}
	if err != nil {
		c.t.Fatalf("%s of %s: %v", path, c.nodes[i].place.Name, err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r.StatusCode, string(b), time.Since(began)
}

// is waits until a node names its state, and demands that it answers at once meanwhile: to
// operators, to clients, and by a metric.
func (c *cluster) is(i int, state keystead.Reason, command string) {
	c.t.Helper()
	name := c.nodes[i].place.Name
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		status, text, took := c.asked(i, "/readyz")
		if strings.HasPrefix(text, "denied: "+string(state)+": ") && strings.Contains(text, command) {
			if status != http.StatusServiceUnavailable || took > time.Second {
				c.t.Fatalf("%s: /readyz is %d after %v: %s", name, status, took, text)
			}
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s does not come to %s, with %q; it is %s", name, state, command, text)
		}
	}
	if status, text, _ := c.asked(i, "/healthz"); status != http.StatusOK {
		c.t.Errorf("%s: /healthz is %d: %s", name, status, text)
	}
	if _, text, took := c.asked(i, "/metrics"); took > time.Second || !strings.Contains(text, `keystead_closed{state="`+string(state)+`"} 1`+"\n") {
		c.t.Errorf("%s: no metric of %s after %v:\n%s", name, state, took, text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	cl := c.client(name)
	began := time.Now()
	_, err := cl.Put(ctx, "kv/closed", nil)
	demand(c.t, "a write to "+name, err, state)
	if !strings.Contains(err.Error(), command) {
		c.t.Errorf("%s: a client is not told %q: %v", name, command, err)
	}
	c.t.Logf("%s: a write was refused after %v: %v", name, time.Since(began).Round(time.Millisecond), err)
}

// terminates ends a node that waits, and demands that what it says is not false.
func (c *cluster) terminates(i int, state keystead.Reason) {
	c.t.Helper()
	err := c.end(i, syscall.SIGTERM)
	var exit *exec.ExitError
	said, rerr := os.ReadFile(c.nodes[i].log())
	if rerr != nil || !errors.As(err, &exit) {
		c.t.Fatalf("ended with %v: %v", err, rerr)
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	last := lines[len(lines)-1]
	if !strings.Contains(last, string(state)) || !strings.Contains(last, string(keystead.ReasonShutdown)) || strings.Contains(last, string(keystead.ReasonNotMember)) {
		c.t.Errorf("told to end, it said %s", last)
	}
	if n := strings.Count(string(said), "does not serve\" state="+string(state)); n != 1 {
		c.t.Errorf("%s is told %d times", state, n)
	}
}

// TestClosedStates kills all nodes of a domain. The one that comes back alone says that it has
// no majority; with a second one, both say that members have to sign. Nobody speaks of a removal.
func TestClosedStates(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cl := c.client("")
	// One is left of three: it runs, and has nobody to follow.
	for i := range 2 {
		if err := c.end(i, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	c.is(2, keystead.ReasonClosedNoMajority, "keystead node run --config FILE")
	short, cancel := context.WithTimeout(ctx, time.Second)
	s, err := c.client("n3").Status(short)
	cancel()
	if err != nil || !strings.HasPrefix(s.GetClosed(), "denied: closed-no-majority: ") {
		t.Errorf("its status says %q: %v", s.GetClosed(), err)
	}
	c.start(0)
	c.start(1)
	c.whole(0, 1, 2)
	c.says(2, `msg="no longer so" state=closed-no-majority`)
	if _, text, _ := c.asked(2, "/metrics"); strings.Count(text, "keystead_closed{state=") != 4 || !strings.Contains(text, "keystead_closed{state=\"closed-no-majority\"} 0") {
		t.Errorf("the domain is whole again, and has metrics\n%s", text)
	}

	// A power cut of all, after which one comes back alone, and then another.
	for i := range c.nodes {
		_ = c.end(i, syscall.SIGKILL) // its status says that it was killed
	}
	c.start(0)
	c.is(0, keystead.ReasonClosedNoMajority, "keystead node run --config FILE")
	c.start(1)
	c.is(1, keystead.ReasonClosedRecovery, "keystead node recover --config FILE")
	c.is(0, keystead.ReasonClosedRecovery, "keystead node recover --config FILE")

	began := time.Now()
	_, err = cl.Put(ctx, "kv/closed", nil) // of all nodes; the third does not run
	demand(t, "a write to a closed domain", err, keystead.ReasonClosedRecovery)
	if took := time.Since(began); took > 5*time.Second || !client.Unavailable(err) {
		t.Errorf("refused after %v: %v", took, err)
	}
	c.terminates(0, keystead.ReasonClosedRecovery)
	c.terminates(1, keystead.ReasonClosedRecovery)
}

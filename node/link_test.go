package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
)

// isolated runs the test again inside namespaces of its own, where it is root over
// a network and mounts that nobody else sees, and reports whether this is inside.
func isolated(t *testing.T) bool {
	t.Helper()
	whole(t)
	const env = "KEYSTEAD_TEST_ISOLATED"
	if os.Getenv(env) == t.Name() {
		run(t, "mount -t tmpfs tmpfs /run && ip link set lo up")
		return true
	}
	cmd := exec.Command("unshare", "--map-root-user", "--net", "--mount", os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in namespaces of its own: %v", err)
	}
	return false
}

// run runs a line of shell that must succeed.
func run(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// TestLinks runs three nodes in three network namespaces on one bridge, under load
// from a fourth, and cuts links.
func TestLinks(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	run(t, "ip link add br0 type bridge && ip addr add 10.77.0.254/24 dev br0 && ip link set br0 up")
	for i := 1; i <= 3; i++ {
		run(t, "ip netns add n%d && ip link add v%[1]d type veth peer name eth0 netns n%[1]d && ip link set v%[1]d master br0 up", i)
		run(t, "ip -n n%d addr add 10.77.0.%[1]d/24 dev eth0 && ip -n n%[1]d link set eth0 up && ip -n n%[1]d link set lo up", i)
	}
	c := found(t, 3, func(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) })
	c.wrap = func(i int) []string { return []string{"ip", "netns", "exec", fmt.Sprintf("n%d", i+1)} }
	c.startAll()
	c.whole(0, 1, 2)
	h := c.load(6, 3, 2)

	lead := c.leader(0)
	run(t, "ip link set v%d down", lead+1) // the leader alone, without a word to anyone
	other := (lead + 1) % 3
	c.until(other, "another leader", func(s *apiv1.StatusResponse) bool {
		return s.GetLeader() != "" && s.GetLeader() != c.nodes[lead].place.Name
	})
	run(t, "ip link set v%d up", lead+1)
	c.whole(0, 1, 2)

	lead = c.leader(0)
	a, b := (lead+1)%3, lead // leader and one follower lose each other; both reach the third
	for _, cut := range [][2]int{{a, b}, {b, a}} {
		run(t, "ip -n n%d route add blackhole 10.77.0.%d/32", cut[0]+1, cut[1]+1)
	}
	time.Sleep(2 * time.Second) // as long as the link is cut, past several elections
	for _, cut := range [][2]int{{a, b}, {b, a}} {
		run(t, "ip -n n%d route del blackhole 10.77.0.%d/32", cut[0]+1, cut[1]+1)
	}
	c.whole(0, 1, 2)
	h.finish(t)
}

// TestSizeIsOfNow cuts a follower off from the other nodes and asks it, which clients
// still reach, where the ledger ends.
func TestSizeIsOfNow(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	run(t, "ip link add br0 type bridge && ip addr add 10.77.0.254/24 dev br0 && ip link set br0 up")
	for i := 1; i <= 3; i++ {
		run(t, "ip netns add n%d && ip link add v%[1]d type veth peer name eth0 netns n%[1]d && ip link set v%[1]d master br0 up", i)
		run(t, "ip -n n%d addr add 10.77.0.%[1]d/24 dev eth0 && ip -n n%[1]d link set eth0 up && ip -n n%[1]d link set lo up", i)
	}
	c := found(t, 3, func(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) })
	c.wrap = func(i int) []string { return []string{"ip", "netns", "exec", fmt.Sprintf("n%d", i+1)} }
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cut := (c.leader(0) + 1) % 3
	for _, other := range []int{(cut + 1) % 3, (cut + 2) % 3} {
		run(t, "ip -n n%d route add blackhole 10.77.0.%d/32 && ip -n n%[2]d route add blackhole 10.77.0.%[1]d/32", cut+1, other+1)
	}
	o, err := c.client(c.nodes[(cut+1)%3].place.Name).Put(ctx, "kv/new", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	lagging := c.client(c.nodes[cut].place.Name)
	s, err := lagging.Status(ctx)
	if err != nil || s.GetTreeSize() > o.GetLeaf() {
		t.Fatalf("the node that is cut off has %d leaves, and leaf %d: %v", s.GetTreeSize(), o.GetLeaf(), err)
	}
	short, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	if size, err := lagging.Size(short); !client.Unavailable(err) {
		t.Errorf("a node that is cut off says that the ledger ends at %d, %v", size, err)
	}
	for _, other := range []int{(cut + 1) % 3, (cut + 2) % 3} {
		run(t, "ip -n n%d route del blackhole 10.77.0.%d/32 && ip -n n%[2]d route del blackhole 10.77.0.%[1]d/32", cut+1, other+1)
	}
	if size, err := lagging.Size(ctx); err != nil || size <= o.GetLeaf() {
		t.Errorf("the link is back, and the ledger ends at %d, before leaf %d: %v", size, o.GetLeaf(), err)
	}
}

// TestFullDisk lets one node's disk run full under load: the node must stop and say
// so, and come back once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	disk := filepath.Join(t.TempDir(), "disk")
	run(t, "mkdir -p %s && mount -t tmpfs -o size=24m,mode=0700 tmpfs %[1]s", disk)
	t.Cleanup(func() { run(t, "umount %s", disk) })
	c := &cluster{t: t, dir: t.TempDir(), file: &client.Domain{}}
	const full = 2
	for i, dir := range []string{filepath.Join(c.dir, "n1"), filepath.Join(c.dir, "n2"), disk} {
		c.file.Contacts = append(c.file.Contacts, c.prepare(fmt.Sprintf("n%d", i+1), "", dir))
	}
	c.seal()
	c.startAll()
	c.whole(0, 1, 2)
	h := c.load(4, 3, 3)

	cl := c.client(c.nodes[0].place.Name)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	value := []byte(strings.Repeat("x", 200<<10))
	stopped := false
	for n := 0; !stopped && ctx.Err() == nil; n++ {
		if _, err := cl.Put(ctx, fmt.Sprintf("kv/fill/%d", n%4), value); err != nil && !client.Unavailable(err) {
			t.Fatal(err)
		}
		select {
		case err := <-c.nodes[full].ended:
			stopped = true
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 7 {
				t.Errorf("the node with the full disk ended with %v, not with status 7", err)
			}
			c.nodes[full].cmd = nil
		default:
		}
	}
	if !stopped {
		t.Fatal("the node with the full disk goes on")
	}
	log, err := os.ReadFile(c.nodes[full].dir + ".log")
	if err != nil || !strings.Contains(string(log), "no space left on device") {
		t.Errorf("the node did not say why it stopped: %v", err)
	}
	run(t, "mount -o remount,size=512m %s", disk)
	c.start(full)
	c.whole(0, 1, 2)
	h.finish(t)
}

package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/receipt"
)

// SendSnapshot sends a forged state, if the node is told to: sound in itself, with one
// word in the place of another.
func (w *withholding) SendSnapshot(ctx context.Context, m *pb.Message, write func(io.Writer) error) error {
	lie, err := os.ReadFile(filepath.Join(w.dir, snapshotFile))
	if err != nil {
		return w.Transport.SendSnapshot(ctx, m, write)
	}
	old, other, _ := bytes.Cut(lie, []byte("="))
	return w.Transport.SendSnapshot(ctx, m, func(out io.Writer) error {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return err
		}
		_, err := out.Write(forge(b.Bytes(), old, other))
		return err
	})
}

// forge changes a snapshot's stream as docs/spec/state.md has it, so that nothing in it
// contradicts the rest.
func forge(stream, old, other []byte) []byte {
	const header = 8 + 2*8 + 32 + 8 + 32 + 2*8 + 32
	chunks := int(binary.BigEndian.Uint64(stream[header-32-16:]))
	at := header + 32*chunks
	at += 8 + 32*int(binary.BigEndian.Uint64(stream[at:]))
	at += 4 + int(binary.BigEndian.Uint32(stream[at:]))
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i := range chunks {
		size := int(binary.BigEndian.Uint32(stream[at:]))
		chunk := stream[at+4 : at+4+size]
		copy(chunk, bytes.ReplaceAll(chunk, old, other))
		sum := sha256.Sum256(chunk)
		copy(stream[header+32*i:], sum[:])
		_ = tree.Append(rfc6962.DefaultHasher.HashLeaf(sum[:]), nil)
		at += 4 + size
	}
	root, _ := tree.GetRootHash(nil)
	copy(stream[header-32:], root)
	return stream
}

// putKey writes a value through any node.
func (c *cluster) putKey(key, value string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := c.client("").Put(ctx, key, []byte(value)); err != nil {
		c.t.Fatal(err)
	}
}

// reads wants a value from a node, linearizably.
func (c *cluster) reads(i int, key, want string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := c.client(c.nodes[i].place.Name).Read(ctx, false, key)
	if err != nil {
		c.t.Fatal(err)
	}
	if got := string(r.GetValues()[0].GetValue()); got != want {
		c.t.Errorf("%s: %s is %q, want %q", c.nodes[i].place.Name, key, got, want)
	}
}

// TestForgedSnapshot: who leads sends a node that comes back a state in which one value
// is another, sound in itself. The node asks the others, and takes nothing in; it comes
// back once it is sent what they have.
func TestForgedSnapshot(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	c.putKey("kv/colour", "honest")
	for _, i := range []int{0, 1} { // whichever of them leads
		c.lies(i, snapshotFile, "honest=forged")
	}
	_ = c.end(2, syscall.SIGKILL)
	c.start(2)
	c.says(2, "snapshot refused")
	c.says(2, string(keystead.ReasonSnapshotUnproven)+": state at position")
	c.says(2, "signed by 2 of 3 nodes of the newest roster")
	for i := range 2 {
		if err := os.Remove(filepath.Join(c.nodes[i].dir, snapshotFile)); err != nil {
			t.Fatal(err)
		}
	}
	c.whole(0, 1, 2)
	c.until(2, "signing", signing)
	c.reads(2, "kv/colour", "honest")
}

func signing(s *apiv1.StatusResponse) bool { return s.GetFresh() && s.GetUnsigned() == "" }

// TestEditedDisk: the disk of a node that was stopped in order is edited, and the node
// started in place. It finds out that its state is not that of the others, by the same log,
// and signs and grants nothing; the others go on.
func TestEditedDisk(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	c.putKey("kv/colour", "honest")
	c.reads(2, "kv/colour", "honest")
	if err := c.end(2, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	states, err := filepath.Glob(filepath.Join(c.nodes[2].dir, "store", "state-*"))
	if err != nil || len(states) != 1 {
		t.Fatal(states, err)
	}
	db, err := pebble.Open(states[0], &pebble.Options{FormatMajorVersion: pebble.FormatValueSeparation, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	edited := 0
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte("sk"), UpperBound: []byte("sl")})
	if err != nil {
		t.Fatal(err)
	}
	for it.First(); it.Valid(); it.Next() {
		if was := it.Value(); bytes.Contains(was, []byte("honest")) {
			edited++
			if err := db.Set(it.Key(), bytes.ReplaceAll(was, []byte("honest"), []byte("forged")), pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := it.Close(); err != nil || edited != 1 {
		t.Fatal(edited, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	c.start(2)
	c.until(2, "found out", func(s *apiv1.StatusResponse) bool {
		if signing(s) {
			t.Error("a node with another state signs")
		}
		return !s.GetFresh() && strings.Contains(s.GetUnsigned(), string(keystead.ReasonStateDiffers))
	})
	if words, err := c.ready(2); err != nil || !strings.Contains(words, string(keystead.ReasonStateDiffers)) {
		t.Errorf("ready: %q, %v", words, err)
	}
	for i := range 2 {
		c.until(i, "going on", signing)
		c.reads(i, "kv/colour", "honest")
	}
	c.putKey("kv/colour", "blue")
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// TestUnprovenState: two nodes of three start again, and one of them signs false digests.
// The other signs and grants nothing, until the third is there and came to the same.
func TestUnprovenState(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback, "trust-disks=true")
	c.startAll()
	c.whole(0, 1, 2)
	c.putKey("kv/colour", "red")
	for i := range 3 {
		if err := c.end(i, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	c.lies(1, stateFile, "")
	c.start(0)
	c.start(1)
	c.says(0, "reason="+string(keystead.ReasonStateDiffers)) // the ledger's alarm
	for range 20 {
		s := c.until(0, "an answer", func(*apiv1.StatusResponse) bool { return true })
		if signing(s) || !strings.Contains(s.GetUnsigned(), string(keystead.ReasonStateUnproven)) {
			t.Fatalf("with one other node that signs another digest: %v", s)
		}
		time.Sleep(50 * time.Millisecond) // to look again, for no event
	}
	c.start(2)
	for _, i := range []int{0, 2} {
		c.until(i, "signing", signing)
	}
	c.putKey("kv/colour", "blue")
}

// TestTwoBuilds: nodes of a build that does not know entries of version 4 go on in a
// domain that did not vote for them. When it has, such a node stops at the first one, and a
// later build goes on there with all that was acknowledged.
func TestTwoBuilds(t *testing.T) {
	t.Parallel()
	old := filepath.Join(t.TempDir(), "keystead")
	build := exec.Command("go", "build", "-tags", "entryversion3", "-o", old, "../cmd/keystead")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does, and from its cache
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := found(t, 3, loopback, "trust-disks=true", admit.EntryVersion+"=3")
	c.nodes[2].words = []string{old, "node", "run", "--config", filepath.Join(c.nodes[2].dir, node.ConfigFile)}
	c.startAll()
	c.whole(0, 1, 2)
	c.putKey("kv/colour", "red")
	if err := c.end(1, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.start(1) // a node that starts asks for positions, and there are none yet
	for i := range 3 {
		c.until(i, "signing", signing)
		c.reads(i, "kv/colour", "red")
	}
	text, err := (&admit.Setting{Domain: c.digest, Name: admit.EntryVersion, Value: 4}).Text()
	if err != nil {
		t.Fatal(err)
	}
	p, err := client.Propose(c.signs(text, c.member))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := p.Entry()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if _, err := c.client("").Submit(ctx, entry, nil); err != nil {
		t.Fatal(err)
	}
	c.putKey("kv/colour", "blue")
	if err := c.end(1, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.start(1)
	select {
	case <-c.nodes[2].ended:
	case <-time.After(patience):
		t.Fatal("the node of the old build did not stop")
	}
	c.nodes[2].cmd = nil
	c.says(2, string(keystead.ReasonVersionUnknown))
	c.putKey("kv/colour", "green")
	c.nodes[2].words = nil
	c.start(2)
	for i := range 3 {
		c.until(i, "signing", signing)
		c.reads(i, "kv/colour", "green")
	}
}

// TestGrowsFromOne: a domain of one node, which was started again and again, grows to
// three. Nobody but the first has a state, so its word is what the second takes in; the
// third asks both.
func TestGrowsFromOne(t *testing.T) {
	t.Parallel()
	c := found(t, 1, loopback, "trust-disks=true")
	c.startAll()
	c.whole(0)
	for i := range 2 {
		c.putKey("kv/colour", fmt.Sprint("red ", i))
		if err := c.end(0, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.start(0)
		c.until(0, "signing", signing)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	all := []int{0}
	for i := 1; i < 3; i++ {
		name := fmt.Sprintf("n%d", i+1)
		contact := c.prepare(name, "", filepath.Join(c.dir, name))
		opened, err := client.OpenContact(contact)
		if err != nil {
			t.Fatal(err)
		}
		c.changeRoster(ctx, c.client("n1"), contact, func(r *receipt.Roster) { r.Nodes = append(r.Nodes, opened.Node()) })
		c.enter(c.nodes[i])
		c.start(i)
		all = append(all, i)
		c.whole(all...)
		for _, j := range all {
			c.until(j, "signing", signing)
			c.reads(j, "kv/colour", "red 1")
		}
	}
}

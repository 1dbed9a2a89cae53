package daemon_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/daemon"
)

// TestFoundedLongAgo starts a domain whose genesis entry is an hour old: its nodes'
// clocks are fresh all the same.
func TestFoundedLongAgo(t *testing.T) {
	c := &cluster{t: t, dir: t.TempDir(), file: newFile(), ago: time.Hour}
	for _, name := range []string{"n1", "n2", "n3"} {
		c.file.Contacts = append(c.file.Contacts, c.prepare(name, "", filepath.Join(c.dir, name)))
	}
	c.seal("trust-disks=true")
	c.startAll()
	c.whole(0, 1, 2)
	for i := range c.nodes {
		c.until(i, "a fresh clock of now", func(s *apiv1.StatusResponse) bool {
			return s.GetFresh() && s.GetDomainClockMs() > uint64(time.Now().Add(-time.Minute).UnixMilli())
		})
	}
}

// TestClonedNode starts a copy of a node's disk on a machine with another TPM: it
// refuses to run, and when it is made to show the other TPM as its own, the nodes
// refuse it.
func TestClonedNode(t *testing.T) {
	f := newField(t, 3, "trust-disks=true")
	if err := f.end(2, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(f.nodes[2].dir, daemon.ConfigFile)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	other := f.rig()
	moved := strings.Replace(string(text), f.nodes[2].place.TPM, other.process.Socket, 1)
	if err := os.WriteFile(config, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := daemon.ReadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.ctx, 30*time.Second)
	defer cancel()
	n, err := daemon.Start(ctx, cfg, daemon.Options{})
	if err == nil {
		n.Close()
	}
	demand(t, "a node's disk on another machine", err, keystead.ReasonKeyForeign)

	// Its keys in the hands of someone whose program does not ask.
	clone := f.hostOn("n3", other)
	identity, err := daemon.LoadIdentity(f.nodes[2].dir)
	if err != nil {
		t.Fatal(err)
	}
	clone.cert = identity.TLS
	for _, name := range []string{"n1", "n2"} {
		_, err := clone.at(name, f.contacts()[name]).Nonce(f.ctx)
		demand(t, "a node's keys with another TPM", err, keystead.ReasonKeyForeign)
	}
}

// TestKeysOfARun founds a domain that does not trust its disks: each node signs with a
// key that its TPM certified and no disk has, and after a restart with another.
func TestKeysOfARun(t *testing.T) {
	f := newField(t, 3)
	keys := f.rekeyed(map[string]string{})
	for i := range f.nodes {
		identity, err := daemon.LoadIdentity(f.nodes[i].dir)
		if err != nil {
			t.Fatal(err)
		}
		if keys[f.nodes[i].place.Name] == identity.Node.Public().String() {
			t.Errorf("%s still signs with the key on its disk", f.nodes[i].place.Name)
		}
	}
	h, a := f.admitted("web-1")
	if _, err := f.prove(a.GetLeaf()); err != nil {
		t.Error(err)
	}
	if err := f.end(2, syscall.SIGKILL); err != nil && !strings.Contains(err.Error(), "killed") {
		t.Fatal(err)
	}
	f.start(2)
	f.rekeyed(map[string]string{"n3": keys["n3"]})
	f.whole(0, 1, 2)
	if _, err := h.renew(); err != nil {
		t.Error(err)
	}
}

// rekeyed waits until every node has another key than at the founding and than was
// given, and returns the keys.
func (f *field) rekeyed(old map[string]string) map[string]string {
	f.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		v, err := f.client("").Show(f.ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		keys, done := map[string]string{}, true
		for _, n := range v.Roster.Nodes {
			first, _ := v.Genesis.Roster.Node(n.Name)
			keys[n.Name] = n.Key.String()
			_, contact := v.Contacts[n.Name]
			done = done && contact && n.Key != first.Key && keys[n.Name] != old[n.Name]
		}
		if done {
			return keys
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("the nodes have not all new keys: %v", keys)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestSealedKey starts nodes that trust their disks: the signing key lies there no more,
// but sealed to the TPM, and a restarted node has it again.
func TestSealedKey(t *testing.T) {
	f := newField(t, 3, "trust-disks=true")
	if _, err := os.Stat(filepath.Join(f.nodes[0].dir, "node.seed")); !os.IsNotExist(err) {
		t.Errorf("the signing key lies open: %v", err)
	}
	if err := f.end(0, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f.start(0)
	f.whole(0, 1, 2)
	moved := filepath.Join(f.nodes[0].dir, "node.sealed")
	blob, err := os.ReadFile(filepath.Join(f.nodes[1].dir, "node.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.end(0, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(moved, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := daemon.ReadConfig(filepath.Join(f.nodes[0].dir, daemon.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	n, err := daemon.Start(f.ctx, cfg, daemon.Options{})
	if err == nil {
		n.Close()
	}
	demand(t, "another node's sealed key", err, keystead.ReasonSealedElsewhere)
}

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

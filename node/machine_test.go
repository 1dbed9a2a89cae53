package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/freeport"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// single starts a domain of one node in this process.
func single(t *testing.T, parts ...part.Part) *Node {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "n1")
	contact, err := Prepare(context.Background(), dir, Place{Name: "n1", Peer: address(t), API: address(t), Ops: address(t)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.OpenContact(contact)
	if err != nil {
		t.Fatal(err)
	}
	m, err := key.NewMember(zeroes{}, "m")
	if err != nil {
		t.Fatal(err)
	}
	g := receipt.Genesis{Name: "t", Created: uint64(time.Now().UnixMilli()), Settings: []string{"evidence=none"}, Roster: receipt.Roster{Threshold: 1,
		Members: []key.MemberPublic{m.Public()}, Nodes: []receipt.Node{c.Node()}}}
	text, err := g.Text()
	if err != nil {
		t.Fatal(err)
	}
	note, err := m.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := receipt.NoteEntry(note)
	if err != nil {
		t.Fatal(err)
	}
	if err := Enter(dir, &client.Domain{Genesis: note, Contacts: [][]byte{contact}}, keystead.Sum(entry)); err != nil {
		t.Fatal(err)
	}
	cfg, err := ReadConfig(filepath.Join(dir, ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	n, err := Start(context.Background(), cfg, Options{Parts: parts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Grown(ctx, 1); err != nil {
		t.Fatal(err)
	}
	return n
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// address returns one that no other test is given.
func address(t *testing.T) string {
	t.Helper()
	port, err := freeport.Next()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// patience is how long a test waits for what must come.
const patience = time.Minute

// TestLyingExecutor proposes write sets that no honest executor would.
func TestLyingExecutor(t *testing.T) {
	n := single(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _, clock := n.machine.roster()
	for _, tc := range []struct {
		contract, key string
		want          keystead.Reason
	}{
		{"kv", "lease/host", keystead.ReasonWriteOutside},
		{"kv", "kvlease/host", keystead.ReasonWriteOutside},
		{"kv", "contact/n1", keystead.ReasonWriteOutside},
		{"setting", "setting/lease-seconds", ""}, // a contract of that name writes its own keys, not the judged ones
	} {
		tx := ledger.Transaction{Request: ledger.RequestID{ID: [16]byte(client.NewRequestID()), Deadline: clock + 10_000},
			Contract: tc.contract, Writes: []ledger.Write{{Key: tc.key, Value: []byte("forged")}}}
		entry, err := tx.Entry()
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.propose(ctx, entry)
		if tc.want != "" && !errors.Is(err, tc.want) || tc.want == "" && err != nil {
			t.Errorf("%s writes %s: want %q, got %v", tc.contract, tc.key, tc.want, err)
		}
	}
	err := n.view(func(v ledger.View) error {
		judged, err := v.Judged("setting/lease-seconds")
		if judged.Version != 0 {
			err = fmt.Errorf("a transaction wrote a judged key: %q", judged.Data)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestStrangersTick hands in ticks that do not count.
func TestStrangersTick(t *testing.T) {
	n := single(t)
	stranger, err := key.NewNode(zeroes{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]keystead.Reason{"n1": keystead.ReasonSignatureInvalid, "n9": keystead.ReasonSignerUnknown} {
		entry, err := ledger.TickEntry([]ledger.SignedTick{ledger.NewTick(stranger, name, n.cfg.Domain, 1, [32]byte{})})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.pulse.Tick(entry); !errors.Is(err, want) {
			t.Errorf("a stranger's tick as %s: want %s, got %v", name, want, err)
		}
	}
}

// TestSecretsStaySecret refuses keys that others can read.
func TestSecretsStaySecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n")
	if _, err := NewIdentity(context.Background(), dir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := NewIdentity(context.Background(), dir, nil); err == nil {
		t.Error("keys were written over keys")
	}
	if err := os.Chmod(filepath.Join(dir, seedFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(context.Background(), dir, nil); err == nil {
		t.Error("a key that others can read was taken")
	}
}

// TestLateFounder has a founder take in the domain after the others have started, and
// with that the contacts by which they are known since.
func TestLateFounder(t *testing.T) {
	n := newNode(Config{}, Options{})
	n.file = &client.Domain{}
	for _, name := range []string{"n1", "n2", "n1"} { // the last one is n1 as it is later, by another key
		contact, err := Prepare(context.Background(), filepath.Join(t.TempDir(), name), Place{Name: name, Peer: address(t), API: address(t), Ops: address(t)})
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.OpenContact(contact)
		if err != nil {
			t.Fatal(err)
		}
		if n.file.Contacts = append(n.file.Contacts, contact); len(n.file.Contacts) <= 2 {
			n.genesis.Roster.Nodes = append(n.genesis.Roster.Nodes, c.Node())
		}
	}
	if got := n.founders(); len(got) != 2 || got[0].ID != 1 || got[1].ID != 2 {
		t.Errorf("founders: %+v", got)
	}
}

package daemon_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/daemon"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// testLease is the lease of a host that this program's nodes take for admitted. Who asks
// is not what these tests are about.
type testLease struct{ host string }

func (l testLease) Host() string     { return l.host }
func (l testLease) Role() string     { return "host" }
func (l testLease) At(uint64) error  { return nil }
func (l testLease) Evidence() uint64 { return 0 }

// leased gives every host a lease on evidence of a software TPM.
func leased(_ context.Context, host string) (daemon.LeaseOf, error) {
	return func(ledger.View, uint64) (keyring.Lease, evidence.Claims, error) {
		return testLease{host}, evidence.Claims{Assurance: evidence.AssuranceTest.String()}, nil
	}, nil
}

// obscured is a Sealer that keeps what it is given from plain sight, as a TPM would.
// A file beside it stands for the TPM's state: without that nothing opens.
type obscured struct{ state string }

func (o obscured) mask(b []byte) ([]byte, error) {
	state, err := os.ReadFile(o.state)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(b)
	for i := range out {
		pad := sha256.Sum256(append(slices.Clone(state), byte(i)))
		out[i] ^= pad[0]
	}
	return out, nil
}

func (o obscured) Seal(_ context.Context, secret []byte) ([]byte, error) { return o.mask(secret) }
func (o obscured) Unseal(_ context.Context, blob []byte) ([]byte, error) { return o.mask(blob) }

const anyHost = "keystead-policy/1\nname any\nminimum-assurance test\nrules none\n"

// specify has the member ask for a version of a key.
func (c *cluster) specify(ctx context.Context, cl *client.Client, name string, version uint64, policy string) {
	c.t.Helper()
	k, err := cl.Key(ctx, name)
	if err != nil {
		c.t.Fatal(err)
	}
	s := keyring.Spec{Domain: c.digest, Name: name, Base: k.GetSpecVersion(), Version: version, Level: keyring.LevelNone, Policy: []byte(policy)}
	text, err := s.Text()
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := c.member.Sign(text)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := cl.Specify(ctx, signed); err != nil {
		c.t.Fatal(err)
	}
}

// release asks one node for a key until it gives it.
func (c *cluster) release(i int, name string, version uint64) string {
	c.t.Helper()
	cl := c.client(c.nodes[i].place.Name)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for {
		r, err := cl.ReleaseKey(ctx, &apiv1.ReleaseRequest{Host: "web", Key: name, Version: version})
		if err == nil {
			if len(r.GetSecret()) != keyring.SecretSize || r.GetVersion() != version {
				c.t.Fatalf("%s gives %d bytes of version %d", c.nodes[i].place.Name, len(r.GetSecret()), r.GetVersion())
			}
			return string(r.GetSecret())
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%s does not release %s version %d: %v", c.nodes[i].place.Name, name, version, err)
		}
		time.Sleep(50 * time.Millisecond) // between two questions, for no event
	}
}

// same demands that nodes release one secret, and returns it.
func (c *cluster) same(name string, version uint64, nodes ...int) string {
	c.t.Helper()
	first := c.release(nodes[0], name, version)
	for _, i := range nodes[1:] {
		if c.release(i, name, version) != first {
			c.t.Errorf("%s releases another %s version %d", c.nodes[i].place.Name, name, version)
		}
	}
	return first
}

func (c *cluster) awaitKey(ctx context.Context, cl *client.Client, name string, version uint64) *apiv1.Key {
	c.t.Helper()
	k, err := cl.AwaitKey(ctx, name, version)
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

func minute(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestKeysAgreed has three nodes agree on a key; each releases it, and its receipt
// verifies. A node is killed in the midst of the next version and started again: the
// version comes about, and all read both.
func TestKeysAgreed(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cl := minute(t), c.client("")
	c.specify(ctx, cl, "storage", 1, anyHost)
	k := c.awaitKey(ctx, cl, "storage", 1)
	first := c.same("storage", 1, 0, 1, 2)
	if _, p, err := cl.Receipt(ctx, k.GetVersions()[0].GetLeaf()); err != nil || p.Kind != receipt.KindEffective {
		t.Errorf("the receipt of the key: %v", err)
	}
	list, err := cl.ListKeys(ctx, "")
	if err != nil || list.GetEpoch() != 1 || !slices.Equal(list.GetEpochNodes(), []string{"n1", "n2", "n3"}) || len(list.GetKeys()) != 1 {
		t.Errorf("list %v, %v", list, err)
	}
	_, err = cl.ReleaseKey(ctx, &apiv1.ReleaseRequest{Host: "web", Key: "other"})
	demand(t, "a key that nobody specified", err, keystead.ReasonKeyUnknown)
	_, err = cl.ReleaseKey(ctx, &apiv1.ReleaseRequest{Host: "web", Key: "storage", Version: 2})
	demand(t, "a version that nobody agreed on", err, keystead.ReasonKeyUnknown)
	c.specify(ctx, cl, "strict", 1, "keystead-policy/1\nname strict\nrules none\n")
	c.awaitKey(ctx, cl, "strict", 1)
	_, err = cl.ReleaseKey(ctx, &apiv1.ReleaseRequest{Host: "web", Key: "strict"})
	demand(t, "a software TPM, under a policy that does not say test", err, keystead.ReasonAssuranceLow)

	victim := c.leader(0)
	c.specify(ctx, cl, "storage", 2, anyHost)
	if err := c.end(victim, syscall.SIGKILL); err == nil {
		t.Error("killed, and ended well")
	}
	c.start(victim)
	c.awaitKey(ctx, cl, "storage", 2)
	if second := c.same("storage", 2, 0, 1, 2); second == first {
		t.Error("two versions are equal")
	}
	if c.same("storage", 1, 0, 1, 2) != first {
		t.Error("version 1 changed")
	}
}

// TestKeysWithoutANode has a node stay down: the others, a majority, rotate without it,
// and it reads all once it is back.
func TestKeysWithoutANode(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cl := minute(t), c.client("")
	c.specify(ctx, cl, "storage", 1, anyHost)
	c.awaitKey(ctx, cl, "storage", 1)
	_ = c.end(2, syscall.SIGKILL)
	c.specify(ctx, cl, "storage", 2, anyHost)
	c.awaitKey(ctx, cl, "storage", 2)
	c.start(2)
	c.same("storage", 2, 0, 1, 2)
}

// TestEvictionRotates removes a node: there is a new epoch, and every key has a
// version that it never saw. Then one joins, and reads the old versions.
func TestEvictionRotates(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cl := minute(t), c.client("")
	for _, name := range []string{"backup", "storage"} {
		c.specify(ctx, cl, name, 1, anyHost)
	}
	for _, name := range []string{"backup", "storage"} {
		c.awaitKey(ctx, cl, name, 1)
	}
	first := c.same("storage", 1, 0, 1, 2)
	c.changeRoster(ctx, cl, nil, func(r *receipt.Roster) {
		r.Nodes = slices.DeleteFunc(r.Nodes, func(n receipt.Node) bool { return n.Name == "n3" })
	})
	rest := c.client("n1")
	for _, name := range []string{"backup", "storage"} {
		k := c.awaitKey(ctx, rest, name, 2)
		if e := k.GetVersions()[1].GetEpoch(); e != 2 {
			t.Errorf("%s version 2 is of epoch %d", name, e)
		}
		if k.GetWanted() != 1 {
			t.Errorf("%s: wanted %d", name, k.GetWanted())
		}
		c.same(name, 2, 0, 1)
	}
	c.nodes[2].cmd = nil
	<-c.nodes[2].ended

	contact := c.prepare("n4", "", filepath.Join(c.dir, "n4"))
	opened, err := client.OpenContact(contact)
	if err != nil {
		t.Fatal(err)
	}
	c.changeRoster(ctx, rest, contact, func(r *receipt.Roster) {
		r.Nodes = append(r.Nodes, receipt.Node{Name: "n4", Key: opened.Key})
	})
	c.enter(c.nodes[3])
	c.start(3)
	if c.release(3, "storage", 1) != first {
		t.Error("the node that joined reads another version 1")
	}
	c.same("backup", 2, 0, 1, 3)
	list, err := rest.ListKeys(ctx, "storage")
	if err != nil || list.GetEpoch() != 3 || !slices.Equal(list.GetEpochNodes(), []string{"n1", "n2", "n4"}) {
		t.Errorf("list %v, %v", list, err)
	}
	if v := list.GetKeys()[0].GetVersion(); v != 2 {
		t.Errorf("nobody left, and storage has version %d", v)
	}
}

// TestSealedSecret restarts a node that keeps its secret sealed: with the TPM's state it
// goes on, without it it asks for another epoch. The secret is in no file.
func TestSealedSecret(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.env = func(i int) []string { return []string{sealerEnv + "=" + filepath.Join(c.dir, fmt.Sprintf("tpm%d", i))} }
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(c.dir, fmt.Sprintf("tpm%d", i)), fmt.Appendf(nil, "state of %d", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cl := minute(t), c.client("")
	c.specify(ctx, cl, "storage", 1, anyHost)
	c.awaitKey(ctx, cl, "storage", 1)
	first := c.same("storage", 1, 0, 1, 2)
	if _, err := os.Stat(filepath.Join(c.nodes[1].dir, "epoch.unsealed")); err == nil {
		t.Error("a node with a TPM keeps its secret unsealed")
	}
	restart := func() {
		if err := c.end(1, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.start(1)
	}
	restart()
	if c.release(1, "storage", 1) != first {
		t.Error("another secret after a restart")
	}
	epoch := func() uint64 {
		list, err := cl.ListKeys(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		return list.GetEpoch()
	}
	if e := epoch(); e != 1 {
		t.Errorf("epoch %d after a restart with the TPM as it was", e)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "tpm1"), []byte("another state"), 0o600); err != nil {
		t.Fatal(err)
	}
	restart()
	if c.release(1, "storage", 1) != first || epoch() != 2 {
		t.Errorf("epoch %d after the TPM's state changed", epoch())
	}
	log, err := os.ReadFile(c.nodes[1].dir + ".log")
	if err != nil || !strings.Contains(string(log), "the epoch's secret is lost here") {
		t.Errorf("the log does not say that the secret was lost: %v", err)
	}
}

// TestClientsDoNotWriteRounds has a client try to write what only nodes write.
func TestClientsDoNotWriteRounds(t *testing.T) {
	t.Parallel()
	c := alone(t, "")
	c.whole(0)
	ctx, cl := minute(t), c.client("")
	tx := put(keyring.NodeKey("n1"), []byte("forged"))
	_, err := cl.Execute(ctx, tx)
	demand(t, "a key of rounds under contract kv", err, keystead.ReasonWriteOutside)
	tx = put(keyring.NodeKey("n1"), []byte("forged"))
	tx.Contract = keyring.Contract
	_, err = cl.Execute(ctx, tx)
	demand(t, "the contract of rounds", err, keystead.ReasonMalformed)
	raw := ledger.Transaction{Contract: keyring.Contract, Writes: []ledger.Write{{Key: keyring.NodeKey("n1"), Value: []byte("forged")}}}
	entry, err := raw.Entry()
	if err != nil {
		t.Fatal(err)
	}
	_, err = cl.Submit(ctx, entry, nil)
	demand(t, "a transaction handed in as an entry", err, keystead.ReasonMalformed)
	// one node is a domain too
	c.specify(ctx, cl, "storage", 1, anyHost)
	c.awaitKey(ctx, cl, "storage", 1)
	c.release(0, "storage", 1)
	var deny *keystead.DenyError
	if _, err := cl.Specify(ctx, []byte("keystead-key/1\n")); !errors.As(err, &deny) {
		t.Errorf("a specification without signatures: %v", err)
	}
}

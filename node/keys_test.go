package node_test

import (
	"context"
	"errors"
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
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/swtpm"
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
func leased(host string) (keyring.Lease, evidence.Claims) {
	return testLease{host}, evidence.Claims{Assurance: evidence.AssuranceTest.String()}
}

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

// TestWordOfOneNode: what a node says stands under a key is not what members' next statement is made
// of, unless the ledger has written it there: neither what was in force before, under the version of
// now, nor what another key has, nor anything made up.
func TestWordOfOneNode(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cl := minute(t), c.client("")
	stands := func(name string) *apiv1.Key {
		t.Helper()
		k, err := cl.Key(ctx, name)
		if err != nil || k.GetSpecVersion() == 0 {
			t.Fatalf("%s: %v, %v", name, k, err)
		}
		return k
	}
	c.specify(ctx, cl, "storage", 1, anyHost)
	before := stands("storage")
	c.specify(ctx, cl, "other", 1, anyHost)
	c.specify(ctx, cl, "storage", 1, strings.Replace(anyHost, "name any", "name strict", 1))
	now := stands("storage")
	const at = keyring.KeyspecType + "/storage"
	for _, k := range []*apiv1.Key{before, now} { // an older version is what stood there: a statement upon it is refused
		if err := cl.Wrote(ctx, at, []byte(k.GetSpecification()), k.GetSpecVersion()); err != nil {
			t.Errorf("version %d: %v", k.GetSpecVersion(), err)
		}
	}
	if before.GetSpecVersion() >= now.GetSpecVersion() || before.GetSpecification() == now.GetSpecification() {
		t.Fatalf("%v, then %v", before, now)
	}
	for what, lie := range map[string]*apiv1.Key{
		"the old one, as of now":       {Specification: before.GetSpecification(), SpecVersion: now.GetSpecVersion()},
		"the one of now, as of before": {Specification: now.GetSpecification(), SpecVersion: before.GetSpecVersion()},
		"another key's":                {Specification: stands("other").GetSpecification(), SpecVersion: stands("other").GetSpecVersion()},
		"another policy":               {Specification: strings.Replace(now.GetSpecification(), "name strict", "name any", 1), SpecVersion: now.GetSpecVersion()},
		"nothing":                      {SpecVersion: now.GetSpecVersion()},
		"a leaf of another kind":       {Specification: now.GetSpecification(), SpecVersion: 1},
	} {
		demand(t, what, cl.Wrote(ctx, at, []byte(lie.GetSpecification()), lie.GetSpecVersion()), keystead.ReasonProofInvalid)
	}
	demand(t, "of a version that there can not be", cl.Wrote(ctx, at, []byte(now.GetSpecification()), 0), keystead.ReasonProofInvalid)
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
// and it reads all once it is back. A node that is cut off from the others releases
// nothing.
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
	c.signal(1, syscall.SIGSTOP)
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	r, err := c.client("n1").ReleaseKey(short, &apiv1.ReleaseRequest{Host: "web", Key: "storage"})
	cancel()
	if err == nil || r.GetSecret() != nil {
		t.Errorf("n1 released a key without a majority's word: %v", err)
	}
	c.signal(1, syscall.SIGCONT)
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

// TestSealedSecret restarts a node whose secret its TPM seals: in the same state it goes
// on; once a boot register has changed, or the disk is in another machine, it asks for
// another epoch.
func TestSealedSecret(t *testing.T) {
	t.Parallel()
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var machines []*swtpm.TPM
	for range 4 {
		m, err := ca.Start(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Stop() })
		machines = append(machines, m)
	}
	c := found(t, 3, loopback)
	for i := range c.nodes {
		c.nodes[i].env = []string{leasedEnv + "=1", tpmEnv + "=" + machines[i].Socket}
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
	restart := func(what string, change func(), epoch uint64) {
		t.Helper()
		if err := c.end(1, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		change()
		c.start(1)
		if c.release(1, "storage", 1) != first {
			t.Errorf("%s: another secret", what)
		}
		list, err := cl.ListKeys(ctx, "")
		if err != nil || list.GetEpoch() != epoch {
			t.Errorf("%s: epoch %d, want %d: %v", what, list.GetEpoch(), epoch, err)
		}
	}
	restart("the TPM as it was", func() {}, 1)
	restart("another boot register", func() {
		tpm, err := collect.OpenTPM(machines[1].Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer tpm.Close()
		if err := tpm.Extend(ctx, 4, map[evidence.Bank][]byte{evidence.SHA256: make([]byte, 32)}); err != nil {
			t.Fatal(err)
		}
	}, 2)
	restart("another machine", func() { c.nodes[1].env = []string{leasedEnv + "=1", tpmEnv + "=" + machines[3].Socket} }, 3)
	log, err := os.ReadFile(c.nodes[1].dir + ".log")
	for _, want := range []keystead.Reason{keystead.ReasonSealedStateChanged, keystead.ReasonSealedElsewhere} {
		if err != nil || !strings.Contains(string(log), string(want)) {
			t.Errorf("the log does not say %s: %v", want, err)
		}
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

// TestReleaseToHosts releases a key to a host that three nodes admitted, over its attested
// connections, and to nobody else; and no more once the host has gone bad.
func TestReleaseToHosts(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	web, _ := f.admitted("web")
	other, _ := f.admitted("other")
	cl := f.client("")
	f.specify(f.ctx, cl, "storage", 1, `keystead-policy/1
name web
minimum-assurance test
rule web
  require release.host == "web" && release.role == "host" && key.ek == "`+web.ek.String()+`" && release.age_seconds < 600
  otherwise only the host web has this key
`)
	f.awaitKey(f.ctx, cl, "storage", 1)
	q := &apiv1.ReleaseRequest{Host: "web", Key: "storage"}
	var first string
	web.everywhere()
	for name, contact := range f.contacts() {
		r, err := web.at(name, contact).Release(f.ctx, q)
		if err != nil || len(r.GetSecret()) != keyring.SecretSize || r.GetVersion() != 1 {
			t.Fatalf("%s: %v", name, err)
		}
		if first == "" {
			first = string(r.GetSecret())
		}
		if string(r.GetSecret()) != first {
			t.Errorf("%s releases another key", name)
		}
		if _, err := os.Stat(filepath.Join(f.dir, name, "epoch.sealed")); err != nil {
			t.Errorf("%s does not seal its secret to its TPM: %v", name, err)
		}
	}
	_, err := cl.ReleaseKey(f.ctx, q)
	demand(t, "a connection without evidence", err, keystead.ReasonEvidenceMissing)
	_, err = other.api.Release(f.ctx, q)
	demand(t, "another host in its name", err, keystead.ReasonHardwareForeign)
	_, err = other.api.Release(f.ctx, &apiv1.ReleaseRequest{Host: "other", Key: "storage"})
	demand(t, "a host that the policy does not name", err, keystead.ReasonRuleFailed)
	_, err = other.api.Release(f.ctx, &apiv1.ReleaseRequest{Host: "nobody", Key: "storage"})
	demand(t, "a host that nobody enrolled", err, keystead.ReasonHostUnenrolled)

	web.goBad()
	bad := f.hostOn("web", web.rig)
	bad.phase = web.phase
	demand(t, "a host that went bad", bad.connect(), keystead.ReasonFileAltered)
	deadline := time.Now().Add(30 * time.Second)
	for name, contact := range f.contacts() {
		for {
			_, err := web.at(name, contact).Release(f.ctx, q)
			if errors.Is(err, keystead.ReasonLeaseSuspended) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s answers %v, want %s", name, err, keystead.ReasonLeaseSuspended)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

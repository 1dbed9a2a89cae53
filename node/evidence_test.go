package node_test

import (
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/receipt"
)

// rosterNode returns a node as the roster in force has it.
func (b *bed) rosterNode(name string) (receipt.Node, uint64) {
	b.t.Helper()
	v, err := b.client("").Show(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	n, ok := v.Roster.Node(name)
	if !ok {
		b.t.Fatalf("the roster has no %s", name)
	}
	return n, v.Sequence
}

// signedBy waits for a checkpoint with a node's signature by its key in force.
func (b *bed) signedBy(name string) {
	b.t.Helper()
	cl := b.client("")
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if _, err := cl.Put(b.ctx, "kv/signed", []byte(name)); err != nil {
			b.t.Fatal(err)
		}
		note, err := cl.Checkpoint(b.ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		head, err := receipt.ParseCheckpoint(note)
		if err != nil {
			b.t.Fatal(err)
		}
		v, err := cl.Show(b.ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		only := v.Roster
		only.Nodes = slices.DeleteFunc(slices.Clone(only.Nodes), func(n receipt.Node) bool { return n.Name != name })
		if _, err := receipt.VerifyCheckpoint(note, &only); err == nil && head.Roster == v.Sequence {
			return
		}
	}
	b.t.Errorf("no checkpoint has a signature of %s", name)
}

// TestNewKeyAtEachStart founds a domain whose nodes know each other by evidence. Each
// brings in the key of its start, a killed one again; receipts from before and after
// verify from the genesis digest, and what the old keys sign counts for nothing.
func TestNewKeyAtEachStart(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	cl := b.client("")
	early, err := cl.Put(b.ctx, "kv/early", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range b.nodes {
		if n, _ := b.rosterNode(p.place.Name); n.Key == b.first[i].Public() {
			t.Errorf("%s has the key that it was founded with", p.place.Name)
		}
		b.signedBy(p.place.Name)
	}
	before, sequence := b.rosterNode("n3")
	_ = b.end(2, syscall.SIGKILL)
	if _, err := cl.Put(b.ctx, "kv/two", []byte("of three")); err != nil {
		t.Fatal(err)
	}
	b.start(2)
	b.signing(0, 1, 2)
	b.signedBy("n3")
	after, now := b.rosterNode("n3")
	if after.Key == before.Key || after.AK != before.AK || now <= sequence {
		t.Errorf("roster %d has %v for n3, roster %d %v", sequence, before, now, after)
	}
	b.cleanRestart()
	late, err := cl.Put(b.ctx, "kv/late", []byte("2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range []uint64{0, early.GetLeaf(), late.GetLeaf()} {
		text, _, err := cl.Receipt(b.ctx, leaf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := receipt.NewVerifier(b.digest).Verify(text); err != nil { // offline, from the digest alone
			t.Errorf("leaf %d: %v", leaf, err)
		}
	}
	b.oldKeys()
}

// cleanRestart closes n1 in order: the TPM's record lets it come back under its raft id,
// and it has a new signing key all the same.
func (b *bed) cleanRestart() {
	b.t.Helper()
	before, _ := b.rosterNode("n1")
	if err := b.end(0, syscall.SIGTERM); err != nil {
		b.t.Error(err)
	}
	record, err := os.ReadFile(filepath.Join(b.nodes[0].dir, "shutdown"))
	if err != nil || !strings.HasPrefix(string(record), "keystead-shutdown/1\n") {
		b.t.Errorf("no record by the TPM: %v, %.20q", err, record)
	}
	b.start(0)
	b.signing(0, 1, 2)
	b.signedBy("n1")
	b.until(0, "its raft id", func(s *apiv1.StatusResponse) bool {
		return slices.ContainsFunc(s.GetPeers(), func(p *apiv1.Peer) bool { return p.GetName() == "n1" && p.GetRaftId() == 1 })
	})
	if after, _ := b.rosterNode("n1"); after.Key == before.Key {
		b.t.Error("n1 signs by the key of its last start")
	}
}

// oldKeys hands in what the founding keys sign.
func (b *bed) oldKeys() {
	b.t.Helper()
	cl := b.client("")
	tick, err := ledger.TickEntry([]ledger.SignedTick{ledger.NewTick(b.first[2], "n3", b.digest, uint64(time.Now().UnixMilli()), [32]byte{1})})
	if err != nil {
		b.t.Fatal(err)
	}
	to, err := client.OpenContact(b.file.Contacts[0])
	if err != nil {
		b.t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: client.PinnedTLS(to.TLS, nil), ForceAttemptHTTP2: true}}
	_, err = apiv1connect.NewDomainServiceClient(h, to.API).Tick(b.ctx, connect.NewRequest(&apiv1.TickRequest{Tick: tick}))
	demand(b.t, "a tick signed by the key of before", refusal.Decode(err), keystead.ReasonSignatureInvalid)
	v, err := cl.Show(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	change := receipt.Change{Domain: v.Domain, Sequence: v.Sequence + 1, After: v.Entry, Rekey: true, Roster: v.Roster}
	change.Roster.Nodes = slices.Clone(change.Roster.Nodes)
	for i := range change.Roster.Nodes {
		change.Roster.Nodes[i].Key = b.first[i].Public()
	}
	text, err := change.Text()
	if err != nil {
		b.t.Fatal(err)
	}
	note := append(slices.Clone(text), '\n')
	for i, n := range v.Roster.Nodes {
		note = receipt.AppendSignature(note, receipt.Node{Name: n.Name, Key: b.first[i].Public()}, b.first[i].Sign(text))
	}
	entry, err := receipt.NoteEntry(note)
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = cl.Submit(b.ctx, entry, nil)
	demand(b.t, "the keys of before, by signatures of the keys of before", err, keystead.ReasonMajorityMissing)
}

// TestForeignMachines knocks at the nodes' doors with a node's keys from other machines,
// and as a node that was removed.
func TestForeignMachines(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	stranger := b.machine("stranger")
	n1, n3 := b.nodes[0].place, b.nodes[2]

	// The directory of n3, copied to another machine of the same make.
	clone := filepath.Join(b.dir, "clone")
	if out, err := exec.CommandContext(b.ctx, "cp", "-a", n3.dir, clone).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, door := range []string{n1.Peer, n1.API} {
		demand(t, "a cloned disk at "+door, b.knock(door, clone, stranger), keystead.ReasonKeyForeign)
	}
	c := &process{place: n3.place, dir: clone}
	c.place.TPM = filepath.Join(stranger.Dir, "tpm")
	b.rewrite(c, n3.place.TPM, c.place.TPM)
	b.refuses(c, "key-foreign: TPM at "+c.place.TPM+": want the attestation key of node n3")

	// A machine of the same make that is nobody here.
	nobody := filepath.Join(b.dir, "nobody")
	if _, err := node.NewIdentity(b.ctx, nobody, stranger.Device()); err != nil {
		t.Fatal(err)
	}
	demand(t, "a stranger at the peers' door", b.knock(n1.Peer, nobody, stranger), keystead.ReasonNotMember)
	err := b.knock(n1.API, nobody, stranger)
	demand(t, "a stranger at the API", err, keystead.ReasonHostUnenrolled)
	if !strings.Contains(err.Error(), "hardware identity sha256:") {
		t.Errorf("the refusal names no hardware identity: %v", err)
	}

	// A node with its own machine, after members removed it.
	if err := b.knock(n1.API, n3.dir, b.machines[2]); err != nil {
		t.Errorf("a node: %v", err)
	}
	b.changeRoster(b.ctx, b.client(""), nil, func(r *receipt.Roster) {
		r.Nodes = slices.DeleteFunc(slices.Clone(r.Nodes), func(n receipt.Node) bool { return n.Name == "n3" })
	})
	b.whole(0, 1)
	for _, door := range []string{n1.Peer, n1.API} {
		demand(t, "a removed node at "+door, b.knock(door, n3.dir, b.machines[2]), keystead.ReasonNotMember)
	}
}

// rewrite replaces a word in a node's configuration.
func (b *bed) rewrite(p *process, old, with string) {
	b.t.Helper()
	path := filepath.Join(p.dir, node.ConfigFile)
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		b.t.Fatalf("%s has no %s (%v)", path, old, err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, with)), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// refuses starts a node that must not start, and wants it to say why.
func (b *bed) refuses(p *process, why string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.ctx, os.Args[0])
	cmd.Env = append(os.Environ(), nodeEnv+"="+filepath.Join(p.dir, node.ConfigFile))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), why) {
		b.t.Errorf("%s ended with %v and does not say %q:\n%s", p.dir, err, why, out)
	}
}

// TestAlteredNode has a node run an altered file of a package: the others let it take
// part no longer, for that file and package, and go on without it.
func TestAlteredNode(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	from := []int{len(b.log(0)), 0, len(b.log(2))}
	if _, err := b.machines[1].Advance(b.ctx); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 2} {
		b.says(i, from[i], "file-altered", "/usr/bin/whoami", "coreutils")
	}
	b.until(1, "nobody speaks to it", func(s *apiv1.StatusResponse) bool { return s.GetLeader() == "" })
	cl := b.client("n1")
	o, err := cl.Put(b.ctx, "kv/without", []byte("n2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cl.Receipt(b.ctx, o.GetLeaf()); err != nil {
		t.Error(err)
	}
	demand(t, "the altered node at the API", b.knock(b.nodes[0].place.API, b.nodes[1].dir, b.machines[1]), keystead.ReasonFileAltered)
	if _, err := b.client("n2").Read(b.ctx, true, "kv/without"); err != nil { // its own state, as it was
		t.Error(err)
	}
}

// TestKeptKeys founds a domain that trusts its disks: nodes keep their keys, sealed to
// their TPMs, and need those TPMs and the keys as they were to start.
func TestKeptKeys(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3, "trust-disks=true")
	_ = b.end(0, syscall.SIGKILL)
	b.start(0)
	b.signing(0, 1, 2)
	if n, sequence := b.rosterNode("n1"); n.Key != b.first[0].Public() || sequence != 0 {
		t.Errorf("roster %d has %v for n1", sequence, n)
	}
	b.signedBy("n1")

	if err := b.end(0, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	sealed := filepath.Join(b.nodes[0].dir, "node.sealed")
	good, err := os.ReadFile(sealed)
	if err != nil {
		t.Fatal(err)
	}
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(sealed, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bad := slices.Clone(good)
	bad[len(bad)-1] ^= 1
	write(bad)
	b.refuses(b.nodes[0], "denied: sealed-damaged: sealed blob")
	write(good[:100])
	b.refuses(b.nodes[0], "node.sealed: sealed: offset 87")
	other, err := os.ReadFile(filepath.Join(b.nodes[1].dir, "node.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	write(other)
	b.refuses(b.nodes[0], "denied: sealed-elsewhere: storage key")
	write(good)

	b.rewrite(b.nodes[0], b.nodes[0].place.TPM, b.nodes[0].place.TPM+"-gone")
	b.refuses(b.nodes[0], "-gone can not be opened")
	b.rewrite(b.nodes[0], b.nodes[0].place.TPM+"-gone", b.nodes[0].place.TPM)
	b.start(0)
	b.signing(0, 1, 2)
}

// TestAllStartAnew stops and starts all nodes of a domain: nobody is left to certify
// the new keys, and it stays closed until the member brings them in.
func TestAllStartAnew(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	_, sequence := b.rosterNode("n1")
	for i := range b.nodes {
		if err := b.end(i, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	for i := range b.nodes {
		b.start(i)
	}
	for i := range b.nodes {
		b.until(i, "a closed domain", func(s *apiv1.StatusResponse) bool {
			return strings.Contains(s.GetUnsigned(), "want signatures of 2 of 3 nodes") && s.GetLeader() != ""
		})
	}
	for i := range b.nodes {
		b.is(i, keystead.ReasonClosedRekey, "keystead node rekey CONTACT... --key KEY")
	}
	if _, now := b.rosterNode("n1"); now != sequence {
		t.Errorf("roster %d came in when nobody could sign one", now)
	}
	b.changeRoster(b.ctx, b.client(""), nil, func(r *receipt.Roster) {
		r.Nodes = slices.Clone(r.Nodes)
		for i := range r.Nodes {
			signed, err := os.ReadFile(filepath.Join(b.nodes[i].dir, "contact"))
			if err != nil {
				t.Fatal(err)
			}
			c, err := client.OpenContact(signed)
			if err != nil || c.AK != r.Nodes[i].AK || c.Key == (key.NodePublic{}) {
				t.Fatalf("%v, %v", c, err)
			}
			r.Nodes[i].Key = c.Key
		}
	})
	b.signing(0, 1, 2)
	b.signedBy("n2")
	for i := range b.nodes {
		b.metric(i, `keystead_closed{state="closed-rekey"} 0`)
	}
}

// TestJoinsUnderNewTerms changes the terms and the nodes while one of them is away, and
// has a machine become a node that knows the founding ones only: both learn by what,
// and whom, they are to judge.
func TestJoinsUnderNewTerms(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	_ = b.end(2, syscall.SIGKILL)
	b.lenient()
	for _, i := range []int{0, 1} { // as the founding terms do not allow
		if _, err := b.machines[i].Advance(b.ctx); err != nil {
			t.Fatal(err)
		}
	}
	b.start(2)
	b.signing(0, 1, 2)
	b.signedBy("n3")

	contact := b.node("n4")
	added, err := client.OpenContact(contact)
	if err != nil {
		t.Fatal(err)
	}
	b.changeRoster(b.ctx, b.client(""), contact, func(r *receipt.Roster) { r.Nodes = append(slices.Clone(r.Nodes), added.Node()) })
	b.enter(b.nodes[3])
	b.hurry(b.nodes[3])
	b.start(3)
	b.signing(0, 1, 2, 3)
	b.signedBy("n4")
}

// lenient has the member make terms for nodes that report what runs, and allow it.
func (b *bed) lenient() {
	b.t.Helper()
	text := strings.Replace(string(b.objects[1]), "name demo", "name lenient", 1)
	text = strings.Replace(text, "software every-entry", "software report", 1)
	cl := b.client("")
	digest, err := cl.PutObject(b.ctx, []byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	terms, err := admit.ParseTerms(b.objects[len(b.objects)-1])
	if err != nil {
		b.t.Fatal(err)
	}
	object := admit.Object{Domain: b.digest, Digest: digest, Kind: admit.ObjectPolicy}
	terms.Domain, terms.Policy = b.digest, digest
	b.decree(admit.TypeObject, digest.String(), object.Text)
	b.decree(admit.TypeTerms, admit.RoleNode, terms.Text)
}

// TestCertifyNode asks a node for its signature under a key: by another node, by nobody,
// and without the TPM whose key it would be. It gives it to the node itself.
func TestCertifyNode(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	fresh, err := key.NewNode(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v, err := b.client("").Show(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	change := receipt.Change{Domain: v.Domain, Sequence: v.Sequence + 1, After: v.Entry, Rekey: true, Roster: v.Roster}
	change.Roster.Nodes = slices.Clone(change.Roster.Nodes)
	change.Roster.Nodes[2].Key = fresh.Public()
	ask := func(as int) error {
		t.Helper()
		text, err := change.Text()
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.dial(b.nodes[0].place.API, b.nodes[as].dir, b.machines[as])
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.nodeService(c).CertifyNode(b.ctx, connect.NewRequest(&apiv1.CertifyNodeRequest{Change: text}))
		if err != nil {
			return refusal.Decode(err)
		}
		if n, _ := v.Roster.Node("n1"); r.Msg.GetNode() != "n1" || !n.Key.Verify(text, key.NodeSignature(r.Msg.GetSignature())) {
			t.Errorf("%v is no signature of n1", r.Msg)
		}
		return nil
	}
	demand(t, "a key that no TPM certified", ask(2), keystead.ReasonEvidenceMissing)
	certify := func(by int) {
		t.Helper()
		cert, err := b.machines[by].Device().Certify(b.ctx, receipt.KeyBinding(v.Domain, v.Entry, "n3", fresh.Public()), collect.AKECC, nil)
		if err != nil {
			t.Fatal(err)
		}
		change.Certificates = []receipt.Certificate{{Node: "n3", Certification: cert}}
	}
	certify(1)
	demand(t, "a key that another node's TPM certified", ask(1), keystead.ReasonKeyForeign)
	certify(2)
	demand(t, "a key of n3, asked for by n2", ask(1), keystead.ReasonNotMember)
	if err := ask(2); err != nil {
		t.Errorf("a key of n3, asked for by n3: %v", err)
	}
	text, err := change.Text()
	if err != nil {
		t.Fatal(err)
	}
	to, err := client.OpenContact(b.file.Contacts[0])
	if err != nil {
		t.Fatal(err)
	}
	id, err := node.LoadIdentity(b.ctx, b.nodes[2].dir, b.machines[2].Device())
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: client.PinnedTLS(to.TLS, &id.TLS), ForceAttemptHTTP2: true}}
	_, err = apiv1connect.NewNodeServiceClient(h, to.API).CertifyNode(b.ctx, connect.NewRequest(&apiv1.CertifyNodeRequest{Change: text}))
	demand(t, "n3's TLS key without evidence", refusal.Decode(err), keystead.ReasonNotMember)
}

// TestNodeIsAlsoAHost enrols a node's machine as a host: it is what its TLS key says.
func TestNodeIsAlsoAHost(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	agent := filepath.Join(b.dir, "agent")
	if _, err := node.NewIdentity(b.ctx, agent, b.machines[1].Device()); err != nil {
		t.Fatal(err)
	}
	api := b.nodes[0].place.API
	demand(t, "a node's machine under another TLS key", b.knock(api, agent, b.machines[1]), keystead.ReasonHostUnenrolled)
	keys, err := prover(b.machines[1]).Introduce(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := tpm2.ParsePublic(keys.EKPublic)
	if err != nil {
		t.Fatal(err)
	}
	enrolment := admit.Enrolment{Domain: b.digest, Host: "both", Role: admit.RoleHost, EK: ek.Fingerprint()}
	b.decree(admit.TypeEnrolment, "both", enrolment.Text)
	for name, dir := range map[string]string{"host": agent, "node": b.nodes[1].dir} {
		b.eventually("the machine as a "+name, func() error { return b.knock(api, dir, b.machines[1]) })
	}
	demand(t, "a host at the peers' door", b.knock(b.nodes[0].place.Peer, agent, b.machines[1]), keystead.ReasonNotMember)
	b.signing(0, 1, 2)
	b.signedBy("n2")
}

// eventually tries until it works: another node may not show yet what one has told.
func (b *bed) eventually(what string, try func() error) {
	b.t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			b.t.Errorf("%s: %v", what, err)
			return
		}
	}
}

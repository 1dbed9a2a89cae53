package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// Files in a node's directory have a node of these tests lie: as leader it withholds
// suspensions from the member whose raft id one holds; of where it stands it says what is not so
// to the nodes that another names, or to all ("*"); in a snapshot that it sends it puts one
// word in the place of another ("OLD=NEW"); of its state it signs what is not so.
const (
	withholdFile = "lie-withhold"
	headFile     = "lie-head"
	removeFile   = "lie-remove"
	snapshotFile = "lie-snapshot"
	stateFile    = "lie-state"
)

// usurp has a node propose, by itself, that the member whose raft id a file in its directory
// holds is removed, and leaves what came of it beside that.
func usurp(ctx context.Context, n *node.Node, dir string) {
	for {
		b, err := os.ReadFile(filepath.Join(dir, removeFile))
		if id, _ := strconv.ParseUint(string(b), 10, 64); err == nil && id != 0 {
			err := n.ProposeMembers(ctx, replica.Change{Remove: []uint64{id}})
			_ = os.WriteFile(filepath.Join(dir, removeFile+".new"), fmt.Appendf(nil, "answer: %v", err), 0o600)
			_ = os.Rename(filepath.Join(dir, removeFile+".new"), filepath.Join(dir, removeFile))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond): // between two looks at a file
		}
	}
}

// lie has a node lie as the files in its directory say, from when they are there.
func lie(dir string, o *node.Options) {
	o.LieInMessages(func(t replica.Transport) replica.Transport { return &withholding{t, dir} })
	o.LieOfState(func(s *ledger.StateDigest) {
		if _, err := os.Stat(filepath.Join(dir, stateFile)); err == nil {
			s.Digest[0] ^= 0xff
		}
	})
	var mu sync.Mutex
	var index, size uint64 // up to which this node said what is so
	o.LieOfHead(func(to string, s heads.Statement, k *key.Node) heads.Statement {
		b, _ := os.ReadFile(filepath.Join(dir, headFile))
		mu.Lock()
		defer mu.Unlock()
		if string(b) == "*" && to != "a client" && (s.Log.Index <= index || s.Tree.Size <= size) { // or this lie would contradict what it said before
			return s
		}
		if string(b) != to && string(b) != "*" {
			index, size = max(index, s.Log.Index), max(size, s.Tree.Size)
			return s
		}
		s.Log.Hash[0] ^= 0xff
		s.Tree.Root[0] ^= 0xff
		return heads.New(k, s.Node, s.Log, s.Tree)
	})
}

// withholding is a transport that sends one member another log: where an entry carries a
// suspension, it has nothing.
type withholding struct {
	replica.Transport
	dir string
}

func (w *withholding) Send(ms []*pb.Message) {
	victim, _ := os.ReadFile(filepath.Join(w.dir, withholdFile))
	id, _ := strconv.ParseUint(string(victim), 10, 64)
	out := make([]*pb.Message, len(ms))
	for i, m := range ms {
		out[i] = m
		if m.GetTo() != id || m.GetType() != pb.MsgApp {
			continue
		}
		m = proto.Clone(m).(*pb.Message)
		for _, e := range m.GetEntries() {
			if bytes.Contains(e.GetData(), receipt.Header(receipt.KindSuspension)) && bytes.Contains(e.GetData(), []byte("file-altered")) {
				e.Data = fence(e.GetData())
			}
		}
		out[i] = m
	}
	w.Transport.Send(out)
}

// fence is an entry of the same origin and number, without commands.
func fence(data []byte) []byte { return data[:1+2*binary.Size(uint64(0))] }

func (c *cluster) lies(i int, file, content string) {
	c.t.Helper()
	path := filepath.Join(c.nodes[i].dir, file)
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
		c.t.Fatal(err)
	}
}

// raftID returns the raft id of a node, as another sees it.
func (c *cluster) raftID(of int) string {
	for _, p := range c.until(of, "members", func(s *apiv1.StatusResponse) bool { return len(s.GetPeers()) == len(c.nodes) }).GetPeers() {
		if p.GetName() == c.nodes[of].place.Name {
			return strconv.FormatUint(p.GetRaftId(), 10)
		}
	}
	c.t.Fatal("no raft id")
	return ""
}

// ready asks a node's operator's page, and returns what it says while the node is not ready.
func (c *cluster) ready(i int) (string, error) {
	c.t.Helper()
	r, err := http.Get("http://" + c.nodes[i].place.Ops + "/readyz")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if r.StatusCode == http.StatusOK {
		return "", err
	}
	return string(b), err
}

// TestWithheldSuspension: the leader sends one follower a log without a suspension, and
// everything else: its clock is fresh and its tree consistent, and it would go on granting
// for ever. It finds out by the other follower's head, and grants nothing; the other two,
// of whom one lies, go on, for they have one log.
func TestWithheldSuspension(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	web, _ := f.admitted("web")
	web.everywhere()
	leader := f.leader(0)
	victim, honest := (leader+1)%3, (leader+2)%3
	name := func(i int) string { return f.nodes[i].place.Name }
	f.lies(leader, withholdFile, f.raftID(victim))
	web.goBad()
	bad := f.hostOn("web", web.rig)
	bad.phase = web.phase
	_, err := bad.at(name(honest), f.contacts()[name(honest)]).Nonce(f.ctx)
	demand(t, "the host, gone bad", err, keystead.ReasonFileAltered)
	f.until(honest, "the suspension", func(*apiv1.StatusResponse) bool {
		_, err := web.at(name(honest), f.contacts()[name(honest)]).IssueSVID(f.ctx, "web")
		return errors.Is(err, keystead.ReasonLeaseSuspended)
	})
	suspended := time.Now()
	for {
		_, err = web.at(name(victim), f.contacts()[name(victim)]).IssueSVID(f.ctx, "web")
		if errors.Is(err, keystead.ReasonLedgerForked) {
			break
		}
		if errors.Is(err, keystead.ReasonLeaseSuspended) {
			t.Fatal("the lie had no effect: the deceived node knows of the suspension")
		}
		if time.Since(suspended) > patience {
			t.Fatalf("the deceived node still answers: %v", err)
		}
	}
	found := time.Since(suspended)
	t.Logf("the deceived node grants nothing %v after the others knew of the suspension", found)
	if most := (heads.Fresh + 2000) * time.Millisecond; found > most {
		t.Errorf("that took %v, more than %v", found, most)
	}
	resp, err := f.ready(victim)
	if err != nil || !strings.Contains(resp, string(keystead.ReasonLedgerForked)) {
		t.Errorf("the deceived node is ready: %q, %v", resp, err)
	}
	good := f.host("db") // admitted by the two others
	if err := f.enrol("db", good.ek); err != nil {
		t.Fatal(err)
	}
	demand(t, "the deceived node, asked by a host that comes", good.connect(), keystead.ReasonLedgerForked)
	bundle, tick, err := good.answer(evidence.PurposeAdmission)
	if err == nil {
		_, err = good.api.Admit(f.ctx, &apiv1.AdmitRequest{Host: "db", Bundle: bundle, Tick: tick})
	}
	if err == nil {
		_, err = good.renew()
	}
	if err != nil {
		t.Errorf("the others go on: %v", err)
	}
}

// TestMadeUpHead: one node of three says to all that its log and tree are others. The
// domain goes on, with receipts; and as the two others, of whom one does not answer, it
// closes, for then no majority stands where it does.
func TestMadeUpHead(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	c.lies(2, headFile, "*")
	h := c.load(4, 3, 1)
	time.Sleep(2 * heads.Fresh * time.Millisecond) // as long as agreement lasts, twice: what was said before the lie counts no more
	for i := range 2 {
		s := c.until(i, "open", func(s *apiv1.StatusResponse) bool { return s.GetFresh() && s.GetUnsigned() == "" })
		if len(s.GetProvenBad()) > 0 {
			t.Errorf("%s: one made-up head proves %v", s.GetNode(), s.GetProvenBad())
		}
	}
	h.finish(t)
	c.signal(1, syscall.SIGSTOP)
	defer c.signal(1, syscall.SIGCONT)
	c.until(0, "closed", func(s *apiv1.StatusResponse) bool {
		return !s.GetFresh() && strings.Contains(s.GetUnsigned(), string(keystead.ReasonLedgerForked))
	})
	cl := c.client("n1")
	within := func(do func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // for a client that tries again and again
		defer cancel()
		return do(ctx)
	}
	demand(t, "a write", within(func(ctx context.Context) error { _, err := cl.Put(ctx, "kv/closed", []byte("x")); return err }), keystead.ReasonLedgerForked)
	demand(t, "a linearizable read", within(func(ctx context.Context) error { _, err := cl.Read(ctx, false, "kv/closed"); return err }), keystead.ReasonLedgerForked)
	if err := within(func(ctx context.Context) error { _, err := cl.Read(ctx, true, "kv/closed"); return err }); err != nil {
		t.Errorf("a read of what the node has, which claims nothing: %v", err)
	}
}

// TestTwoStories: a node tells another that its log is another, and the third the truth.
// They compare what they were told: it is proven bad by its own signatures, leads nothing,
// and what it signs counts no more; the two others go on. The proof outlives a restart.
func TestTwoStories(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback, "trust-disks=true")
	c.startAll()
	c.whole(0, 1, 2)
	bad := c.leader(0)
	a, b := (bad+1)%3, (bad+2)%3
	c.lies(bad, headFile, c.nodes[a].place.Name)
	proven := func(s *apiv1.StatusResponse) bool {
		return len(s.GetProvenBad()) == 1 && strings.Contains(s.GetProvenBad()[0], "node "+c.nodes[bad].place.Name) && s.GetFresh() && s.GetUnsigned() == ""
	}
	began := time.Now()
	for _, i := range []int{a, b} {
		s := c.until(i, "the liar proven bad, another leading", func(s *apiv1.StatusResponse) bool {
			return proven(s) && s.GetLeader() != "" && s.GetLeader() != c.nodes[bad].place.Name
		})
		t.Logf("%s: %v after the lie began: %s", s.GetNode(), time.Since(began), s.GetProvenBad()[0])
	}
	if err := c.end(a, syscall.SIGTERM); err != nil {
		t.Errorf("a clean shutdown ended with %v", err)
	}
	c.start(a)
	c.until(a, "the proof after a restart", proven)
}

// TestClientsCompareHeads: a client asks every node to sign the tree of one size, and names
// the one that signs another.
func TestClientsCompareHeads(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	cl := c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	audit, err := cl.Audit(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	stands, err := cl.Stands(ctx, audit.Head)
	if err != nil || len(stands) != 3 {
		t.Fatalf("an honest domain: %v, %v", stands, err)
	}
	for _, s := range stands {
		if s.Err != nil {
			t.Errorf("%s: %v", s.Node, s.Err)
		}
	}
	c.lies(1, headFile, "*")
	_, err = cl.Stands(ctx, audit.Head)
	var deny *keystead.DenyError
	if !errors.As(err, &deny) || len(deny.Findings) != 1 || deny.Findings[0].Reason != keystead.ReasonLedgerForked || deny.Findings[0].Where != "node n2" {
		t.Errorf("one that signs another tree: want ledger-forked of node n2, got %v", err)
	}
	if err := c.end(2, syscall.SIGKILL); err == nil {
		t.Fatal("a killed node ended well")
	}
	c.lies(1, headFile, "nobody")
	stands, err = cl.Stands(ctx, audit.Head)
	if err != nil || len(stands) != 3 || stands[2].Err == nil || stands[0].Err != nil || stands[1].Err != nil {
		t.Errorf("one that can not be reached is listed, and not against it: %v, %v", stands, err)
	}
}

// TestUsurper: one node of three, be it the leader, proposes that an honest one is removed from
// the replica. All refuse it, and the domain stays whole.
func TestUsurper(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	bad := c.leader(0)
	victim := (bad + 1) % 3
	c.lies(bad, removeFile, c.raftID(victim))
	var answer []byte
	for end := time.Now().Add(patience); !bytes.HasPrefix(answer, []byte("answer: ")) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // between two looks at a file
		answer, _ = os.ReadFile(filepath.Join(c.nodes[bad].dir, removeFile))
	}
	if !bytes.Contains(answer, []byte(keystead.ReasonChangeUnexplained)) {
		t.Errorf("want change-unexplained, got %s", answer)
	}
	c.whole(0, 1, 2)
}

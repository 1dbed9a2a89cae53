// Package parttest runs a part of a node on the real state machine of the ledger, in memory:
// without raft, a network, a disk or a clock. What the part proposes is applied at once, what it
// has decided is judged by its own judges and endorsed by as many nodes as a test likes, and what
// it did not declare is refused as a node does.
//
// It trusts the test. Nothing here is for production.
package parttest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/serve"
)

// A Bench is a ledger with one part on it, as on the first of its nodes.
type Bench struct {
	Part     part.Part
	Declared part.Declaration
	Member   key.Member // the only one
	API      *httptest.Server

	// What a test may change.
	Endorse int                                      // how many of the nodes endorse what the part's judges conclude
	Closed  error                                    // why the node may not grant or sign now; nil: it may
	Objects map[keystead.Digest][]byte               // that are here
	Host    func(host string) (*part.Granted, error) // who has a lease; nil: nobody

	t       testing.TB
	domain  keystead.Digest
	nodes   []*key.Node
	names   []string
	dir     string
	running context.Context
	tasks   sync.WaitGroup
	log     sync.Mutex // one entry after the other, and the part told of it

	mu      sync.Mutex // what follows
	state   *memory
	machine *ledger.Machine
	index   uint64
	grown   chan struct{}
}

// New founds a ledger of so many nodes, and starts a part on it. The test's end closes it.
func New(t testing.TB, p part.Part, nodes int) *Bench {
	t.Helper()
	b := &Bench{Part: p, Endorse: nodes, Objects: map[keystead.Digest][]byte{}, t: t, dir: t.TempDir(), state: newMemory(), grown: make(chan struct{})}
	var err error
	if b.Member, err = key.NewMember(rand.Reader, "member"); err != nil {
		t.Fatal(err)
	}
	r := receipt.Roster{Threshold: 1, Members: []key.MemberPublic{b.Member.Public()}}
	for i := range nodes {
		k, err := key.NewNode(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("n%d", i+1)
		b.nodes, b.names = append(b.nodes, k), append(b.names, name)
		r.Nodes = append(r.Nodes, receipt.Node{Name: name, Key: k.Public()})
	}
	text, err := (&receipt.Genesis{Name: "parttest", Created: uint64(time.Now().UnixMilli()), Settings: []string{"evidence=none"}, Roster: r}).Text()
	if err != nil {
		t.Fatal(err)
	}
	note, err := b.Member.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	genesis, err := receipt.NoteEntry(note)
	if err != nil {
		t.Fatal(err)
	}
	b.domain = keystead.Sum(genesis)
	if b.machine, err = ledger.Open(b.state, b.domain); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Apply(genesis); err != nil {
		t.Fatal(err)
	}
	p.Declare(&b.Declared)
	for _, x := range b.Declared.Procedures {
		if err := serve.Check(&x); err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	return b
}

func (b *Bench) start() {
	var stop context.CancelFunc
	b.running, stop = context.WithCancel(context.Background())
	b.t.Cleanup(func() {
		stop()
		b.tasks.Wait()
		if err := b.Part.Close(); err != nil {
			b.t.Error(err)
		}
	})
	if err := b.Part.Start(b.running, host{b}); err != nil {
		b.t.Fatal(err)
	}
	b.API = httptest.NewServer(serve.New(b.Declared.Procedures, serve.Options{InFlight: 64, Timeout: 10 * time.Second}))
	b.t.Cleanup(b.API.Close)
}

// Apply applies an entry as a log of its own would, and tells the part.
func (b *Bench) Apply(entry []byte) (ledger.Result, error) {
	b.log.Lock()
	defer b.log.Unlock()
	b.mu.Lock()
	b.index++
	w := newBatch()
	a, err := b.machine.Apply([]ledger.Committed{{Index: b.index, Term: 1, Data: entry}}, w)
	if err != nil {
		b.mu.Unlock()
		return ledger.Result{}, err
	}
	b.state.commit(w)
	batch := part.Batch{Size: b.machine.Size(), Clock: b.machine.Clock()}
	b.mu.Unlock()
	r := a.Results[0]
	if r.Err == nil {
		batch.Entries = b.Declared.Seen([]part.Applied{{Kind: r.Kind, Leaf: r.Leaf, Entry: entry}})
	}
	b.Part.Applied(batch)
	b.mu.Lock()
	close(b.grown)
	b.grown = make(chan struct{})
	b.mu.Unlock()
	return r, r.Err
}

// View calls read with the state of now.
func (b *Bench) View(read func(ledger.View) error) error {
	b.mu.Lock()
	s := b.state.clone()
	b.mu.Unlock()
	return read(ledger.NewView(s))
}

// Decide has the part's judges judge a proposal, whoever hands it in: members, or the part.
func (b *Bench) Decide(ctx context.Context, p *ledger.Proposal) (part.Outcome, error) {
	i := slices.IndexFunc(b.Declared.Judges, func(t part.JudgedType) bool { return t.Type == p.Type })
	if i < 0 {
		return part.Outcome{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonPolicyUnusable, Where: "proposal", Want: "a type that this build judges", Got: p.Type})
	}
	roster, _ := hostState{b}.Roster()
	if judged := &b.Declared.Judges[i]; judged.Statement != "" { // as a node does, before the log has it
		if _, err := judged.Open(p.Content, roster.Members...); err != nil {
			return part.Outcome{}, err
		}
	}
	entry, err := p.Entry()
	if err != nil {
		return part.Outcome{}, err
	}
	if _, err := b.Apply(entry); err != nil {
		return part.Outcome{}, err
	}
	v, err := ledger.NewVerdict(entry)
	if err != nil {
		return part.Outcome{}, err
	}
	h := &part.Hearing{Roster: &roster, Domain: b.domain, Proposal: p, Read: b.View, Object: hostPeers{b}.Object}
	if err := b.Declared.Judges[i].Judge(ctx, h, &v); err != nil {
		return part.Outcome{}, err
	}
	var endorsed []ledger.Endorsement
	for i, k := range b.nodes[:b.Endorse] {
		endorsed = append(endorsed, ledger.Endorse(k, b.names[i], b.domain, &v))
	}
	if entry, err = ledger.NewEffective(&v, endorsed).Entry(); err != nil {
		return part.Outcome{}, err
	}
	r, err := b.Apply(entry)
	return part.Outcome{Applied: err == nil, Leaf: r.Leaf, ID: r.ID}, err
}

// Public returns the key by which the part's node signs.
func (b *Bench) Public() key.NodePublic { return b.nodes[0].Public() }

// Package domain runs a whole domain under one seed, with one host that lies: simulated
// hosts (package sim) whose state machine is the real ledger, each with a node key, that
// do in simulated time what package node does with the pure cores. They sign ticks and
// checkpoints, show each other their heads (ledger/heads), suspend leases, and grant what
// the gate, the clock, a linearizable read and their own state allow.
//
// One host may lie: see [Lie]. An observer that no host can see compares what honest
// hosts applied, and fails the run when one of them signs, grants or reads what it should
// not, when an honest host is proven bad, when a liar that told two stories is not, and when
// a domain closes for one liar.
//
// What is real: raft, the loop, the store, the ledger, heads, signatures and receipts.
// What is simulated: time, network, disks, clocks, and the glue of package node, which
// stands here in short.
package domain

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
)

const epoch = 1_790_000_000_000 // Unix milliseconds when a simulation begins

// A Defect switches a defence off, to prove that the simulation finds it out.
type Defect int

// The defects of the glue. Those of replica are in replica/internal/defect.
const (
	None   Defect = iota
	NoGate        // nodes sign and grant whoever agrees
	Gossip        // what another handed on counts as agreement
	NoShun        // a node that is proven bad still leads and votes

	OneVoucher  // a snapshot is taken in at one node's word
	Unconfirmed // a state that was opened is acted on at once
	OneWord     // one node's digest stands for a majority's
	OneAnswer   // the first who gives a fresh id is believed
	OldKey      // who was led astray comes back under the key by which it signed that
	NoVouch     // nobody says to what state it came
)

// Options shape a run.
type Options struct {
	Seed    uint64
	Nodes   int
	Lies    []Lie // of the last node; none: all are honest
	Crashes bool  // honest hosts crash now and then
	Forget  bool  // who crashed comes back under a fresh id, without its state
	Evict   bool  // after a fork, members evict the liar and have whom it led astray begin anew
	Defect  Defect
	Trace   io.Writer
	End     time.Duration // of the troubles; they begin when the domain stands
}

// A Result is what came of a run.
type Result struct {
	Err       error
	Acked     int             // puts that honest hosts acknowledged
	Receipts  int             // of those, proven by a receipt
	Grants    int             // by honest hosts
	Forks     int             // pairs of honest hosts that came to differ
	Convicted int             // honest hosts that proved the liar bad
	Detected  []time.Duration // from when a host stood with a minority of honest hosts until its gate closed
	Proved    []time.Duration // from when two honest hosts differed until the liar was proven bad
	Forged    int             // pairs of receipts for two trees of one size
	Stopped   []string        // why honest hosts stopped
	Returned  int             // honest hosts that were led astray, began anew, and signed again
	Rejoined  int             // honest hosts that came back without a state
	Taken     int             // snapshots that they took in
	Refused   int             // and that they did not
	Lies      map[Lie]int     // how often each was told
}

// Domain is a run.
type Domain struct {
	opts   Options
	c      *sim.Cluster
	rng    *rand.Rand
	id     keystead.Digest
	member key.Member
	roster receipt.Roster
	nodes  []*Node
	byName map[string]*Node
	byKey  map[keystead.Digest]*Node
	liar   *liar // nil if all are honest
	checks map[string]bool
	observer
	eviction
	clients
	Result
}

// fixed is randomness that is the same in every run.
func fixed(name string, seed uint64) io.Reader {
	return rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, name, seed)))
}

// Run runs a domain to its end.
func Run(opts Options) Result {
	d := &Domain{opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x646f6d)), byName: map[string]*Node{}, byKey: map[keystead.Digest]*Node{}, checks: map[string]bool{}}
	d.observer.init()
	d.clients.init()
	if err := d.open(); err != nil {
		return Result{Err: err}
	}
	defer d.close()
	d.found()
	if d.c.Err() == nil {
		d.trouble()
	}
	d.Result.Err = d.c.Err()
	return d.Result
}

func (d *Domain) open() (err error) {
	genesis := receipt.Genesis{Name: "simulated", Created: epoch, Settings: []string{"entry-version=4", "evidence=none", "lease-seconds=600", "trust-disks=" + strconv.FormatBool(!d.opts.Forget)}}
	if d.member, err = key.NewMember(fixed("member", d.opts.Seed), "ada"); err != nil {
		return err
	}
	d.roster.Threshold, d.roster.Members = 1, []key.MemberPublic{d.member.Public()}
	for i := range d.opts.Nodes {
		n := &Node{d: d, name: fmt.Sprintf("n%d", i+1), honest: i+1 < d.opts.Nodes || len(d.opts.Lies) == 0, random: rand.New(rand.NewPCG(d.opts.Seed, uint64(i)))}
		if n.key, err = key.NewNode(fixed(n.name, d.opts.Seed)); err != nil {
			return err
		}
		d.nodes, d.byName[n.name] = append(d.nodes, n), n
		d.roster.Nodes = append(d.roster.Nodes, receipt.Node{Name: n.name, Key: n.key.Public()})
	}
	genesis.Roster = d.roster
	text, err := genesis.Text()
	if err == nil {
		text, err = d.member.Sign(text)
	}
	if err != nil {
		return err
	}
	if d.genesis, err = receipt.NoteEntry(text); err != nil {
		return err
	}
	d.id = keystead.Sum(d.genesis)
	options := sim.Options{Seed: d.opts.Seed, Founders: d.opts.Nodes, TrustDisks: !d.opts.Forget, Trace: d.opts.Trace, RetainBytes: 8 << 20,
		Position: d.positions(), Others: d.opts.Nodes - 1, Joined: d.joined,
		Machine: func() replica.StateMachine { return &machine{id: d.id, suspended: map[string]bool{}} },
		Faults:  sim.Faults{Loss: 0.01, Double: 0.01, MaxDelay: 8 * time.Millisecond, MaxWrite: 3 * time.Millisecond, Drift: 0.02}}
	if d.opts.Defect == OneAnswer {
		options.Others = 0
	}
	if len(d.opts.Lies) > 0 {
		d.liar = newLiar(d)
		options.Tamper, options.Stopped = d.liar.tamper, d.stopped
		options.TamperState, options.TamperJoin = d.liar.tamperState, d.liar.tamperJoin
	}
	if d.c, err = sim.New(options); err != nil {
		return err
	}
	for i, h := range d.c.Hosts() {
		d.nodes[i].host, d.byKey[h.Key] = h, d.nodes[i]
	}
	return nil
}

func (d *Domain) close() {
	if d.liar != nil {
		d.liar.end()
	}
	d.c.Close()
}

// verifies checks a statement's signature, each once.
func (d *Domain) verifies(s *heads.Statement, k key.NodePublic, raw []byte) bool {
	id := string(raw) + string(k[:])
	ok, known := d.checks[id]
	if !known {
		ok = s.Verify(k, d.id)
		d.checks[id] = ok
	}
	return ok
}

// found begins the ledger, and admits some subjects.
func (d *Domain) found() {
	if !d.c.Run(20*time.Second, func() bool { return d.c.Leader() != nil }) {
		d.c.Fail("no leader")
		return
	}
	d.enter(d.genesis)
	d.loops()
	for i := range 4 {
		subject := fmt.Sprintf("web-%d", i+1)
		d.subjects = append(d.subjects, subject)
		e := admit.Enrolment{Domain: d.id, Host: subject, Role: admit.RoleHost, EK: keystead.Sum([]byte(subject))}
		text, err := e.Text()
		if err != nil {
			d.c.Fail("enrolment: %v", err)
			return
		}
		version := d.effect(admit.TypeEnrolment, subject, ledger.Write{Key: admit.EnrolmentPrefix + subject, Value: text},
			ledger.Write{Key: "enrolment/identity/" + e.EK.String(), Value: []byte(subject)})
		r := admit.Record{Issued: epoch, Until: epoch + 600_000, Role: admit.RoleHost, EK: e.EK, SubjectKey: []byte("key"), Enrolment: version}
		d.effect(admit.TypeLease, subject, ledger.Write{Key: admit.LeaseKey(subject), Value: r.Bytes()})
	}
	if !d.c.Run(10*time.Second, func() bool { return d.all(func(n *Node) bool { return n.up() && n.store != nil && n.fresh() == nil }) }) {
		d.c.Fail("the domain does not come to stand")
	}
}

func (d *Domain) all(is func(*Node) bool) bool {
	for _, n := range d.nodes {
		if !is(n) {
			return false
		}
	}
	return true
}

// loops has every node, and the observer, do what they do.
func (d *Domain) loops() {
	for _, n := range d.nodes {
		var loop func()
		loop = func() {
			n.step()
			d.c.After(stepEvery, loop)
		}
		d.c.After(time.Duration(n.random.IntN(25))*time.Millisecond, loop)
	}
	var watch func()
	watch = func() {
		d.observe()
		d.c.After(2*stepEvery, watch)
	}
	watch()
}

// enter has an entry applied, before there are any troubles.
func (d *Domain) enter(entry []byte) (out ledger.Result) {
	done := false
	d.c.Leader().Propose(entry, func(raw []byte, err error) {
		if err == nil {
			out, err = ledger.ParseResult(raw)
		}
		if err == nil {
			err = out.Err
		}
		if err != nil {
			d.c.Fail("founding: %v", err)
		}
		done = true
	})
	if !d.c.Run(20*time.Second, func() bool { return done }) {
		d.c.Fail("founding: not applied")
	}
	return out
}

// effect makes writes effective, endorsed by a majority.
func (d *Domain) effect(kind, subject string, writes ...ledger.Write) uint64 {
	p := ledger.Proposal{Type: kind, Subject: subject}
	if _, err := io.ReadFull(fixed(kind+subject, d.opts.Seed), p.ID[:]); err != nil {
		panic(err) // it never ends
	}
	raw, err := p.Entry()
	if err == nil {
		d.enter(raw)
		var v ledger.Verdict
		if v, err = ledger.NewVerdict(raw); err == nil {
			v.Writes = writes
			var endorsements []ledger.Endorsement
			for _, n := range d.nodes[:d.roster.Majority()] {
				endorsements = append(endorsements, ledger.Endorse(n.key, n.name, d.id, &v))
			}
			if raw, err = ledger.NewEffective(&v, endorsements).Entry(); err == nil {
				return d.enter(raw).Leaf + 1
			}
		}
	}
	d.c.Fail("founding: %v", err)
	return 0
}

// trouble lets clients work while a host lies and others crash, and then while it only lies.
func (d *Domain) trouble() {
	for range 3 {
		d.client()
	}
	if d.liar != nil {
		d.liar.begin()
	}
	if d.opts.Crashes {
		d.crashes()
	}
	d.calm = d.c.Now()
	d.end = d.c.Now() + d.opts.End
	d.c.Run(d.opts.End, nil)
	d.ended = true
	d.restart()
	d.c.Run(8*time.Second, nil)
	d.check()
}

// crashes has one honest host after another crash and come back.
func (d *Domain) crashes() {
	wait := 1000 + d.rng.IntN(4000)
	if d.opts.Forget {
		wait /= 4 // to come back takes longer than to start
	}
	d.c.After(time.Duration(wait)*time.Millisecond, func() {
		if d.ended {
			return
		}
		n := d.nodes[d.rng.IntN(len(d.nodes))]
		if n.host.Up() && d.all(func(n *Node) bool { return n.whole(d.c.Leader()) }) {
			d.calm = d.c.Now() + time.Hour
			n.host.Crash()
			d.c.After(time.Duration(d.rng.IntN(1500))*time.Millisecond, d.restart)
		}
		d.crashes()
	})
}

// whole reports whether the host may do without another: it votes, as the leader knows, and
// its state is confirmed.
func (n *Node) whole(leader *sim.Host) bool {
	if leader == nil || !n.up() || n.honest && n.machine().check() != nil {
		return false
	}
	m, mine := leader.Status().Members, n.host.Status().Members
	return !m.Joint() && len(m.Learners()) == 0 && slices.Equal(m.Voters(), mine.Voters())
}

// restart starts what is down.
func (d *Domain) restart() {
	for _, n := range d.nodes {
		if n.host.Up() || n.forsaken {
			continue
		}
		if err := n.host.Restart(); err != nil {
			d.c.Fail("%s: restart: %v", n.name, err)
		}
		d.calm = d.c.Now()
	}
}

// stopped hears that a host can not go on. An honest host that followed a lying leader
// may find its log in conflict with that of the others: it stops, and stays down.
func (d *Domain) stopped(h *sim.Host, why string) bool {
	n := d.byKey[h.Key]
	if !n.honest {
		d.c.After(500*time.Millisecond, d.restart)
		return true
	}
	if !d.liar.forks() {
		d.c.Fail("%s stops: %s", n.name, why)
		return false
	}
	d.Result.Stopped = append(d.Result.Stopped, fmt.Sprintf("%s: %.100s", n.name, why))
	n.forsaken = true
	return true
}

// model is a register for each key.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) (out [][]porcupine.Operation) {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			by[op.Input.(operation).key] = append(by[op.Input.(operation).key], op)
		}
		for _, k := range keys {
			out = append(out, by[k])
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(operation); in.put {
			return true, in.value
		}
		return output.(string) == state.(string), state
	},
}

// Package sim runs a whole group of replicas under one seed in one process: one
// thread of events over a simulated network, clocks that drift and jump, and disks
// that lose what was not synced. The same seed gives the same run, so a run that
// breaks an invariant is replayed by its number.
//
// What is real: raft, the loop ([replica.Core]), the store with its pebble, the
// snapshots' streams. What is simulated: time, the network, the disks, and the
// goroutines that [replica.Node] runs between them.
//
// Raft draws its election timeouts from crypto/rand.Reader; while a simulation
// runs, that is the seed's. So only one may run in a process at a time, and
// nothing there may need secrets.
package sim

import (
	"container/heap"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	randv2 "math/rand/v2"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Options shape a simulation.
type Options struct {
	Seed       uint64
	Founders   int
	TrustDisks bool                        // restart in place after a crash
	Machine    func() replica.StateMachine // a fresh one for each start of a host
	Faults     Faults
	Trace      io.Writer // what happens, a line each; nil drops it

	RetainBytes uint64 // log kept; small, so that snapshots are needed

	// Tamper, if set, is what a message between two hosts becomes on its way: a host that
	// lies sends and takes others than its core does.
	Tamper func(from, to *Host, m *pb.Message) []*pb.Message
	// TamperState, if set, is what the stream of a snapshot becomes on its way.
	TamperState func(from, to *Host, stream []byte) []byte
	// TamperJoin, if set, is the id that a host tells another which asks for one.
	TamperJoin func(from, to *Host, id uint64) uint64

	// Others is how many others a host has as its state machine knows them: a majority of
	// them must give it the same fresh id. With 0 the first answer counts.
	Others int
	// Joined, if set, hears of the id that a host goes on as, before it lets its state go.
	Joined func(h *Host, id uint64)

	// Position replaces what has to do with positions of a [KV], for another machine.
	Position *Positions

	// Stopped, if set, hears why a host can not go on, and says whether that is explained.
	Stopped func(h *Host, why string) bool
}

// Positions are what a state machine wants to know of positions and snapshots.
type Positions struct {
	Came    func(h *Host, header replica.StateHeader) // what a host came to at a position
	Wanted  func(h *Host)                             // a member needs a snapshot, and there is none
	Approve func(h *Host, header replica.StateHeader, proof []byte) error
}

// Faults say what goes wrong all the time. Crashes and partitions are calls.
type Faults struct {
	Loss, Double float64       // of messages
	Corrupt      float64       // of snapshots
	MaxDelay     time.Duration // of messages, so they overtake each other
	MaxWrite     time.Duration // of a disk's write
	Drift        float64       // of clocks, each way: 0.1 is ten percent
}

// A Cluster is a simulated group.
type Cluster struct {
	opts   Options
	rng    *randv2.Rand
	now    time.Duration
	events events
	seq    uint64
	cut    map[[2]*Host]bool // one way
	flying map[[2]*Host]int  // messages
	hosts  []*Host
	reader io.Reader // crypto/rand's own, to be put back
	err    error
}

const tick = 50 * time.Millisecond

// New starts the founders of a group. The caller calls Close.
func New(opts Options) (*Cluster, error) {
	if opts.RetainBytes == 0 {
		opts.RetainBytes = 2 << 10
	}
	c := &Cluster{opts: opts, rng: randv2.New(randv2.NewPCG(opts.Seed, 0x6b6579)), cut: map[[2]*Host]bool{}, flying: map[[2]*Host]int{}, reader: rand.Reader}
	rand.Reader = seeded{randv2.New(randv2.NewPCG(opts.Seed, 0x72616674))}
	var members []replica.Member
	for range opts.Founders {
		h := c.newHost()
		members = append(members, replica.Member{Key: h.Key, Address: h.Name})
	}
	for i, h := range c.hosts {
		if err := h.found(uint64(i+1), members); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// seeded is a source of bytes for raft.
type seeded struct{ r *randv2.Rand }

func (s seeded) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s.r.Uint32())
	}
	return len(b), nil
}

// Close ends the simulation.
func (c *Cluster) Close() {
	for _, h := range c.hosts {
		h.drop()
	}
	rand.Reader = c.reader
}

// Now returns the time since the simulation began.
func (c *Cluster) Now() time.Duration { return c.now }

// Rand is the seed's.
func (c *Cluster) Rand() *randv2.Rand { return c.rng }

// Hosts returns all hosts, also those that are down.
func (c *Cluster) Hosts() []*Host { return c.hosts }

// Err returns the first thing that no fault explains.
func (c *Cluster) Err() error { return c.err }

// Fail notes a broken invariant, and ends the run.
func (c *Cluster) Fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("at %v: %s", c.now, fmt.Sprintf(format, args...))
		c.trace(nil, "FAIL %v", c.err)
	}
}

// Trace notes a line of the transcript.
func (c *Cluster) Trace(format string, args ...any) { c.trace(nil, format, args...) }

func (c *Cluster) trace(h *Host, format string, args ...any) {
	if c.opts.Trace == nil {
		return
	}
	name := "--"
	if h != nil {
		name = h.Name
	}
	fmt.Fprintf(c.opts.Trace, "%7.3fs %s  %s\n", c.now.Seconds(), name, fmt.Sprintf(format, args...))
}

// An event is something that happens at a time.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// After does something when that much time has passed.
func (c *Cluster) After(d time.Duration, do func()) {
	c.seq++
	heap.Push(&c.events, event{c.now + d, c.seq, do})
}

// Run lets time pass until the condition holds, and reports whether it did
// within the limit. A nil condition never holds.
func (c *Cluster) Run(limit time.Duration, until func() bool) bool {
	end := c.now + limit
	for c.err == nil {
		if until != nil && until() {
			return true
		}
		if len(c.events) == 0 || c.events[0].at > end {
			c.now = end
			return false
		}
		e := heap.Pop(&c.events).(event)
		c.now = e.at
		e.do()
	}
	return false
}

// upTo returns a random duration up to and with max.
func (c *Cluster) upTo(max time.Duration) time.Duration {
	return time.Duration(c.rng.Int64N(int64(max) + 1))
}

func (c *Cluster) chance(p float64) bool { return p > 0 && c.rng.Float64() < p }

// Cut stops what from sends to to.
func (c *Cluster) Cut(from, to *Host) { c.cut[[2]*Host{from, to}] = true }

// Parted reports whether what from sends to to, or the other way, is cut.
func (c *Cluster) Parted(from, to *Host) bool {
	return c.cut[[2]*Host{from, to}] || c.cut[[2]*Host{to, from}]
}

// Isolate cuts the host off from all others.
func (c *Cluster) Isolate(h *Host) {
	c.trace(h, "is cut off")
	for _, o := range c.hosts {
		c.Cut(h, o)
		c.Cut(o, h)
	}
}

// Heal mends all cuts.
func (c *Cluster) Heal() {
	c.trace(nil, "the network is whole")
	clear(c.cut)
}

// AddHost adds a host that is in no group yet: see [Host.Restart].
func (c *Cluster) AddHost() *Host { return c.newHost() }

// Leader returns the host that leads in the highest term, or nil.
func (c *Cluster) Leader() *Host {
	var leader *Host
	var term uint64
	for _, h := range c.hosts {
		if s := h.Status(); s.State == raft.StateLeader && s.Term >= term {
			leader, term = h, s.Term
		}
	}
	return leader
}

// byID returns the host that has that raft id now.
func (c *Cluster) byID(id uint64) *Host {
	for _, h := range c.hosts {
		if h.core != nil && h.store.ID() == id {
			return h
		}
	}
	return nil
}

// key makes the digest of a key that the simulation has no use for.
func key(n int) keystead.Digest { return keystead.Sum(binary.BigEndian.AppendUint64(nil, uint64(n))) }

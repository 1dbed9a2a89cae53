package sim_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/internal/defect"
	"github.com/keystead/keystead/replica/sim"
)

var (
	seeds = flag.Int("seeds", 200, "how many seeds to run")
	first = flag.Uint64("seed", 1, "the first seed; with -seeds=1 its transcript is printed")
)

// TestChaos runs whole groups through crashes, cuts, full and rolled-back disks,
// stalls, clock jumps and changes of membership, and checks every invariant.
func TestChaos(t *testing.T) {
	var ops, crashes, changes int
	for seed := *first; seed < *first+uint64(*seeds); seed++ {
		var trace io.Writer
		if *seeds == 1 {
			trace = os.Stdout
		}
		r := run(seed, trace)
		if r.err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./replica/sim -run TestChaos -seeds=1 -seed=%d", seed, r.err, seed)
		}
		ops, crashes, changes = ops+r.acked, crashes+r.crashes, changes+r.changes
	}
	t.Logf("%d seeds: %d operations acknowledged, %d crashes, %d changes of membership", *seeds, ops, crashes, changes)
}

// TestSameSeedSameRun holds the simulation to what replaying rests on.
func TestSameSeedSameRun(t *testing.T) {
	for seed := uint64(1000); seed < 1004; seed++ {
		var a, b bytes.Buffer
		run(seed, &a)
		run(seed, &b)
		if a.String() != b.String() {
			la, lb := strings.Split(a.String(), "\n"), strings.Split(b.String(), "\n")
			for i := range min(len(la), len(lb)) {
				if la[i] != lb[i] {
					t.Fatalf("seed %d differs in line %d:\n%s\n%s", seed, i+1, la[i], lb[i])
				}
			}
			t.Fatalf("seed %d: transcripts of %d and %d lines", seed, len(la), len(lb))
		}
	}
}

// TestDefectsAreFound proves that the invariants can fail: each fault built in on
// purpose breaks one within a few seeds.
func TestDefectsAreFound(t *testing.T) {
	for _, tc := range []struct {
		on   defect.Defect
		name string
		want string // in the failure
	}{
		{defect.NoSync, "log writes are not synced", ""},
		{defect.EarlyAck, "acknowledged before commit", ""},
		{defect.ApplyTwice, "doubled batches are applied", "applied twice"},
		{defect.StaleRead, "reads without a majority", "not linearizable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defect.On = tc.on
			defer func() { defect.On = defect.None }()
			for seed := uint64(1); seed <= 60; seed++ {
				if r := run(seed, nil); r.err != nil {
					if !strings.Contains(r.err.Error(), tc.want) {
						t.Fatalf("seed %d: want a failure with %q, got %v", seed, tc.want, r.err)
					}
					t.Logf("found by seed %d: %.200v", seed, r.err)
					return
				}
			}
			t.Fatal("60 seeds did not find it")
		})
	}
}

type result struct {
	err                     error
	acked, crashes, changes int
}

// chaos is one run.
type chaos struct {
	c       *sim.Cluster
	trust   bool
	n       int // voters wanted
	end     time.Duration
	nextID  uint64
	clients int
	history []porcupine.Operation
	acked   map[uint64]bool
	refused map[uint64]bool
	digests map[uint64][sha256.Size]byte
	past    map[*sim.Host]*vfs.MemFS
	busy    bool // a change of membership is under way
	result
}

func run(seed uint64, trace io.Writer) result {
	x := &chaos{trust: seed%2 == 0, n: 3, end: 15 * time.Second, acked: map[uint64]bool{}, refused: map[uint64]bool{},
		digests: map[uint64][sha256.Size]byte{}, past: map[*sim.Host]*vfs.MemFS{}}
	if seed%5 == 0 {
		x.n = 5
	}
	c, err := sim.New(sim.Options{Seed: seed, Founders: x.n, TrustDisks: x.trust, Machine: x.machine, Trace: trace,
		Faults: sim.Faults{Loss: 0.02, Double: 0.02, Corrupt: 0.1, MaxDelay: 8 * time.Millisecond, MaxWrite: 3 * time.Millisecond, Drift: 0.1}})
	if err != nil {
		return result{err: err}
	}
	defer c.Close()
	x.c = c
	for range 5 {
		x.client()
	}
	x.trouble()
	c.Run(x.end, nil)
	x.settle()
	x.check()
	x.err = c.Err()
	return x.result
}

func (x *chaos) machine() replica.StateMachine {
	return &sim.KV{
		Observe: func(index uint64, d [sha256.Size]byte) {
			if before, ok := x.digests[index]; ok && before != d {
				x.c.Fail("two states at index %d", index)
			}
			x.digests[index] = d
		},
		Twice:  func(id uint64) { x.c.Fail("command %d was applied twice", id) },
		Differ: func(index uint64, host string) { x.c.Fail("%s came to another state at position %d", host, index) },
	}
}

// client does one operation after another, each on any host that is up.
func (x *chaos) client() {
	x.clients++
	id := x.clients
	var next func()
	next = func() {
		if x.c.Now() > x.end {
			return
		}
		x.c.After(time.Duration(x.c.Rand().IntN(100))*time.Millisecond, func() {
			if x.operate(id, next) {
				return
			}
			next()
		})
	}
	next()
}

func (x *chaos) host() *sim.Host {
	hosts := x.c.Hosts()
	h := hosts[x.c.Rand().IntN(len(hosts))]
	if !h.Running() {
		return nil
	}
	return h
}

// operate starts one operation and reports whether it did. Where its outcome is
// unknown, the operation stays open to the end of history, and a new client goes on.
func (x *chaos) operate(client int, next func()) bool {
	h := x.host()
	if h == nil {
		return false
	}
	r := x.c.Rand()
	x.nextID++
	cmd := sim.Command{ID: x.nextID, Key: string(rune('a' + r.IntN(3)))}
	value := fmt.Sprintf("v%d", cmd.ID)
	op := porcupine.Operation{ClientId: client, Call: int64(x.c.Now())}
	finish := func(output string, err error) {
		op.Input, op.Output, op.Return = cmd, output, int64(x.c.Now())
		switch {
		case err == nil:
			x.result.acked++
			x.acked[cmd.ID] = true
			x.history = append(x.history, op)
		case errors.Is(err, keystead.ReasonTimeout):
			if cmd.Op != sim.Get {
				op.Return, op.Output = int64(time.Hour), ""
				x.history = append(x.history, op)
				x.client()
				return
			}
		default:
			x.refused[cmd.ID] = true
		}
		next()
	}
	switch n := r.IntN(10); {
	case n < 4: // a read beside the log
		cmd.Op = sim.Get
		h.Read(func(err error) {
			var v string
			if err == nil {
				err = h.Store().View(func(s replica.View) (err error) { v, err = sim.Value(s, cmd.Key); return })
			}
			x.nextID++ // it never runs as a command
			cmd.ID = 0
			finish(v, err)
		})
		return true
	case n < 5:
		cmd.Op = sim.Get
	case n < 8:
		cmd.Op, cmd.New = sim.Put, value
	default:
		cmd.Op, cmd.Old, cmd.New = sim.Compare, fmt.Sprintf("v%d", cmd.ID-min(cmd.ID, uint64(1+r.IntN(6)))), value
	}
	h.Propose(cmd.Encode(), func(out []byte, err error) { finish(string(out), err) })
	return true
}

// trouble makes one thing after another go wrong.
func (x *chaos) trouble() {
	r := x.c.Rand()
	x.c.After(200*time.Millisecond+time.Duration(r.IntN(1500))*time.Millisecond, func() {
		if x.c.Now() > x.end {
			return
		}
		h := x.host()
		if h == nil {
			x.trouble()
			return
		}
		switch r.IntN(11) {
		case 0, 1:
			x.crash(h, nil)
			if x.trust && r.IntN(4) == 0 { // and all others with it
				for _, o := range x.c.Hosts() {
					x.crash(o, nil)
				}
			}
		case 2:
			x.c.Isolate(h)
			x.healLater()
		case 3: // one way only
			for _, o := range x.c.Hosts() {
				if r.IntN(2) == 0 {
					x.c.Cut(h, o)
				}
			}
			x.healLater()
		case 4:
			h.Pause(time.Duration(r.IntN(3000)) * time.Millisecond)
		case 5:
			h.JumpClock(r.IntN(40))
		case 6:
			if x.mayForget() {
				h.FillDisk()
				x.result.crashes++
			}
		case 7:
			if x.mayForget() {
				x.past[h] = h.Disk()
			}
		case 8:
			x.crash(h, x.past[h])
			delete(x.past, h)
		case 9:
			if err := h.Shutdown(); err != nil {
				x.c.Fail("shutdown: %v", err)
			}
		case 10:
			x.replace(h)
		}
		x.c.After(time.Duration(r.IntN(2000))*time.Millisecond, x.restart)
		x.trouble()
	})
}

func (x *chaos) healLater() {
	x.c.After(time.Duration(x.c.Rand().IntN(4000))*time.Millisecond, x.c.Heal)
}

// mayForget says whether a host more may lose its memory, which only a minority
// of the voters may at a time: with disks that are trusted, none does. Who has not
// applied a change of membership yet still counts by the one before, so all must
// have the same.
func (x *chaos) mayForget() bool {
	if x.trust {
		return true
	}
	l := x.c.Leader()
	if l == nil || x.busy || len(l.Status().Members.Voters()) < 3 || l.Status().Members.Joint() || len(l.Status().Members.Learners()) > 0 {
		return false
	}
	for _, h := range x.c.Hosts() {
		if !h.Sound() || !slices.Equal(h.Status().Members.Voters(), l.Status().Members.Voters()) {
			return false
		}
	}
	return true
}

func (x *chaos) crash(h *sim.Host, past *vfs.MemFS) {
	switch {
	case !h.Running() || !x.mayForget():
		return
	case past != nil && !x.trust:
		h.RollBack(past)
	case x.c.Rand().IntN(2) == 0:
		h.Kill()
	default:
		h.Crash()
	}
	x.result.crashes++
}

// restart starts what is down.
func (x *chaos) restart() {
	for _, h := range x.c.Hosts() {
		if !h.Up() && x.member(h) {
			if err := h.Restart(); err != nil {
				x.c.Fail("%s: restart: %v", h.Name, err)
			}
		}
	}
}

// member reports whether the host is in the membership that the most advanced
// running host knows.
func (x *chaos) member(h *sim.Host) bool {
	_, ok := x.newest().ByKey(h.Key)
	return ok
}

func (x *chaos) newest() *replica.Membership {
	var at uint64
	m := &replica.Membership{}
	for _, o := range x.c.Hosts() {
		if s := o.Status(); o.Running() && s.Applied >= at {
			at, m = s.Applied, s.Members
		}
	}
	if at == 0 { // all down
		for _, o := range x.c.Hosts() {
			m.Members = append(m.Members, replica.Member{Key: o.Key})
		}
	}
	return m
}

// replace puts a new host in the place of one, under load.
func (x *chaos) replace(old *sim.Host) {
	if x.busy || !x.mayForget() || len(x.c.Hosts()) > x.n+2 || old != x.c.Hosts()[x.c.Rand().IntN(len(x.c.Hosts()))] {
		return
	}
	x.busy = true
	l := x.c.Leader()
	if l == nil {
		x.busy = false
		return
	}
	h := x.c.AddHost()
	l.Change(replica.Change{Add: []replica.Member{{Key: h.Key, Address: h.Name, Voter: true}}}, func(err error) {
		if err != nil {
			x.busy = false
			return
		}
		x.result.changes++
		x.c.After(0, func() {
			if h.Up() {
				return
			}
			if err := h.Restart(); err != nil {
				x.c.Fail("join: %v", err)
			}
		})
		x.retire(old)
	})
}

// retire removes a host once there are voters enough without it.
func (x *chaos) retire(old *sim.Host) {
	x.c.After(500*time.Millisecond, func() {
		m, ok := x.newest().ByKey(old.Key)
		l := x.c.Leader()
		switch {
		case !ok:
			old.Crash()
			x.busy = false
		case l == nil || len(l.Status().Members.Voters()) <= x.n || l.Status().Members.Joint():
			x.retire(old)
		default:
			l.Change(replica.Change{Remove: []uint64{m.ID}}, func(error) { x.retire(old) })
		}
	})
}

// settle ends all faults but losses, and waits until every member has the same.
func (x *chaos) settle() {
	x.c.Heal()
	same := func() bool {
		x.restart()
		m := x.newest()
		var at uint64
		for i, h := range x.hosts(m) {
			s := h.Status()
			if !h.Running() || s.Proposals > 0 || i > 0 && s.Applied != at || s.Leader == 0 {
				return false
			}
			at = s.Applied
		}
		return len(m.Learners()) == 0 && !m.Joint() && len(m.Voters()) >= x.n
	}
	for range 60 {
		if x.c.Run(time.Second, nil); x.c.Err() != nil || same() {
			return
		}
	}
	x.c.Fail("no progress: 60 s after the last fault the members are still not equal: %v", x.states())
}

func (x *chaos) states() (out []string) {
	for _, h := range x.c.Hosts() {
		s := h.Status()
		out = append(out, fmt.Sprintf("%s up=%v id=%d %v term=%d applied=%d commit=%d waiting=%d", h.Name, h.Running(), s.ID, s.State, s.Term, s.Applied, s.Commit, s.Proposals))
	}
	return append(out, fmt.Sprintf("voters %v learners %v", x.newest().Voters(), x.newest().Learners()))
}

func (x *chaos) hosts(m *replica.Membership) (out []*sim.Host) {
	for _, h := range x.c.Hosts() {
		if _, ok := m.ByKey(h.Key); ok {
			out = append(out, h)
		}
	}
	return out
}

// check holds the end of the run against its history.
func (x *chaos) check() {
	if x.c.Err() != nil {
		return
	}
	chains := map[uint64]replica.Chain{} // by index
	for _, h := range x.hosts(x.newest()) {
		chain, at := h.Store().Chain()
		if other, ok := chains[at]; ok && other != chain {
			x.c.Fail("%s: chain %v at %d, where another has %v", h.Name, chain, at, other)
		}
		chains[at] = chain
		err := h.Store().View(func(v replica.View) error {
			for id := uint64(1); id <= x.nextID; id++ {
				ran, err := sim.Ran(v, id)
				switch {
				case err != nil:
					return err
				case x.acked[id] && id != 0 && !ran:
					return fmt.Errorf("command %d was acknowledged and is lost", id)
				case x.refused[id] && ran:
					return fmt.Errorf("command %d was refused and yet applied", id)
				}
			}
			return nil
		})
		if err != nil {
			x.c.Fail("%s: %v", h.Name, err)
			return
		}
	}
	if res := porcupine.CheckOperationsTimeout(model, x.history, 5*time.Minute); res != porcupine.Ok {
		x.c.Fail("the history of %d operations is not linearizable: %v", len(x.history), res)
	}
}

// model is what a key-value store does, one key at a time.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(sim.Command).Key
			byKey[k] = append(byKey[k], op)
		}
		var out [][]porcupine.Operation
		for _, k := range []string{"a", "b", "c"} {
			out = append(out, byKey[k])
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(string), input.(sim.Command), output.(string)
		switch in.Op {
		case sim.Get:
			return out == s, s
		case sim.Put:
			return true, in.New
		}
		if in.Old == s {
			return out != "no", in.New
		}
		return out != "yes", s
	},
}

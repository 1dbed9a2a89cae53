package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A Host is a simulated machine: a disk, a clock, and while it is up, a replica.
type Host struct {
	Name    string
	Key     keystead.Digest
	Machine replica.StateMachine // of the present start

	c      *Cluster
	disk   *vfs.MemFS
	full   bool // the disk
	drift  float64
	paused time.Duration // until then
	life   int           // counts starts and stops: what was meant for another is void

	store    *replica.Store
	core     *replica.Core // nil while it is down or joins
	boot     [16]byte
	joining  bool
	given    map[*Host]uint64 // ids that others gave this start
	appends  []*pb.Message
	applies  []*pb.Message
	writing  bool
	applying bool
	applied  uint64
	role     string // as last traced

	since  int           // entries' bytes applied since the last position
	wanted bool          // a snapshot, and there is none
	asked  time.Duration // for a position
}

func (c *Cluster) newHost() *Host {
	n := len(c.hosts) + 1
	h := &Host{Name: fmt.Sprintf("n%d", n), Key: key(n), c: c, disk: vfs.NewCrashableMem()}
	h.drift = 1 + c.opts.Faults.Drift*(2*c.rng.Float64()-1)
	c.hosts = append(c.hosts, h)
	return h
}

// Up reports whether the host runs, be it that it still joins.
func (h *Host) Up() bool { return h.store != nil }

// Running reports whether the host has a raft id and takes part.
func (h *Host) Running() bool { return h.core != nil }

// Sound reports whether the host runs and will go on: its disk has room.
func (h *Host) Sound() bool { return h.core != nil && !h.full }

// Store is the host's, while it is up.
func (h *Host) Store() *replica.Store { return h.store }

// Core is the host's loop; nil while it is down or joins.
func (h *Host) Core() *replica.Core { return h.core }

// Pump starts what the core has to do, after it was told something directly.
func (h *Host) Pump() { h.guarded(h.pump) }

// Status is the host's; zero while it is down or joins.
func (h *Host) Status() replica.Status {
	if h.core == nil {
		return replica.Status{}
	}
	return h.core.Status()
}

func (h *Host) open() error {
	h.life++
	h.Machine = h.c.opts.Machine()
	for i := range h.boot {
		h.boot[i] = byte(h.c.rng.Uint32())
	}
	fs := errorfs.Wrap(h.disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if h.full && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate) {
			return syscall.ENOSPC
		}
		return nil
	}))
	options := replica.StoreOptions{FS: fs, Dir: "data", Machine: h.Machine,
		RetainBytes: h.c.opts.RetainBytes, MemTableBytes: 1 << 20, Cache: sharedCache,
		Positioned: h.positioned, Wanted: func() { h.wanted = true }}
	if p := h.c.opts.Position; p != nil {
		options.Wanted = func() { p.Wanted(h) }
		options.Approve = func(_ context.Context, header replica.StateHeader, proof []byte) error {
			return p.Approve(h, header, proof)
		}
	}
	var err error
	h.store, err = replica.OpenStore(options)
	h.applied, h.joining, h.paused, h.since, h.wanted, h.asked = 0, false, 0, 0, false, 0
	return err
}

var sharedCache = pebble.NewCache(1 << 20)

func (h *Host) seal() replica.Seal { return replica.FileSeal{FS: h.disk, Path: "sealed"} }

// found starts the host as a founder.
func (h *Host) found(id uint64, members []replica.Member) error {
	if err := h.open(); err != nil {
		return err
	}
	if err := h.store.Bootstrap(id, members); err != nil {
		return err
	}
	return h.begin()
}

// begin starts the loop on a store that may be gone on with.
func (h *Host) begin() (err error) {
	h.core, err = replica.NewCore(replica.CoreOptions{PromoteSlack: 8}, h.store)
	if err != nil {
		return err
	}
	h.applied = h.store.Applied()
	h.clock()
	return nil
}

// join asks all others until enough of them give this host the same id.
func (h *Host) join() error {
	h.joining, h.given = true, map[*Host]uint64{}
	h.c.trace(h, "asks for a fresh id")
	h.ask()
	return nil
}

// Restart starts a host that is down or new. Without an id, or on a disk that it
// may not go on with, it asks the others for a fresh one.
func (h *Host) Restart() error {
	if err := h.open(); err != nil {
		return err
	}
	if h.store.ID() == 0 {
		return h.join()
	}
	if h.c.opts.TrustDisks {
		h.c.trace(h, "restarts in place as id %d, applied %d", h.store.ID(), h.store.Applied())
		return h.begin()
	}
	if err := h.store.Unseal(h.seal()); err == nil {
		h.c.trace(h, "restarts in place as id %d: its seal is valid", h.store.ID())
		return h.begin()
	} else {
		h.c.trace(h, "was id %d; may not go on: %v", h.store.ID(), reason(err))
		return h.join()
	}
}

func reason(err error) string {
	var d *keystead.DenyError
	if errors.As(err, &d) {
		return string(d.Findings[0].Reason) + ", " + d.Findings[0].Got
	}
	return err.Error()
}

// Crash stops the host at once; its disk keeps what was synced.
func (h *Host) Crash() {
	if !h.Up() {
		return
	}
	h.c.trace(h, "crashes")
	h.fall(h.Disk())
}

// Kill ends the host's process; its disk keeps what the process had written.
func (h *Host) Kill() {
	h.c.trace(h, "is killed")
	h.settle()
	all := rand.New(rand.NewPCG(0, 0)) // how often it is asked is not the seed's to know
	h.fall(h.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: all}))
}

// RollBack crashes the host and gives it back a disk of the past, or an empty one.
func (h *Host) RollBack(disk *vfs.MemFS) {
	h.c.trace(h, "crashes, and its disk is rolled back")
	h.fall(disk)
}

// Disk returns a copy of the disk as a crash would leave it.
func (h *Host) Disk() *vfs.MemFS {
	h.settle()
	return h.disk.CrashClone(vfs.CrashCloneCfg{})
}

// Clone opens a store on a copy of the host's disk, as a host does that keeps two. The
// caller closes it.
func (h *Host) Clone(m replica.StateMachine) (*replica.Store, error) {
	return replica.OpenStore(replica.StoreOptions{FS: h.Disk(), Dir: "data", Machine: m,
		RetainBytes: h.c.opts.RetainBytes, MemTableBytes: 1 << 20, Cache: sharedCache})
}

// settle has a flush that was begun end before anything happens to the disk: how
// long it takes is real time, which a seed does not know.
func (h *Host) settle() {
	if h.store != nil {
		h.store.Settle()
	}
}

func (h *Host) fall(disk *vfs.MemFS) {
	h.drop()
	h.disk, h.full = disk, false
}

// drop ends the present start of the host.
func (h *Host) drop() {
	if h.store == nil {
		return
	}
	h.life++
	if h.core != nil {
		h.core.Close(errDown)
	}
	h.full = false // so that closing what is abandoned anyhow can not fail
	_ = h.store.Close()
	h.store, h.core, h.appends, h.applies, h.writing, h.applying, h.role = nil, nil, nil, nil, false, false, ""
}

var errDown = keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Got: "the host went down; the command may still take effect", Where: "simulation"})

// Shutdown stops the host in order, with a seal unless its disk is full.
func (h *Host) Shutdown() error {
	h.c.trace(h, "shuts down")
	err := h.store.Seal(h.seal())
	if errors.Is(err, syscall.ENOSPC) {
		h.c.trace(h, "leaves no seal: its disk is full")
		h.Crash()
		return nil
	}
	h.drop()
	return err
}

// Recover reopens the group from this host's disk, while it is down.
func (h *Host) Recover(authorise func(replica.RecoveryPlan) error) error {
	h.drop()
	return replica.Recover(replica.StoreOptions{FS: h.disk, Dir: "data", Machine: h.c.opts.Machine(), Cache: sharedCache, MemTableBytes: 1 << 20}, h.seal(), h.Key, authorise)
}

// Pause stops the host's time for a while: a stopped process, a stalled machine.
func (h *Host) Pause(d time.Duration) {
	h.c.trace(h, "stalls for %v", d)
	h.paused = h.c.now + d
}

// FillDisk makes every write fail from now on, until the host has crashed of it.
func (h *Host) FillDisk() {
	h.c.trace(h, "has a full disk")
	h.settle()
	h.full = true
}

// JumpClock moves the host's clock on at once.
func (h *Host) JumpClock(ticks int) {
	h.c.trace(h, "has its clock jump by %v", time.Duration(ticks)*tick)
	for range ticks {
		h.then(0, func() {
			if h.core != nil {
				h.core.Tick()
			}
		})
	}
}

// then does something on the host after a while, unless it has gone down by then.
func (h *Host) then(d time.Duration, do func()) {
	life := h.life
	var run func()
	run = func() {
		switch {
		case h.life != life:
		case h.paused > h.c.now:
			h.c.After(h.paused-h.c.now, run)
		default:
			h.guarded(func() { do(); h.pump() })
		}
	}
	h.c.After(d, run)
}

// guarded notes a panic, raft's or our own, as a failure of the run.
func (h *Host) guarded(do func()) {
	defer func() {
		if p := recover(); p != nil {
			if h.stopped(fmt.Sprintf("panic: %v", p)) {
				return
			}
			h.c.Fail("%s: panic: %v\n%s", h.Name, p, debug.Stack())
		}
	}()
	do()
}

func (h *Host) clock() {
	h.then(time.Duration(float64(tick)*h.drift), func() {
		h.core.Tick()
		h.hear()
		h.wish()
		h.clock()
	})
}

// hear takes note of how far others say that they have applied the log, as signed heads
// tell a node.
func (h *Host) hear() {
	for _, o := range h.c.hosts {
		if o != h && o.core != nil && !h.c.cut[[2]*Host{o, h}] {
			h.core.Reached(o.Key, o.applied)
		}
	}
}

// pump starts the work that the core has.
func (h *Host) pump() {
	for h.core != nil {
		w, ok := h.core.Work()
		if !ok {
			break
		}
		for _, m := range w.Send {
			h.send(m)
		}
		if w.Append != nil {
			h.appends = append(h.appends, w.Append)
		}
		if w.Apply != nil {
			h.applies = append(h.applies, w.Apply)
		}
	}
	h.write()
	h.apply()
	h.watch()
}

// watch traces what changed, and checks that the applied index never falls.
func (h *Host) watch() {
	if h.core == nil {
		return
	}
	s := h.core.Status()
	if s.Applied < h.applied {
		h.c.Fail("%s: applied index fell from %d to %d", h.Name, h.applied, s.Applied)
	}
	h.applied = s.Applied
	role := fmt.Sprintf("%s of term %d", roles[s.State], s.Term)
	if s.State == raft.StateFollower && s.Leader != 0 {
		role += fmt.Sprintf(" under id %d", s.Leader)
	}
	if role != h.role {
		h.role = role
		h.c.trace(h, "is %s", role)
	}
}

var roles = map[raft.StateType]string{raft.StateFollower: "follower", raft.StateCandidate: "candidate", raft.StateLeader: "LEADER", raft.StatePreCandidate: "pre-candidate"}

// write does all appends that wait in one write. A crash may come before it has
// reached the disk, or after that and before anyone is told.
func (h *Host) write() {
	if h.writing || len(h.appends) == 0 {
		return
	}
	h.writing = true
	ms := h.appends
	h.appends = nil
	before := h.c.upTo(h.c.opts.Faults.MaxWrite)
	after := h.c.upTo(h.c.opts.Faults.MaxWrite)
	h.then(before, func() {
		if err := h.store.Append(ms...); err != nil {
			h.broken(err)
			return
		}
		h.then(after, func() {
			h.writing = false
			for _, m := range ms {
				if s := m.GetSnapshot().GetMetadata(); s.GetIndex() > 0 {
					h.c.trace(h, "takes the snapshot at %d", s.GetIndex())
				}
				h.core.Appended(m)
			}
		})
	})
}

func (h *Host) apply() {
	if h.applying || len(h.applies) == 0 {
		return
	}
	h.applying = true
	m := h.applies[0]
	h.applies = h.applies[1:]
	h.then(h.c.upTo(h.c.opts.Faults.MaxWrite), func() {
		before := h.store.Membership()
		a, err := h.store.Apply(m)
		if err != nil {
			h.broken(err)
			return
		}
		if after := h.store.Membership(); after != before {
			h.c.trace(h, "applies: voters %v, learners %v%s", after.Voters(), after.Learners(), map[bool]string{true: ", joint"}[after.Joint()])
		}
		h.settled(m)
		h.then(h.c.upTo(h.c.opts.Faults.MaxWrite), func() {
			h.applying = false
			h.core.Applied(a)
		})
	})
}

// stopped ends the process of a host that can not go on, if that is explained.
func (h *Host) stopped(why string) bool {
	if h.c.opts.Stopped == nil || !h.c.opts.Stopped(h, why) {
		return false
	}
	h.c.trace(h, "stops: %s", why)
	h.Crash()
	return true
}

// positioned reads the state at a position through, and says what it came to. Only that a
// node does so beside its other work is not simulated.
func (h *Host) positioned(at *replica.Held) {
	h.since = 0
	header, err := at.Read(context.Background())
	if err != nil {
		h.c.Fail("%s: state at %d: %v", h.Name, at.Index(), err)
		return
	}
	if p := h.c.opts.Position; p != nil {
		h.then(h.c.upTo(h.c.opts.Faults.MaxWrite), func() { p.Came(h, header) })
		return
	}
	d := Command{Op: Digest, Key: strconv.FormatUint(at.Index(), 10), Old: h.Name, New: header.Digest().String()}
	h.then(h.c.upTo(h.c.opts.Faults.MaxWrite), func() { h.sign(d, 5) })
}

// sign hands a digest in, some times if need be.
func (h *Host) sign(d Command, tries int) {
	h.Propose(d.Encode(), func(_ []byte, err error) {
		if err != nil && tries > 0 && h.core != nil {
			h.then(10*tick, func() { h.sign(d, tries-1) })
		}
	})
}

// settled takes note of which position is stable, and has a leader ask for one: if there
// is log enough since the last, or somebody needs a snapshot.
func (h *Host) settled(m *pb.Message) {
	if h.c.opts.Position != nil {
		return // it is for the machine's own glue
	}
	for _, e := range m.GetEntries() {
		h.since += len(e.GetData())
	}
	var p positions
	err := h.store.View(func(v replica.View) error {
		b, _, err := v.Get(positionsKey)
		p = parsePositions(b)
		return err
	})
	if err != nil {
		h.c.Fail("%s: %v", h.Name, err)
	}
	h.store.Stable(p.stable)
	h.store.KeepFrom(p.before)
	h.wish()
}

func (h *Host) wish() {
	if h.c.opts.Position != nil {
		return
	}
	leads := h.core != nil && h.core.Status().State == raft.StateLeader
	due := h.wanted || uint64(h.since) >= h.c.opts.RetainBytes
	if !leads || !due || h.asked > 0 && h.c.now < h.asked+10*tick {
		return
	}
	h.wanted, h.asked = false, h.c.now
	h.c.trace(h, "asks for a position")
	h.Propose(Command{Op: Position}.Encode(), func([]byte, error) {})
}

// broken is the end of a start that met an error: the process ends.
func (h *Host) broken(err error) {
	if h.stopped(err.Error()) {
		return
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, keystead.ReasonDiskRolledBack) {
		h.c.Fail("%s: stopped: %v", h.Name, err)
		return
	}
	if errors.Is(err, syscall.ENOSPC) {
		h.c.trace(h, "stops: its disk is full") // which of the writes met that first is real time's doing
	} else {
		h.c.trace(h, "stops: %s", reason(err))
	}
	h.Crash()
}

// Propose puts a command to the host. done is called at most once, and not if the
// host goes down.
func (h *Host) Propose(command []byte, done func(result []byte, err error)) {
	if h.core == nil {
		done(nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Got: "a host without an id", Where: h.Name}))
		return
	}
	h.core.Propose(&replica.Proposal{Command: command, Done: func(p *replica.Proposal) { done(p.Result, p.Err) }})
	h.pump()
}

// Change puts a change of membership to the host.
func (h *Host) Change(change replica.Change, done func(error)) {
	if h.core == nil {
		done(errDown)
		return
	}
	h.core.Change(change, &replica.Proposal{Done: func(p *replica.Proposal) { done(p.Err) }})
	h.pump()
}

// Read waits until the host's state may be read linearizably.
func (h *Host) Read(done func(error)) {
	if h.core == nil {
		done(errDown)
		return
	}
	h.core.Read(&replica.Read{Done: func(r *replica.Read) { done(r.Err) }})
	h.pump()
}

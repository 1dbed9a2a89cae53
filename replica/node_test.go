package replica_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/freeport"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
)

// machine is one node of a test, on a real disk and loopback.
type machine struct {
	t        testing.TB
	key      *replica.NodeKey
	dir      string
	address  string
	listener net.Listener
	trust    bool
	node     *replica.Node
	driven   *driven // the present start
}

// driven makes the positions of one start of a node, and signs what its states come to.
type driven struct{ node atomic.Pointer[replica.Node] }

// propose hands a command in as soon as the node runs, until it is taken.
func (d *driven) propose(c sim.Command) {
	go func() {
		for range 500 {
			if n := d.node.Load(); n != nil {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				_, err := n.Propose(ctx, c.Encode())
				cancel()
				if !unavailable(err) {
					return
				}
			}
			time.Sleep(10 * time.Millisecond) // an election may take several tries
		}
	}()
}

func (d *driven) into(o *replica.Options, name string) {
	o.Store.Machine = &sim.KV{Stable: func(index, before uint64) {
		if n := d.node.Load(); n != nil {
			n.Stable(index, before)
		}
	}}
	o.Store.Wanted = func() { d.propose(sim.Command{Op: sim.Position}) }
	o.Digested = func(h replica.StateHeader) {
		d.propose(sim.Command{Op: sim.Digest, Key: fmt.Sprint(h.Index), Old: name, New: h.Digest().String()})
	}
}

func newMachine(t testing.TB, trust bool) *machine {
	t.Helper()
	key, err := replica.GenerateNodeKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, key: key, dir: t.TempDir(), trust: trust}
	port, err := freeport.Next() // which is free again when the node is restarted
	if err != nil {
		t.Fatal(err)
	}
	m.listen(fmt.Sprintf("127.0.0.1:%d", port))
	t.Cleanup(func() {
		if m.node != nil {
			m.node.Close()
		}
	})
	return m
}

func (m *machine) listen(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		m.t.Fatal(err)
	}
	m.listener, m.address = l, l.Addr().String()
}

func (m *machine) member() replica.Member {
	return replica.Member{Key: m.key.Digest(), Address: m.address, Voter: true}
}

func (m *machine) options(founders, peers []replica.Member) replica.Options {
	fs := vfs.Default
	o := replica.Options{
		Store:    replica.StoreOptions{FS: fs, Dir: m.dir + "/data"},
		Key:      m.key.Digest(),
		Address:  m.address,
		Founders: founders, Peers: peers,
		Connect:    replica.ListenTLS(replica.TLSOptions{Guard: m.key, Listener: m.listener}),
		Seal:       replica.FileSeal{FS: fs, Path: m.dir + "/sealed"},
		TrustDisks: m.trust,
		Tick:       20 * time.Millisecond,
	}
	m.driven = &driven{}
	m.driven.into(&o, m.address)
	return o
}

// patience is how long a test waits for what must come: long enough for a machine
// that is busy with other things.
const patience = time.Minute

func (m *machine) start(founders, peers []replica.Member) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := replica.Start(ctx, m.options(founders, peers))
	if err != nil {
		m.t.Fatal(err)
	}
	m.run(n)
}

// run takes note of the node that the machine runs.
func (m *machine) run(n *replica.Node) {
	m.node = n
	m.driven.node.Store(n)
}

// group starts n founders.
func group(t testing.TB, n int, trust bool) []*machine {
	var ms []*machine
	var founders []replica.Member
	for range n {
		m := newMachine(t, trust)
		ms, founders = append(ms, m), append(founders, m.member())
	}
	for _, m := range ms {
		m.start(founders, nil)
	}
	return ms
}

// eventually tries again and again what depends on an election.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-retry.C
	}
}

func put(m *machine, id uint64, key, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := m.node.Propose(ctx, sim.Command{ID: id, Op: sim.Put, Key: key, New: value}.Encode())
	return err
}

func get(m *machine, key string) (value string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.node.Read(ctx); err != nil {
		return "", err
	}
	err = m.node.View(func(v replica.View) (err error) { value, err = sim.Value(v, key); return })
	return value, err
}

// unavailable reports whether the error may pass by itself, as an election does.
func unavailable(err error) bool {
	return errors.Is(err, keystead.ReasonTimeout) || errors.Is(err, keystead.ReasonNoQuorum)
}

// settled does something until it has an outcome that no election has a part in.
func settled(do func() error) error {
	for deadline := time.Now().Add(patience); ; {
		if err := do(); !unavailable(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// TestThreeNodes runs a group over loopback: every member takes writes and reads,
// a leader's end costs nothing that was acknowledged, a member that was closed in
// order comes back in place, one that was not comes back under a new id, by a
// snapshot and a promotion.
func TestThreeNodes(t *testing.T) {
	ms := group(t, 3, false)
	var wg sync.WaitGroup
	for i, m := range ms {
		for j := range 20 {
			wg.Go(func() {
				key := fmt.Sprintf("%d-%d", i, j)
				if err := settled(func() error { return put(m, uint64(100*i+j+1), key, "v"+key) }); err != nil {
					t.Errorf("put %s: %v", key, err)
				}
				if err := settled(func() error { return expect(ms[(i+1)%3], key, "v"+key) }); err != nil {
					t.Errorf("get %s elsewhere: %v", key, err)
				}
			})
		}
	}
	wg.Wait()
	leader := leaderOf(t, ms)
	others := without(ms, leader)
	oldID := leader.node.Status().ID
	if err := leader.node.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return put(others[0], 1000, "after", "leader") })
	if err := settled(func() error { return expect(others[1], "0-0", "v0-0") }); err != nil {
		t.Fatalf("after the leader's end: %v", err)
	}

	leader.listen(leader.address)
	leader.start(nil, nil)
	if id := leader.node.Status().ID; id != oldID {
		t.Fatalf("with a valid seal: want id %d again, got %d", oldID, id)
	}
	eventually(t, func() error { return expect(leader, "after", "leader") })

	victim := others[0]
	oldID = victim.node.Status().ID
	if err := victim.node.Close(); err != nil {
		t.Fatal(err)
	}
	if err := vfs.Default.Remove(victim.dir + "/sealed"); err != nil { // as after a crash
		t.Fatal(err)
	}
	victim.listen(victim.address)
	victim.start(nil, nil)
	if id := victim.node.Status().ID; id <= 3 {
		t.Fatalf("without a seal: want a new id, got %d", id)
	}
	eventually(t, func() error { return expect(victim, "after", "leader") })
	eventually(t, func() error {
		m := victim.node.Status().Members
		if len(m.Voters()) != 3 || len(m.Learners()) != 0 {
			return fmt.Errorf("voters %v, learners %v", m.Voters(), m.Learners())
		}
		return nil
	})
	if _, ok := victim.node.Status().Members.ByID(oldID); ok {
		t.Fatalf("id %d is a member still", oldID)
	}
}

func expect(m *machine, key, want string) error {
	v, err := get(m, key)
	if err == nil && v != want {
		err = fmt.Errorf("%s is %q, not %q", key, v, want)
	}
	return err
}

func leaderOf(t testing.TB, ms []*machine) (leader *machine) {
	t.Helper()
	eventually(t, func() error {
		for _, m := range ms {
			if s := m.node.Status(); s.Leader == s.ID && s.ID != 0 {
				leader = m
				return nil
			}
		}
		return errors.New("no leader")
	})
	return leader
}

func without(ms []*machine, m *machine) (out []*machine) {
	for _, o := range ms {
		if o != m {
			out = append(out, o)
		}
	}
	return out
}

// TestMinorityRefuses closes two of three: what is left says so within the
// patience of a proposal, and takes up again when another is back.
func TestMinorityRefuses(t *testing.T) {
	ms := group(t, 3, true)
	eventually(t, func() error { return put(ms[0], 1, "k", "v") })
	for _, m := range ms[1:] {
		if err := m.node.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		if err := put(ms[0], 2, "k", "w"); !errors.Is(err, keystead.ReasonNoQuorum) {
			return fmt.Errorf("want no-quorum, got %v", err)
		}
		return nil
	})
	eventually(t, func() error {
		if _, err := get(ms[0], "k"); !errors.Is(err, keystead.ReasonNoQuorum) {
			return fmt.Errorf("read: want no-quorum, got %v", err)
		}
		return nil
	})
	ms[1].listen(ms[1].address)
	ms[1].start(nil, nil)
	eventually(t, func() error { return put(ms[0], 3, "k", "x") })
}

// TestStrangers are turned away by the pinned keys, on both ends of a connection.
func TestStrangers(t *testing.T) {
	ms := group(t, 3, true)
	eventually(t, func() error { return put(ms[0], 1, "k", "v") })
	stranger := newMachine(t, true)
	options := stranger.options(nil, []replica.Member{ms[0].member()})
	if n, err := turnedAway(options); err == nil {
		n.Close()
		t.Fatal("a stranger joined")
	}

	posing := newMachine(t, true)
	wrong := ms[0].member()
	wrong.Key = posing.key.Digest() // not the key that answers there
	options = posing.options(nil, []replica.Member{wrong})
	options.Key = keystead.Digest{}
	_, err := turnedAway(options)
	if !errors.Is(err, keystead.ReasonKeyForeign) {
		t.Fatalf("a server with another key: want key-foreign, got %v", err)
	}
}

// turnedAway starts a node and gives up once it says that it could not join.
func turnedAway(o replica.Options) (*replica.Node, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o.Log = slog.New(said{slog.DiscardHandler, "not joined yet", cancel})
	return replica.Start(ctx, o)
}

// said is a log that calls then when it hears the words.
type said struct {
	slog.Handler
	words string
	then  func()
}

func (s said) Enabled(context.Context, slog.Level) bool { return true }
func (s said) Handle(_ context.Context, r slog.Record) error {
	if r.Message == s.words {
		s.then()
	}
	return nil
}

// TestFullDisk stops the node, says why, and leaves no proposal without an outcome;
// what was acknowledged is there when there is room again.
func TestFullDisk(t *testing.T) {
	m := newMachine(t, true)
	disk := vfs.NewMem()
	var full atomic.Bool
	o := m.options([]replica.Member{m.member()}, nil)
	o.Store.Dir = "data"
	o.Store.FS = errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpFileWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	start := func() {
		t.Helper()
		n, err := replica.Start(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		m.run(n)
	}
	start()
	eventually(t, func() error { return put(m, 1, "k", "v") })
	full.Store(true)
	if err := put(m, 2, "k", "w"); err == nil {
		t.Fatal("a write to a full disk was acknowledged")
	}
	<-m.node.Done()
	if err := m.node.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("want the disk's error, got %v", err)
	}
	if err := put(m, 3, "k", "x"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("after that: want the disk's error, got %v", err)
	}
	full.Store(false)
	again := vfs.NewMem() // as another process finds it, without this one's locks
	if ok, err := vfs.Clone(disk, again, o.Store.Dir, o.Store.Dir); !ok || err != nil {
		t.Fatal(ok, err)
	}
	o.Store.FS = again
	m.listen(m.address)
	o.Connect = replica.ListenTLS(replica.TLSOptions{Guard: m.key, Listener: m.listener})
	start()
	eventually(t, func() error {
		v, err := get(m, "k")
		if err == nil && v != "v" && v != "w" { // the write that failed may have been kept
			err = fmt.Errorf("k is %q", v)
		}
		return err
	})
}

// TestReplace adds a fourth node and removes the leader, while clients write.
func TestReplace(t *testing.T) {
	ms := group(t, 3, false)
	leader := leaderOf(t, ms)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	load, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i, m := range without(ms, leader) {
		wg.Go(func() {
			for n := uint64(0); load.Err() == nil; n++ {
				id := n*2 + uint64(i) + 1
				if err := put(m, id, "load", fmt.Sprint(id)); err != nil && !unavailable(err) {
					t.Errorf("under load: %v", err)
					return
				}
			}
		})
	}
	fresh := newMachine(t, false)
	change(ctx, t, leader, replica.Change{Add: []replica.Member{fresh.member()}}, func(m *replica.Membership) bool {
		_, ok := m.ByKey(fresh.key.Digest())
		return ok
	})
	fresh.start(nil, []replica.Member{ms[0].member(), ms[1].member(), ms[2].member()})
	eventually(t, func() error {
		if v := fresh.node.Status().Members.Voters(); len(v) != 4 {
			return fmt.Errorf("voters %v", v)
		}
		return nil
	})
	gone := leader.node.Status().ID
	change(ctx, t, fresh, replica.Change{Remove: []uint64{gone}}, func(m *replica.Membership) bool {
		_, ok := m.ByID(gone)
		return !ok
	})
	eventually(t, func() error { return put(fresh, 1<<40, "replaced", "yes") })
	stop()
	wg.Wait()
	if _, ok := fresh.node.Status().Members.ByID(gone); ok {
		t.Fatalf("id %d is a member still", gone)
	}
	for _, refused := range []replica.Change{{Remove: []uint64{gone}}, {Promote: []uint64{99}}, {Add: []replica.Member{fresh.member()}}} {
		err := settled(func() error { _, err := fresh.node.Change(ctx, refused); return err })
		if !errors.Is(err, keystead.ReasonChangeRefused) {
			t.Errorf("%+v: want change-refused, got %v", refused, err)
		}
	}
}

// change changes the membership, over elections: when the outcome of an attempt is
// not known, the membership tells.
func change(ctx context.Context, t *testing.T, m *machine, c replica.Change, done func(*replica.Membership) bool) {
	t.Helper()
	eventually(t, func() error {
		if done(m.node.Status().Members) {
			return nil
		}
		_, err := m.node.Change(ctx, c)
		return err
	})
}

// TestLed waits for the end of a leader that hands over.
func TestLed(t *testing.T) {
	ms := group(t, 3, true)
	eventually(t, func() error {
		leader := leaderOf(t, ms)
		id, over := leader.node.Led()
		if id != leader.node.Status().ID {
			return errors.New("an election came between")
		}
		leader.node.Transfer(without(ms, leader)[0].node.Status().ID)
		select {
		case <-over:
		case <-time.After(5 * time.Second):
			return errors.New("nobody took over")
		}
		if now, _ := leader.node.Led(); now == id {
			return fmt.Errorf("%d leads still, or again", now)
		}
		return nil
	})
}

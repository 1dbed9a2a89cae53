package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Options say who a node is and what it stands on.
type Options struct {
	Store   StoreOptions
	Core    CoreOptions
	Key     keystead.Digest // of this node's key
	Address string          // where the others reach it
	Peers   []Member        // members to ask for an id, for a node that has none

	// Learned returns members to ask beside Peers, as this node comes to know them. May be nil.
	Learned func() []Member

	// Founders are the first voters of a new group, this node among them. They are
	// for the very first start of the group: a founder that has lost its disk and is
	// started with them again forgets its vote and takes part all the same.
	Founders []Member

	// Digested is told what names this node's state at a position, once it has read it
	// through. Nil drops it.
	Digested func(StateHeader)

	// Others returns how many other members there are, as far as this node can tell by
	// itself: a majority of them must give it the same id before it goes on as another. Nil
	// is for groups in which one member's word is enough.
	Others func() int

	// Joining is told after each time around that this node asked for an id and has none. Nil
	// drops it.
	Joining func(Joining)

	// Sign signs for this node's key that it gives up its id; unless that is wanted, by a
	// member that refused the request without, it may return nil. Nil leaves it unsigned.
	Sign func(message []byte, wanted bool) (*Asked, error)

	// Connect opens the transport, which calls the handler from then on.
	Connect func(Handler) (Transport, error)

	// Seal keeps records of clean shutdowns. TrustDisks lets a node restart in place
	// without one: then who can roll back its disk can undo what it promised.
	Seal       Seal
	TrustDisks bool

	Tick time.Duration // 50 ms if 0: an election after half a second without a leader
	Log  *slog.Logger
}

// A Node is a running replica.
type Node struct {
	opts      Options
	log       *slog.Logger
	store     *Store
	core      *Core // the loop's alone
	transport Transport
	boot      [16]byte

	in      inbox
	appends queue[*pb.Message]
	applies queue[*pb.Message]
	workers sync.WaitGroup
	cancel  context.CancelFunc
	ctx     context.Context
	done    chan struct{}
	err     error       // why it stopped, once done is closed
	ready   atomic.Bool // the store is the one that the node goes on with
	settled bool        // nothing is set aside any more; the loop's alone
	status  statusCell
	told    []Member   // by who gave this node its id: its own state may be older
	reading sync.Mutex // of the state at a position
}

// Start opens the store, connects, and runs the node until Close or a failure. A
// node that must join first waits for an id until ctx ends.
func Start(ctx context.Context, opts Options) (_ *Node, err error) {
	if opts.Tick == 0 {
		opts.Tick = 50 * time.Millisecond
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{log: opts.Log, done: make(chan struct{}), in: inbox{wake: make(chan struct{}, 1)}}
	n.in.closed = waits(opts.Address)
	n.appends.init()
	n.applies.init()
	n.ctx, n.cancel = context.WithCancel(context.Background())
	rand.Read(n.boot[:])
	opts.Store.Positioned = n.positioned
	n.opts = opts
	if n.store, err = OpenStore(opts.Store); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.cancel()
			if n.transport != nil {
				err = errors.Join(err, n.transport.Close())
			}
			err = errors.Join(err, n.store.Close())
		}
	}()
	if n.transport, err = opts.Connect((*handler)(n)); err != nil {
		return nil, err
	}
	if err := n.identify(ctx); err != nil {
		return nil, err
	}
	n.opts.Core.Log = n.log
	if n.core, err = NewCore(n.opts.Core, n.store); err != nil {
		return nil, err
	}
	n.introduce(n.store.Membership())
	n.run()
	return n, nil
}

// waits refuses what a node can not do before it knows which store it goes on with.
func waits(address string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Got: "a node that waits for an id itself", Where: address})
}

// identify makes sure that the store is one that this node may go on with.
func (n *Node) identify(ctx context.Context) error {
	if n.store.ID() == 0 {
		i := slices.IndexFunc(n.opts.Founders, func(m Member) bool { return m.Key == n.opts.Key })
		if i >= 0 {
			return n.store.Bootstrap(uint64(i+1), n.opts.Founders)
		}
		return n.join(ctx, n.opts.Peers)
	}
	if n.opts.TrustDisks {
		return nil
	}
	unsealed := n.store.Unseal(n.opts.Seal)
	if unsealed == nil {
		return nil
	}
	n.log.Warn("this node may have forgotten what it promised; it rejoins as a learner under a new id", "because", unsealed)
	peers := slices.Concat(n.store.Membership().Members, n.opts.Peers)
	return n.join(ctx, peers)
}

// join asks the peers, again and again, for a fresh id. If no majority is there to
// give one out, the old store stays as it is: see Recover.
func (n *Node) join(ctx context.Context, peers []Member) error {
	if peers = n.whomToAsk(peers); len(peers) == 0 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Want: "a peer to ask for an id", Got: "none is configured", Where: "join"})
	}
	retry := time.NewTicker(10 * n.opts.Tick)
	defer retry.Stop()
	told := news{log: n.log}
	given := answers{}
	var refusals []error
	for {
		if ctx.Err() != nil {
			return errors.Join(append(refusals, ctx.Err())...)
		}
		refusals = refusals[:0]
		if n.opts.Learned != nil {
			peers = n.whomToAsk(append(peers, n.opts.Learned()...))
		}
		n.transport.Members(peers)
		serving := 0
		for _, p := range peers {
			reply, err := n.askForID(ctx, p)
			if serves(reply, err) {
				serving++
			}
			if err != nil {
				refusals = append(refusals, fmt.Errorf("%s: %w", p.Address, err))
				continue
			}
			given[p.Key] = reply
			if id := given.agreed(n.needed(given)); id != 0 && id == reply.ID {
				return n.goOnAs(reply)
			}
		}
		refusals = append(refusals, given.few(n.needed(given)))
		told.tell(slog.LevelWarn, "", "not joined yet", errors.Join(refusals...))
		if n.opts.Joining != nil {
			n.opts.Joining(Joining{Waiting: given.waiting(), Serving: serving})
		}
		select {
		case <-ctx.Done():
		case <-retry.C:
		}
	}
}

// whomToAsk returns the peers once each, without this node.
func (n *Node) whomToAsk(peers []Member) []Member {
	asked := map[Member]bool{}
	return slices.DeleteFunc(slices.Clone(peers), func(m Member) bool {
		to := Member{Key: m.Key, Address: m.Address}
		again := asked[to]
		asked[to] = true
		return again || m.Key == n.opts.Key
	})
}

// needed is how many members must give the same id: a majority of the others, without those
// that say themselves that they wait for one.
func (n *Node) needed(given answers) int {
	if n.opts.Others == nil {
		return 1
	}
	return max(1, (n.opts.Others()-given.waiting())/2+1)
}

// goOnAs begins as the member that others made of this node.
func (n *Node) goOnAs(reply JoinReply) error {
	n.told = reply.Members
	n.log.Info("joined", "id", reply.ID)
	if err := n.setAside(); err != nil {
		return err
	}
	return n.store.Rejoin(reply.ID)
}

// askForID asks one member for a fresh id, signed for the id that it says is to be given up.
func (n *Node) askForID(ctx context.Context, p Member) (JoinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 100*n.opts.Tick)
	defer cancel()
	request := JoinRequest{Boot: n.boot, Address: n.opts.Address, Gives: n.store.ID()}
	wanted := false
	for range 3 {
		if n.opts.Sign != nil {
			var err error
			if request.Asked, err = n.opts.Sign(AskedMessage(request.Gives, n.opts.Key, n.boot, n.opts.Address), wanted); err != nil {
				return JoinReply{}, err
			}
		}
		if request.Asked == nil {
			request.Gives = 0 // which builds of before do not read
		}
		reply, err := n.transport.Join(ctx, p, request)
		if errors.Is(err, keystead.ReasonChangeRefused) && request.Asked == nil && n.opts.Sign != nil {
			wanted, request.Gives = true, n.store.ID()
			continue
		}
		if err != nil || reply.ID != 0 || reply.Waits {
			return reply, err
		}
		request.Gives = reply.Gives
	}
	return JoinReply{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: p.Address, Want: "an id", Got: "none"})
}

// run starts the loop and its two writers.
func (n *Node) run() {
	n.publish()
	n.in.open()
	n.ready.Store(true)
	n.voted(n.store.Membership())
	n.workers.Go(func() {
		for ms := range n.appends.batches {
			if err := n.store.Append(ms...); err != nil {
				n.in.fail(err)
				return
			}
			n.in.appended(ms)
		}
	})
	n.workers.Go(func() {
		for ms := range n.applies.batches {
			for _, m := range ms {
				a, err := n.store.Apply(m)
				if err != nil {
					n.in.fail(err)
					return
				}
				n.in.applied(a)
			}
		}
	})
	go n.loop()
}

func (n *Node) loop() {
	tick := time.NewTicker(n.opts.Tick)
	err := n.turns(tick.C)
	tick.Stop()
	n.cancel()
	stopped := err
	if err == nil {
		stopped = keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "node"})
	}
	n.core.Close(stopped)
	n.appends.close()
	n.applies.close()
	n.workers.Wait()
	closed := n.transport.Close()
	if err == nil && n.opts.Seal != nil {
		closed = errors.Join(closed, n.store.Seal(n.opts.Seal))
	}
	n.err = errors.Join(err, closed, n.store.Close())
	n.in.close(n.core, stopped)
	if err != nil {
		n.log.Error("node stopped", "because", err)
	}
	close(n.done)
}

// turns runs the loop until the node closes, which gives nil, or fails.
func (n *Node) turns(tick <-chan time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil { // raft panics over what should be impossible, and over a log that cannot be read
			unread, ok := p.(error)
			if err = fmt.Errorf("raft: %v", p); ok {
				err = fmt.Errorf("raft: %w", unread)
			}
		}
	}()
	led := n.core.leader
	for {
		select {
		case <-tick:
			n.core.Tick()
			n.publish()
		case <-n.in.wake:
			if err := n.in.drain(n.core); err != nil {
				return err
			}
		case <-n.ctx.Done():
			return nil
		}
		for {
			w, ok := n.core.Work()
			if !ok {
				break
			}
			n.start(w)
		}
		if n.core.leader != led {
			led = n.core.leader
			n.publish()
		}
	}
}

// introduce tells the transport who the members are. Until this node's state has come to
// where it joined itself, those that it was told of then count as well.
func (n *Node) introduce(m *Membership) {
	if _, ok := m.ByID(n.store.ID()); ok {
		n.told = nil
	}
	all := slices.Clone(n.told)
	for _, x := range m.Members {
		i := slices.IndexFunc(all, func(t Member) bool { return t.Key == x.Key })
		switch {
		case i < 0:
			all = append(all, x)
		case all[i].ID < x.ID:
			all[i] = x
		}
	}
	n.transport.Members(all)
}

// positioned reads the state at a position through, beside what the node does.
func (n *Node) positioned(h *Held) {
	n.workers.Go(func() {
		n.reading.Lock()
		defer n.reading.Unlock()
		header, err := h.Read(n.ctx)
		switch {
		case err == nil && n.opts.Digested != nil:
			n.opts.Digested(header)
		case err != nil && n.ctx.Err() == nil:
			n.log.Warn("state at a position not read", "index", h.Index(), "because", err)
		}
	})
}

// Offer has this node read its state of now through, to be sent to members who can not
// have one that a majority signed; see [Store.Offer].
func (n *Node) Offer() error {
	h, err := n.store.Offer()
	if err == nil {
		n.positioned(h)
	}
	return err
}

// Stable says that a majority signed the digest of the state at a position, and up to
// where the log is not needed any more by who comes after the position before that.
func (n *Node) Stable(index, keep uint64) {
	n.store.Stable(index)
	n.store.KeepFrom(keep)
}

// start sets work going.
func (n *Node) start(w Work) {
	if w.Members != nil {
		n.introduce(w.Members)
		n.voted(w.Members)
		n.publish()
	}
	if w.Append != nil {
		n.appends.push(w.Append)
	}
	if w.Apply != nil {
		n.applies.push(w.Apply)
	}
	sends := w.Send[:0]
	for _, m := range w.Send {
		if m.GetType() == pb.MsgSnap {
			n.workers.Go(func() { n.sendSnapshot(m) })
		} else {
			sends = append(sends, m)
		}
	}
	if len(sends) > 0 {
		n.transport.Send(sends)
	}
}

// sendSnapshot sends the stable state of now, which is at or after what raft asked for.
func (n *Node) sendSnapshot(m *pb.Message) {
	err := func() error {
		c, err := n.store.Carry()
		if err != nil {
			return err
		}
		m.Snapshot = &pb.Snapshot{Metadata: c.Metadata}
		return errors.Join(n.transport.SendSnapshot(n.ctx, m, c.WriteTo), c.Done())
	}()
	if err != nil {
		n.log.Warn("snapshot not sent", "to", m.GetTo(), "because", err)
		select { // raft asks again at once
		case <-time.After(10 * n.opts.Tick):
		case <-n.ctx.Done():
		}
	}
	n.in.event(func(c *Core) error { c.SnapshotSent(m.GetTo(), err == nil); return nil })
}

// waiting is a Proposal that a goroutine waits for.
type waiting struct {
	Proposal
	ready chan struct{}
}

var proposalPool = sync.Pool{New: func() any {
	w := &waiting{ready: make(chan struct{}, 1)}
	w.Done = func(*Proposal) { w.ready <- struct{}{} }
	return w
}}

// Propose puts a command into the log, from any member, and returns its result
// once it is on the disks of a majority and applied here. The command must not
// change until then. A refusal with timeout leaves open whether it takes effect;
// any other means that it did not.
func (n *Node) Propose(ctx context.Context, command []byte) ([]byte, error) {
	return n.await(ctx, command, nil)
}

// Change changes the membership, and returns it as of then.
func (n *Node) Change(ctx context.Context, c Change) (*Membership, error) {
	if _, err := n.await(ctx, nil, &c); err != nil {
		return nil, err
	}
	return n.store.Membership(), nil
}

func (n *Node) await(ctx context.Context, command []byte, change *Change) ([]byte, error) {
	w := proposalPool.Get().(*waiting)
	w.Command, w.Result, w.Err, w.change = command, nil, nil, change
	n.in.propose(&w.Proposal)
	select {
	case <-w.ready:
		result, err := w.Result, w.Err
		w.Command, w.Result, w.change = nil, nil, nil
		proposalPool.Put(w)
		return result, err
	case <-ctx.Done(): // w is left to the loop, which may still call Done
		return nil, errors.Join(timeoutError("the caller stopped waiting; the command may still take effect"), ctx.Err())
	}
}

// Read waits until this node's state shows every write that was acknowledged, by
// any member, before the call. Then [Node.View] reads linearizably.
func (n *Node) Read(ctx context.Context) error {
	ready := make(chan struct{}, 1)
	r := &Read{Done: func(*Read) { ready <- struct{}{} }}
	n.in.read(r)
	select {
	case <-ready:
		return r.Err
	case <-ctx.Done():
		return errors.Join(timeoutError("the caller stopped waiting"), ctx.Err())
	}
}

// View reads the state as it stands here, which may lag; see [Node.Read].
func (n *Node) View(read func(View) error) error { return n.store.View(read) }

// Status returns what the node knows of itself, as of the last tick, and of who leads
// as of now.
func (n *Node) Status() Status { return n.status.get() }

// Led returns who leads, 0 for nobody, and a channel that is closed once that is over.
func (n *Node) Led() (leader uint64, over <-chan struct{}) { return n.status.led() }

// Done is closed when the node has stopped.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns why the node stopped; nil while it runs and after Close.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// Close stops the node in order, and leaves a record of that in its seal. A leader
// that wants no gap calls Transfer first.
func (n *Node) Close() error {
	n.cancel()
	<-n.done
	return n.err
}

// Transfer asks the member to take over as leader.
func (n *Node) Transfer(to uint64) {
	n.in.event(func(c *Core) error { c.Transfer(to); return nil })
}

func (n *Node) publish() { n.status.set(n.core.Status()) }

type statusCell struct {
	mu   sync.Mutex
	s    Status
	over chan struct{} // nil until someone waits for the end of the leader
}

func (c *statusCell) get() Status { c.mu.Lock(); defer c.mu.Unlock(); return c.s }

func (c *statusCell) set(s Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != nil && s.Leader != c.s.Leader {
		close(c.over)
		c.over = nil
	}
	c.s = s
}

func (c *statusCell) led() (uint64, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over == nil {
		c.over = make(chan struct{})
	}
	return c.s.Leader, c.over
}

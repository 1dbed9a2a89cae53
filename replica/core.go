package replica

import (
	"fmt"
	"log/slog"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/defect"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Limits bound what a node holds and sends. Zero fields take the default.
type Limits struct {
	Command       int    // bytes of one command; 1 MiB
	Proposals     int    // proposals without an outcome; 65,536
	ProposalBytes int    // their bytes; 32 MiB
	Reads         int    // reads without an outcome; 65,536
	BatchCount    int    // commands of one log entry; 1,024
	BatchBytes    int    // their bytes; 256 KiB
	Batches       int    // entries of this node without an outcome; 8
	Uncommitted   uint64 // bytes of the leader's log that are not committed; 64 MiB
	Applying      uint64 // bytes of entries handed to Apply at a time; 4 MiB
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Command, 1<<20)
	def(&l.Proposals, 1<<16)
	def(&l.ProposalBytes, 32<<20)
	def(&l.Reads, 1<<16)
	def(&l.BatchCount, 1024)
	def(&l.BatchBytes, 256<<10)
	def(&l.Batches, 8)
	if l.Uncommitted == 0 {
		l.Uncommitted = 64 << 20
	}
	if l.Applying == 0 {
		l.Applying = 4 << 20
	}
	return l
}

// CoreOptions are what a [Core] goes by. Time is counted in ticks.
type CoreOptions struct {
	Limits        Limits
	ElectionTicks int          // without a word of the leader before an election; 10
	PatienceTicks uint64       // that a proposal or read may wait; 100
	PromoteSlack  uint64       // entries that a learner may lack when it is promoted; 1,024
	Log           *slog.Logger // nil drops what raft has to say
}

// A Core is the raft loop without its world: it takes messages, ticks, proposals,
// reads and finished writes, and gives [Work] to do. It has no goroutine, clock or
// socket, and is not safe for concurrent use; its one random choice, the length
// of raft's election timeouts, is read from crypto/rand.Reader.
type Core struct {
	opts      CoreOptions
	store     *Store
	rn        *raft.RawNode
	id        uint64
	tick      uint64
	leader    uint64
	leaderAt  uint64 // tick when there last was one
	state     raft.StateType
	proposals proposals
	reads     reads
	out       []*pb.Message // to be sent with the next Work
	promoting bool
	members   *Membership
	doubt     doubt
	followed  bool                       // since its start this node took entries of a leader
	shunned   map[keystead.Digest]bool   // keys of members that are taken no word of
	reached   map[keystead.Digest]uint64 // by key: how far a member says that it applied the log
	changed   bool                       // members, since the last Work
	applied   uint64
}

// Work is what the world is to do next. Sends may go out at once, in any order
// and with losses. Append and Apply are for [Store.Append] and [Store.Apply], each in
// order and then back to [Core.Appended] and [Core.Applied]; both may run at once.
type Work struct {
	Send    []*pb.Message
	Append  *pb.Message
	Apply   *pb.Message
	Members *Membership // set when it changed
}

// NewCore starts from what the store holds.
func NewCore(opts CoreOptions, store *Store) (*Core, error) {
	opts.Limits = opts.Limits.withDefaults()
	if opts.ElectionTicks == 0 {
		opts.ElectionTicks = 10
	}
	if opts.PatienceTicks == 0 {
		opts.PatienceTicks = 100
	}
	if opts.PromoteSlack == 0 {
		opts.PromoteSlack = 1024
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := store.started(); err != nil {
		return nil, err
	}
	l := opts.Limits
	c := &Core{opts: opts, store: store, id: store.ID(), members: store.Membership(), applied: store.Applied(),
		proposals: proposals{seq: store.node.start << 40, maxCount: l.Proposals, maxBytes: l.ProposalBytes,
			batchCount: l.BatchCount, batchBytes: l.BatchBytes, maxInFlight: l.Batches},
		reads: reads{context: store.node.start << 40, max: l.Reads},
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: c.id, ElectionTick: opts.ElectionTicks, HeartbeatTick: 1, Storage: store, Applied: c.applied,
		AsyncStorageWrites: true, MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: l.Applying,
		MaxUncommittedEntriesSize: l.Uncommitted, MaxInflightMsgs: 256, MaxInflightBytes: 32 << 20,
		CheckQuorum: true, PreVote: true, ReadOnlyOption: raft.ReadOnlySafe, StepDownOnRemoval: true, Logger: raftLogger{opts.Log},
	})
	c.rn = rn
	return c, err
}

// Status is what a node knows of itself.
type Status struct {
	ID, Leader, Term, Commit, Applied uint64
	State                             raft.StateType
	Members                           *Membership
	Proposals, Reads                  int // without an outcome
}

// Status returns what the node knows of itself.
func (c *Core) Status() Status {
	s := c.rn.BasicStatus()
	return Status{ID: c.id, Leader: s.Lead, Term: s.HardState.GetTerm(), Commit: s.HardState.GetCommit(), Applied: c.applied, State: s.RaftState,
		Members: c.members, Proposals: c.proposals.count, Reads: len(c.reads.queue) + len(c.reads.asked) + len(c.reads.waiting)}
}

// Tick moves time on.
func (c *Core) Tick() {
	c.tick++
	c.rn.Tick()
	c.expire()
	c.settle()
	c.promote()
}

// expire ends proposals and reads that have waited too long, and at once those
// that wait for a leader when there has been none for long.
func (c *Core) expire() {
	err := timeoutError("not sent in time; the command had no effect")
	if c.leaderless() {
		err = c.noQuorum()
	}
	c.proposals.expire(c.tick, err)
	c.reads.expire(c.tick, err)
}

// leaderless reports whether there has been no leader for longer than an election
// takes when a majority is there.
func (c *Core) leaderless() bool {
	return c.leader == 0 && c.tick > c.leaderAt+4*uint64(c.opts.ElectionTicks)
}

func (c *Core) noQuorum() error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: fmt.Sprintf("node %d", c.id),
		Want: "a leader that a majority of the voters follows", Got: fmt.Sprintf("none for %d ticks", c.tick-c.leaderAt)})
}

// Step takes a message of another node. An error means that this node must stop.
func (c *Core) Step(m *pb.Message) error {
	if m.GetTo() != c.id || raft.IsLocalMsg(m.GetType()) || c.members.left(m.GetFrom()) || c.shuns(m) || c.presumes(m) {
		return nil
	}
	if err := c.checkDisk(m); err != nil {
		return err
	}
	_ = c.rn.Step(m) // errors say that a message was dropped, which messages may be
	return nil
}

// Unreachable tells that messages to the member were lost.
func (c *Core) Unreachable(id uint64) { c.rn.ReportUnreachable(id) }

// SnapshotSent tells whether the snapshot arrived at the member.
func (c *Core) SnapshotSent(id uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	c.rn.ReportSnapshot(id, status)
}

// Propose takes a proposal, or refuses it at once. Either way p.Done is called.
func (c *Core) Propose(p *Proposal) {
	p.deadline = c.tick + c.opts.PatienceTicks
	err := c.admit(p)
	if err == nil {
		err = c.proposals.add(p)
	}
	if err != nil {
		p.finish(nil, err)
	}
}

func (c *Core) admit(p *Proposal) error {
	if c.members.left(c.id) {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Got: fmt.Sprintf("id %d, which was removed", c.id), Where: "this node"})
	}
	if c.leaderless() {
		return c.noQuorum()
	}
	if len(p.Command) > c.opts.Limits.Command {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Want: fmt.Sprintf("at most %d bytes", c.opts.Limits.Command), Got: fmt.Sprintf("%d bytes", len(p.Command)), Where: "command"})
	}
	return nil
}

// Change proposes a change of membership; p.Done is called as for a command.
func (c *Core) Change(change Change, p *Proposal) {
	p.change = &change
	if n := len(encode(change)); n > maxChange {
		p.finish(nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Want: fmt.Sprintf("at most %d bytes", maxChange), Got: fmt.Sprintf("%d bytes", n), Where: "membership change"}))
		return
	}
	c.Propose(p)
}

// Read takes a read, or refuses it at once. Either way r.Done is called.
func (c *Core) Read(r *Read) {
	r.deadline = c.tick + c.opts.PatienceTicks
	var err error
	if c.leaderless() {
		err = c.noQuorum()
	} else if defect.On == defect.StaleRead {
		r.finish(nil)
		return
	} else {
		err = c.reads.add(r)
	}
	if err != nil {
		r.finish(err)
	}
}

// flush hands queued proposals and reads to raft.
func (c *Core) flush() {
	if c.leader == 0 {
		return
	}
	q := &c.proposals
	for len(q.queue) > 0 && len(q.pending) < c.opts.Limits.Batches {
		data, change := q.next(c.id, c.tick)
		if !c.send(data, change) {
			q.unsend()
			break
		}
		if defect.On == defect.EarlyAck {
			q.applied(appliedBatch{seq: q.seq, rest: data[batchHead:]})
		}
	}
	if ctx := c.reads.ask(c.id, c.tick, uint64(c.opts.ElectionTicks)); ctx != nil {
		c.rn.ReadIndex(ctx)
	}
}

func (c *Core) send(data []byte, change *Change) bool {
	if change == nil {
		return c.rn.Propose(data) == nil
	}
	// The real changes are worked out when the entry is applied, alike on every
	// node; until then raft sees one of id 0, which it takes for none.
	cc := &pb.ConfChangeV2{Context: data, Changes: []*pb.ConfChangeSingle{{Type: pb.ConfChangeAddNode.Enum(), NodeId: new(uint64(0))}}}
	return c.rn.ProposeConfChange(cc) == nil
}

// settle sends a fence when the oldest batch has had no outcome for long: it, or
// the leader that had it, may be lost.
func (c *Core) settle() {
	q := &c.proposals
	n, patience := len(q.pending), uint64(c.opts.ElectionTicks)
	if c.leader == 0 || n == 0 || c.tick < q.pending[0].sent+patience || c.tick < q.pending[n-1].sent+patience && len(q.pending[n-1].proposals) == 0 {
		return
	}
	if !c.send(q.fence(c.id, c.tick), nil) {
		q.unsend()
	}
}

// promote makes voters of learners that have caught up. Only the leader knows.
func (c *Core) promote() {
	if c.state != raft.StateLeader || c.promoting || c.members.Joint() || c.tick%4 != 0 {
		return
	}
	last, err := c.store.LastIndex()
	if err != nil {
		return
	}
	var change Change
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		m, ok := c.members.ByID(id)
		if ok && m.Voter && pr.IsLearner && pr.RecentActive && pr.State == tracker.StateReplicate && pr.Match+c.opts.PromoteSlack >= last {
			change.Promote = append(change.Promote, id)
		}
	})
	if len(change.Promote) > 0 {
		c.promoting = true
		c.Change(change, &Proposal{Done: func(*Proposal) { c.promoting = false }})
	}
}

// Work returns what to do next, and whether there is anything.
func (c *Core) Work() (Work, bool) {
	c.flush()
	w := Work{Send: c.out}
	c.out = nil
	if c.changed {
		w.Members, c.changed = c.members, false
	}
	if !c.rn.HasReady() {
		return w, len(w.Send) > 0 || w.Members != nil
	}
	rd := c.rn.Ready()
	if s := rd.SoftState; s != nil {
		c.follow(s)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			w.Append = m
		case raft.LocalApplyThread:
			w.Apply = m
		default:
			w.Send = append(w.Send, m)
		}
	}
	for _, rs := range rd.ReadStates {
		c.reads.answered(rs.RequestCtx, rs.Index, c.applied)
	}
	return w, true
}

// follow notes who leads. Under a new leader, what the old one had may be lost.
func (c *Core) follow(s *raft.SoftState) {
	c.state = s.RaftState
	if s.Lead == 0 && c.leader != 0 {
		c.leaderAt = c.tick
	}
	if s.Lead != 0 && s.Lead != c.leader && len(c.proposals.pending) > 0 {
		c.leader = s.Lead
		if !c.send(c.proposals.fence(c.id, c.tick), nil) {
			c.proposals.unsend()
		}
	}
	if s.Lead != 0 && s.Lead != c.leader {
		c.reads.sent = 0
	}
	c.leader = s.Lead
}

// Appended takes note that the writes of a Work's Append are on disk.
func (c *Core) Appended(m *pb.Message) {
	if !raft.IsEmptySnap(m.GetSnapshot()) {
		c.applied, c.members, c.changed = c.store.Applied(), c.store.Membership(), true
		c.proposals.unknown(c.store.origin(c.id))
		c.reads.reached(c.applied)
	}
	c.deliver(m.GetResponses())
}

// Applied takes note that the entries of a Work's Apply are applied.
func (c *Core) Applied(a Applied) {
	for _, cc := range a.changes {
		c.rn.ApplyConfChange(cc)
	}
	if a.members != nil {
		c.members, c.changed = a.members, true
	}
	c.applied = max(c.applied, a.index)
	for _, b := range a.batches {
		c.proposals.applied(b)
	}
	c.reads.reached(c.applied)
	c.deliver(a.message.GetResponses())
}

// deliver hands the responses of a finished write to whom they are for.
func (c *Core) deliver(ms []*pb.Message) {
	for _, m := range ms {
		c.followed = c.followed || m.GetType() == pb.MsgAppResp && !m.GetReject() && m.GetTo() != c.id
		if m.GetTo() != c.id {
			c.out = append(c.out, m)
		} else {
			_ = c.rn.Step(m) // as in Step; a member that was removed no longer counts itself
		}
	}
}

// Close ends everything that waits, with the reason.
func (c *Core) Close(err error) {
	c.proposals.close(err)
	c.reads.close(err)
}

// Transfer asks the member to take over as leader, before this node goes.
func (c *Core) Transfer(to uint64) { c.rn.TransferLeader(to) }

// origin returns the number of the last batch of the origin that was applied.
func (s *Store) origin(id uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.origins[id]
}

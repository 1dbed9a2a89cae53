package domain

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica/sim"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A Lie is one thing that a liar does. It may do several.
type Lie string

// The lies by which the logs of honest hosts may come to differ. By the first two a leader
// has two logs, by the others two leaders.
const (
	Fork   Lie = "fork"   // other entries to some followers, and to each the heads and votes of its own log
	Acks   Lie = "acks"   // acknowledges what it is not sent, and votes for whoever asks
	Noise  Lie = "noise"  // sends messages with fields changed at random
	Commit Lie = "commit" // entries are called committed that one follower alone has, and then it falls silent
)

// How a liar that forks speaks of heads, beside that: to each its own if none of these.
const (
	Lag   Lie = "lag"   // heads of before the lies began, which are so of every log
	Bare  Lie = "bare"  // heads that say nothing of the log, of the first tree
	Mute  Lie = "mute"  // no heads at all
	Blunt Lie = "blunt" // one story for all
	Echo  Lie = "echo"  // what others said before is handed on, again and again
)

// Lies that leave the log of honest hosts one.
const (
	Roots     Lie = "roots"     // made-up roots, to one, some or all
	Chains    Lie = "chains"    // made-up chains
	Eras      Lie = "eras"      // another era or start of the log
	Far       Lie = "far"       // heads of a log that is far ahead
	Votes     Lie = "votes"     // signatures over trees that are not
	NoVotes   Lie = "no-votes"  // no signatures over trees, no ticks
	Ticks     Lie = "ticks"     // ticks of another time
	Inflate   Lie = "inflate"   // heartbeats that name entries the other never had
	Beats     Lie = "beats"     // heartbeats as if it led, in this term
	Terms     Lie = "terms"     // heartbeats as if it led, in a later term, now and then
	Takeover  Lie = "takeover"  // asks a leader for its place, without end
	Campaigns Lie = "campaigns" // tells others to campaign, without end
	Replays   Lie = "replays"   // sends old messages again
	Silence   Lie = "silence"   // sends nothing for a while
	Swaps     Lie = "swaps"     // as a leader, has other commands in others' batches than they sent
	Poison    Lie = "poison"    // proposes what is no batch
	Usurps    Lie = "usurps"    // proposes batches in others' names
	Reads     Lie = "reads"     // answers reads, as a leader or not, as of before
)

// Lies by which one host does stop a domain, for as long as it tells them: raft gives a
// leader no deadline for its work, and any member can begin a term.
const (
	Starve Lie = "starve" // as a leader, drops what others propose
	Storm  Lie = "storm"  // heartbeats as if it led, in ever later terms
)

// Peaceful are the lies under which a domain goes on, of a liar that may lead.
var Peaceful = []Lie{Roots, Chains, Eras, Far, Votes, NoVotes, Ticks, Inflate, Beats, Terms, Takeover, Campaigns, Acks, Replays, Noise, Silence, Swaps, Poison, Usurps, Reads, Lag, Bare, Mute, Echo, Digests}

// Tongues are what a liar that forks says of heads.
var Tongues = []Lie{"", Lag, Bare, Mute, Blunt, Echo}

// liar is the adversary around one host's core: what it sends and takes passes here.
type liar struct {
	d      *Domain
	n      *Node
	rng    *rand.Rand
	on     bool
	until  time.Duration // silent until then
	story  *story
	past   map[*Node][]byte // its statements of before the lies
	said   map[*Node][][]byte
	sent   []*pb.Message
	reach  map[*sim.Host]uint64 // last entry sent
	chosen *sim.Host            // of Commit
	seq    uint64
}

func newLiar(d *Domain) *liar {
	return &liar{d: d, n: d.nodes[len(d.nodes)-1], rng: rand.New(rand.NewPCG(d.opts.Seed, 0x6c696172)), past: map[*Node][]byte{},
		said: map[*Node][][]byte{}, reach: map[*sim.Host]uint64{}, seq: 1 << 45}
}

func (l *liar) tells(lie Lie) bool { return l.on && slices.Contains(l.d.opts.Lies, lie) }

func (l *liar) has(lies ...Lie) bool {
	return slices.ContainsFunc(l.d.opts.Lies, func(x Lie) bool { return slices.Contains(lies, x) })
}

func (l *liar) told(lie Lie) {
	if l.d.Lies == nil {
		l.d.Lies = map[Lie]int{}
	}
	l.d.Lies[lie]++
}

func (l *liar) forks() bool { return l.has(Fork, Commit, Acks, Noise) }

// stalls reports whether the liar can keep a domain from going on: in each term that it
// begins, it may be the first to say that it leads.
func (l *liar) stalls() bool { return l.has(Starve, Storm) || l.has(Beats) && l.has(Terms) }

func (l *liar) chance(p float64) bool { return l.rng.Float64() < p }

// begin has the liar lead, where it takes a leader to lie, and then lie.
func (l *liar) begin() {
	for _, n := range l.d.nodes {
		if s, ok := l.n.own().says(l.n); ok {
			l.past[n] = s.Bytes()
		}
	}
	if l.has(Fork, Commit, Swaps, Starve, Reads, Inflate, Snapshots) {
		for range 20 {
			leader := l.d.c.Leader()
			if leader == l.n.host {
				break
			}
			if leader != nil {
				leader.Core().Transfer(l.n.host.Status().ID)
				leader.Pump()
			}
			l.d.c.Run(500*time.Millisecond, func() bool { return l.d.c.Leader() == l.n.host })
		}
	}
	l.on = true
	l.act()
}

func (l *liar) end() {
	if l.story != nil {
		l.story.close()
	}
}

func (l *liar) others(visit func(*Node)) {
	for _, n := range l.d.nodes {
		if n != l.n && n.host.Running() {
			visit(n)
		}
	}
}

// act sends what the core would not.
func (l *liar) act() {
	l.d.c.After(time.Duration(40+l.rng.IntN(80))*time.Millisecond, l.act)
	if !l.n.up() || l.d.c.Now() < l.until {
		return
	}
	s := l.n.host.Status()
	if l.tells(Silence) && l.chance(0.03) {
		l.until = l.d.c.Now() + time.Duration(l.rng.IntN(3000))*time.Millisecond
		l.told(Silence)
	}
	if l.tells(Fork) && s.State == raft.StateLeader && l.story == nil && l.chance(0.2) {
		l.tell()
	}
	l.beats(s.Term)
	l.elections(s.Term)
	l.propose()
	l.others(func(n *Node) {
		if l.tells(Replays) && len(l.sent) > 0 && l.chance(0.3) {
			m := l.sent[l.rng.IntN(len(l.sent))]
			if m.GetTo() == n.host.Status().ID {
				l.post(n, m, Replays)
			}
		}
	})
}

func (l *liar) post(to *Node, m *pb.Message, lie Lie) {
	l.told(lie)
	l.n.host.Post(to.host, m)
}

// forge makes a message of the liar's.
func (l *liar) forge(to *Node, t pb.MessageType, term uint64) *pb.Message {
	return &pb.Message{Type: t.Enum(), From: new(l.n.host.Status().ID), To: new(to.host.Status().ID), Term: new(term)}
}

// beats forges heartbeats.
func (l *liar) beats(term uint64) {
	if l.tells(Beats) && l.chance(0.5) {
		l.others(func(n *Node) {
			m := l.forge(n, pb.MsgHeartbeat, term)
			m.Commit = new(l.n.host.Status().Commit + uint64(l.rng.IntN(40)))
			l.post(n, m, Beats)
		})
	}
	if l.tells(Terms) && l.chance(0.02) {
		by := uint64(1 + l.rng.IntN(3))
		kind := []pb.MessageType{pb.MsgHeartbeat, pb.MsgApp, pb.MsgAppResp, pb.MsgVote}[l.rng.IntN(4)]
		l.others(func(n *Node) {
			m := l.forge(n, kind, term+by)
			m.Commit, m.Index, m.LogTerm = new(uint64(0)), new(uint64(0)), new(uint64(0))
			l.post(n, m, Terms)
		})
	}
	if l.tells(Storm) {
		l.others(func(n *Node) {
			m := l.forge(n, pb.MsgHeartbeat, max(term, n.host.Status().Term)+1)
			m.Commit = new(uint64(0))
			l.post(n, m, Storm)
		})
	}
}

// elections meddles with who leads.
func (l *liar) elections(term uint64) {
	l.others(func(n *Node) {
		if l.tells(Takeover) {
			l.post(n, l.forge(n, pb.MsgTransferLeader, 0), Takeover)
		}
		if l.tells(Campaigns) && l.chance(0.5) {
			l.post(n, l.forge(n, pb.MsgTimeoutNow, term), Campaigns)
		}
		if l.tells(Acks) {
			for _, kind := range []pb.MessageType{pb.MsgVoteResp, pb.MsgPreVoteResp, pb.MsgHeartbeatResp, pb.MsgAppResp} {
				m := l.forge(n, kind, n.host.Status().Term)
				m.Index = new(n.host.Status().Commit + uint64(l.rng.IntN(30)))
				l.post(n, m, Acks)
			}
		}
		if l.tells(Reads) {
			m := l.forge(n, pb.MsgReadIndexResp, n.host.Status().Term)
			m.Index = new(uint64(1))
			b := binary.BigEndian.AppendUint64(nil, n.host.Status().ID)
			m.Entries = []*pb.Entry{{Data: binary.BigEndian.AppendUint64(b, 1<<40+uint64(l.rng.IntN(40)))}}
			l.post(n, m, Reads)
		}
	})
}

// propose sends the leader, or takes as one, entries that no honest host would.
func (l *liar) propose() {
	if !l.chance(0.1) {
		return
	}
	var data []byte
	var lie Lie
	self := l.n.host.Status().ID
	switch {
	case l.tells(Poison):
		lie, data = Poison, [][]byte{
			{7, 7, 7}, // no head
			append([]byte{9}, make([]byte, 40)...),
			binary.AppendUvarint(batchHead(self, l.next()), 1<<40),
			appendCommand(batchHead(self, l.next()), []byte("?")),
			appendCommand(batchHead(self, l.next()), nil),
			appendCommand(batchHead(self, l.next()), []byte{200, 1, 1}),
			appendCommand(batchHead(self, l.next()), append(receipt.Header(receipt.KindTransaction), 255, 255, 255)),
		}[l.rng.IntN(5+2*l.rng.IntN(2))]
	case l.tells(Usurps):
		to := l.d.nodes[l.rng.IntN(len(l.d.nodes)-1)]
		lie, data = Usurps, batchHead(to.host.Status().ID, []uint64{1 << 42, 1 << 62, math.MaxUint64}[l.rng.IntN(3)])
	case l.tells(Votes):
		tree, err := l.n.machine().m.Head(1 + uint64(l.rng.IntN(int(l.n.machine().m.Size()))))
		if err != nil {
			return
		}
		tree.Root = keystead.Sum([]byte("made up"))
		v := ledger.NewVote(l.n.key, l.n.name, tree)
		lie, data = Votes, appendCommand(batchHead(self, l.next()), v.Entry())
	case l.tells(Ticks):
		t := ledger.NewTick(l.n.key, l.n.name, l.d.id, l.d.wall()+uint64(l.rng.IntN(1_000_000)), [32]byte{1})
		l.others(func(n *Node) { l.d.c.Carry(l.n.host, n.host, func() { n.ticked(t) }) })
		e, err := ledger.TickEntry([]ledger.SignedTick{t})
		if err != nil {
			return
		}
		lie, data = Ticks, appendCommand(batchHead(self, l.next()), e)
	default:
		return
	}
	l.others(func(n *Node) {
		if n.host.Status().State == raft.StateLeader {
			m := l.forge(n, pb.MsgProp, 0)
			m.Term, m.Entries = nil, []*pb.Entry{{Data: data}}
			l.post(n, m, lie)
		}
	})
	if l.n.host.Status().State == raft.StateLeader {
		l.told(lie)
		m := &pb.Message{Type: pb.MsgProp.Enum(), From: new(self), To: new(self), Entries: []*pb.Entry{{Data: data}}}
		_ = l.n.host.Core().Step(m) // it is the liar's own
		l.n.host.Pump()
	}
}

func (l *liar) next() uint64 {
	l.seq += 1 << 20
	return l.seq
}

// tamper is what becomes of messages that the liar sends or takes.
func (l *liar) tamper(from, to *sim.Host, m *pb.Message) []*pb.Message {
	switch {
	case !l.on:
		return []*pb.Message{m}
	case to == l.n.host:
		return l.in(m)
	case from != l.n.host:
		return []*pb.Message{m}
	case l.d.c.Now() < l.until:
		return nil
	}
	if l.sent = append(l.sent, m); len(l.sent) > 256 {
		l.sent = l.sent[1:]
	}
	switch m.GetType() {
	case pb.MsgApp:
		if l.story != nil {
			if l.story.retell(to, m); l.story.late {
				l.story.close()
				l.story = nil
			}
		}
	case pb.MsgHeartbeat:
		if l.tells(Inflate) && l.chance(0.5) {
			m.Commit = new(m.GetCommit() + 1 + uint64(l.rng.IntN(50)))
			l.told(Inflate)
		}
	}
	if l.tells(Commit) && (m.GetType() == pb.MsgApp || m.GetType() == pb.MsgHeartbeat) {
		return l.commit(to, m)
	}
	if l.tells(Noise) && l.chance(0.05) {
		l.told(Noise)
		l.noise(m)
	}
	return []*pb.Message{m}
}

// in is what the liar takes of what it is sent.
func (l *liar) in(m *pb.Message) []*pb.Message {
	if m.GetType() == pb.MsgTimeoutNow && l.tells(Takeover) {
		return nil // it has its leader wait for it
	}
	if m.GetType() != pb.MsgProp {
		return []*pb.Message{m}
	}
	if l.tells(Starve) {
		l.told(Starve)
		return nil
	}
	if l.tells(Swaps) && l.n.host.Status().State == raft.StateLeader {
		for _, e := range m.GetEntries() {
			if b, ok := parseBatch(e.GetData()); ok && len(b.commands) > 0 && l.chance(0.5) {
				l.told(Swaps)
				e.Data = l.swapped(b)
			}
		}
	}
	return []*pb.Message{m}
}

// swapped is another's batch, altered for all to have alike.
func (l *liar) swapped(b batch) []byte {
	for i, c := range b.commands {
		b.commands[i] = forgedPut(c)
	}
	if k := l.rng.IntN(len(b.commands)); l.chance(0.4) {
		b.commands = slices.Delete(b.commands, k, k+1)
	}
	return b.encode()
}

// noise changes fields of a message.
func (l *liar) noise(m *pb.Message) {
	n := new(uint64(l.rng.IntN(200)))
	switch l.rng.IntN(6) {
	case 0:
		m.Index = n
	case 1:
		m.LogTerm = new(uint64(l.rng.IntN(5)))
	case 2:
		if m.GetType() != pb.MsgApp { // else it would be another log
			m.Commit = n
		}
	case 3:
		m.Reject = new(!m.GetReject())
	case 4:
		m.RejectHint = n
	case 5:
		if e := m.GetEntries(); len(e) > 0 && m.GetType() == pb.MsgProp {
			e[0].Data = append(slices.Clone(e[0].Data), byte(l.rng.IntN(256)))
		}
	}
}

// commit tells one follower that what it has is committed, keeps it from the others, and
// then falls silent, so that others lead on without it.
func (l *liar) commit(to *sim.Host, m *pb.Message) []*pb.Message {
	if l.chosen == nil || !l.chosen.Running() {
		l.chosen = l.d.nodes[l.rng.IntN(len(l.d.nodes)-1)].host
		at := l.d.c.Now()
		l.d.c.After(400*time.Millisecond, func() { l.until = at + 3*time.Second })
		l.d.c.After(4*time.Second, func() { l.chosen = nil })
	}
	if to != l.chosen {
		m.Entries = nil
		return []*pb.Message{m}
	}
	for _, e := range m.GetEntries() {
		l.reach[to] = max(l.reach[to], e.GetIndex())
	}
	if m.GetType() == pb.MsgApp {
		l.told(Commit)
		m.Commit = new(m.GetIndex() + uint64(len(m.GetEntries())))
	}
	return []*pb.Message{m}
}

// statements is what a node shows another of heads.
func (d *Domain) statements(n, to *Node) (own []byte, heard [][]byte) {
	own, heard = n.shows()
	if d.liar == nil || d.liar.n != n || !d.liar.on {
		return own, heard
	}
	return d.liar.speak(to, own, heard)
}

// speak is what the liar shows of heads.
func (l *liar) speak(to *Node, own []byte, heard [][]byte) ([]byte, [][]byte) {
	if l.d.c.Now() < l.until || l.tells(Mute) {
		l.told(Mute)
		return nil, nil
	}
	for _, a := range l.n.book.Said() {
		if s, err := heads.Parse(a); err == nil {
			n := l.d.byName[s.Node]
			if len(l.said[n]) < 100 {
				l.said[n] = append(l.said[n], a)
			}
		}
	}
	if l.tells(Echo) {
		l.told(Echo)
		for _, n := range l.d.nodes {
			if k := len(l.said[n]); k > 0 && n != to {
				heard = append(heard, l.said[n][l.rng.IntN(k)], l.said[n][0])
			}
		}
	}
	if st := l.story; st != nil && st.victims[to.host] && !l.tells(Blunt) {
		if s, ok := st.standing().says(l.n); ok {
			own = s.Bytes()
		}
	}
	if l.tells(Lag) {
		l.told(Lag)
		return l.past[to], heard
	}
	if l.has(Roots, Chains, Eras, Far, Bare) {
		own = l.lie(to, own)
	}
	return own, heard
}

// lie makes a statement up.
func (l *liar) lie(to *Node, own []byte) []byte {
	s, err := heads.Parse(own)
	if err != nil {
		return own
	}
	log, tree := s.Log, s.Tree
	if l.tells(Roots) && l.chance([]float64{1, 0.5, 0.1}[l.d.opts.Seed%3]) && (l.d.opts.Seed%2 == 0 || to == l.d.nodes[0]) {
		l.told(Roots)
		tree.Root[0] ^= byte(1 + l.rng.IntN(255))
	}
	if l.tells(Chains) && l.chance(0.5) {
		l.told(Chains)
		log.Hash[0] ^= byte(1 + l.rng.IntN(255))
	}
	if l.tells(Eras) {
		l.told(Eras)
		log.Era, log.Start = uint64(l.rng.IntN(2)), uint64(l.rng.IntN(3))
	}
	if l.tells(Far) {
		l.told(Far)
		log.Index += uint64(l.rng.IntN(1 << 20))
	}
	if l.tells(Bare) {
		l.told(Bare)
		if h, ok, err := l.n.own().Head(1); ok && err == nil {
			log, tree = heads.Log{}, h
		}
	}
	s = heads.New(l.n.key, l.n.name, log, tree)
	return s.Bytes()
}

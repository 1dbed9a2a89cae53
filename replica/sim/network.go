package sim

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/keystead/keystead/replica"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// send puts a message on the network.
func (h *Host) send(m *pb.Message) {
	to := h.c.byID(m.GetTo())
	if m.GetType() == pb.MsgSnap {
		h.sendSnapshot(to, m)
		return
	}
	if to == nil {
		return
	}
	if h.c.opts.Tamper == nil {
		h.post(to, m)
		return
	}
	for _, m := range h.c.opts.Tamper(h, to, proto.Clone(m).(*pb.Message)) {
		h.post(to, m)
	}
}

// maxFlying is how many messages are on their way from one host to another at most.
const maxFlying = 64

// post brings a message to a host, once, twice or never.
func (h *Host) post(to *Host, m *pb.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		h.c.Fail("marshal: %v", err)
		return
	}
	copies := 1
	if h.c.chance(h.c.opts.Faults.Double) {
		copies = 2
	}
	for range copies {
		link := [2]*Host{h, to}
		if h.c.flying[link] == maxFlying {
			return // as a transport's queue that is full
		}
		h.c.flying[link]++
		h.c.After(h.c.opts.Faults.MaxDelay, func() { h.c.flying[link]-- })
		h.c.carry(h, to, func() {
			m := &pb.Message{}
			if err := proto.Unmarshal(b, m); err != nil {
				h.c.Fail("unmarshal: %v", err)
			}
			if to.core == nil {
				return
			}
			if err := to.core.Step(m); err != nil {
				to.broken(err)
			}
		})
	}
}

// Post sends a message that the host's core did not: a host may lie.
func (h *Host) Post(to *Host, m *pb.Message) {
	if h.core != nil {
		h.post(to, m)
	}
}

// Carry brings something from host to host, late or never, beside raft.
func (c *Cluster) Carry(from, to *Host, arrive func()) { c.carry(from, to, arrive) }

// carry brings something from host to host, late or never.
func (c *Cluster) carry(from, to *Host, arrive func()) bool {
	if c.cut[[2]*Host{from, to}] || c.chance(c.opts.Faults.Loss) {
		return false
	}
	to.then(100*time.Microsecond+c.upTo(c.opts.Faults.MaxDelay), arrive)
	return true
}

// sendSnapshot carries the stream of the state at the stable position.
func (h *Host) sendSnapshot(to *Host, m *pb.Message) {
	life := h.life
	sent := func(ok bool) {
		if h.life == life {
			h.then(tick, func() { h.core.SnapshotSent(m.GetTo(), ok) })
		}
	}
	cp, err := h.store.Carry()
	if err != nil { // the position is not stable any more, or a member came since
		sent(false)
		return
	}
	var stream bytes.Buffer
	if err := errors.Join(cp.WriteTo(&stream), cp.Done()); err != nil {
		h.broken(err)
		return
	}
	if to == nil {
		sent(false)
		return
	}
	h.c.trace(h, "sends id %d a snapshot at %d", m.GetTo(), cp.Metadata.GetIndex())
	b := stream.Bytes()
	if tamper := h.c.opts.TamperState; tamper != nil && to != nil {
		b = tamper(h, to, b)
	}
	if h.c.chance(h.c.opts.Faults.Corrupt) {
		b[h.c.rng.IntN(len(b))] ^= 1 << h.c.rng.IntN(8)
	}
	head := proto.Clone(m).(*pb.Message)
	carried := h.c.carry(h, to, func() {
		if to.core == nil {
			sent(false)
			return
		}
		meta, err := to.store.Receive(context.Background(), bytes.NewReader(b))
		if err != nil {
			h.c.trace(to, "refuses a snapshot: %v", err)
			if errors.Is(err, syscall.ENOSPC) {
				to.broken(err)
			}
			sent(false)
			return
		}
		head.Snapshot = &pb.Snapshot{Metadata: meta}
		if err := to.core.Step(head); err != nil {
			to.broken(err)
		}
		sent(true)
	})
	if !carried {
		sent(false)
	}
}

// ask sends all others the request for a fresh id, until enough have answered.
func (h *Host) ask() {
	request := replica.JoinRequest{Boot: h.boot, Address: h.Name}
	for _, to := range h.c.hosts {
		if to == h {
			continue
		}
		h.c.carry(h, to, func() { to.admit(h, request) })
	}
	h.then(10*tick, func() {
		if h.joining {
			h.ask()
		}
	})
}

// admit answers a host that asks for a fresh id, as replica.Node does.
func (h *Host) admit(from *Host, request replica.JoinRequest) {
	if h.core == nil {
		return
	}
	answer := func() {
		reply, change, err := h.store.Membership().Admit(from.Key, request)
		if err != nil || change != nil {
			return
		}
		id := reply.ID
		if tamper := h.c.opts.TamperJoin; tamper != nil {
			id = tamper(h, from, id)
		}
		h.c.carry(h, from, func() { from.joined(request, h, id) })
	}
	_, change, err := h.store.Membership().Admit(from.Key, request)
	if err != nil {
		h.c.trace(h, "refuses %s an id: %s", from.Name, reason(err))
		return
	}
	if change == nil {
		answer()
		return
	}
	h.core.Change(*change, &replica.Proposal{Done: func(p *replica.Proposal) {
		if p.Err == nil {
			answer()
		}
	}})
}

// joined takes an answer, and goes on once a majority of the others gave the same id, as
// replica.Node does.
func (h *Host) joined(request replica.JoinRequest, by *Host, id uint64) {
	if !h.joining || request.Boot != h.boot {
		return
	}
	h.given[by] = id
	same := 0
	for _, x := range h.given {
		if x == id {
			same++
		}
	}
	if h.c.opts.Others > 0 && same < h.c.opts.Others/2+1 {
		return
	}
	if h.c.opts.Joined != nil {
		h.c.opts.Joined(h, id)
	}
	h.joining = false
	h.c.trace(h, "is id %d from now on, and knows nothing yet", id)
	if err := errors.Join(h.store.Rejoin(id), h.begin()); err != nil {
		h.broken(err)
	}
}

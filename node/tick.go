package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// Every node signs a tick each second and hands it to all others; the leader puts
// the newest of at least a majority into one entry.
const (
	tickEvery = time.Second
	tickMax   = 3 * time.Second // since it arrived, for the leader still to take it
)

// tickBox holds the newest tick of each node.
type tickBox struct {
	mu     sync.Mutex
	newest map[string]arrivedTick
}

// arrivedTick is a tick and when it came: its own time is by another node's clock,
// which may be far from this one's.
type arrivedTick struct {
	ledger.SignedTick
	at time.Time
}

// add keeps a tick if it is newer than the one known.
func (b *tickBox) add(t ledger.SignedTick) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.newest == nil {
		b.newest = map[string]arrivedTick{}
	}
	if t.Time > b.newest[t.Node].Time {
		b.newest[t.Node] = arrivedTick{t, time.Now()}
	}
}

// arrived returns when a node's newest tick came.
func (b *tickBox) arrived(node string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.newest[node].at
}

// take returns the ticks of nodes of the roster that are later than each one's last
// in the log and have not lain here too long, if they are of a majority; nil if not. A
// node may have another key since its tick came: one bad tick would spoil the others. Those
// of nodes that are proven bad are left out.
func (b *tickBox) take(r *receipt.Roster, domain keystead.Digest, bad func(receipt.Node) bool, last func(node string) uint64, now time.Time) (out []ledger.SignedTick) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range r.Nodes {
		if t, ok := b.newest[n.Name]; ok && t.Time > last(n.Name) && now.Sub(t.at) < tickMax && !bad(n) && t.Verify(n.Key, domain) == nil {
			out = append(out, t.SignedTick)
		}
	}
	if len(out) < r.Majority() {
		return nil
	}
	return out
}

// pulse is what a node signs again and again: ticks, and heads of the tree.
type pulse struct {
	*guard
	ticks tickBox
	voter voter
}

// Tick implements serve.Domain: it takes another node's tick if its signature is
// that of a node of the roster.
func (n *pulse) Tick(entry []byte) error {
	ticks, err := ledger.ParseTicks(entry)
	if err != nil {
		return err
	}
	if len(ticks) != 1 {
		return &keystead.FormatError{Format: "tick", Field: "ticks", Problem: fmt.Sprintf("are %d, not 1", len(ticks))}
	}
	roster, _, _ := n.machine.roster()
	member, ok := roster.Node(ticks[0].Node)
	if !ok {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignerUnknown, Where: "tick", Want: "a node of the roster", Got: ticks[0].Node})
	}
	if err := ticks[0].Verify(member.Key, n.cfg.Domain); err != nil {
		return err
	}
	n.ticks.add(ticks[0])
	return nil
}

// tickLoop signs this node's ticks, and as leader proposes everyone's.
func (n *pulse) tickLoop() {
	every := time.NewTicker(tickEvery)
	defer every.Stop()
	for {
		n.tickOnce()
		select {
		case <-every.C:
		case <-n.running.Done():
			return
		}
	}
}

func (n *pulse) tickOnce() {
	roster, _, _ := n.machine.roster()
	if len(roster.Nodes) == 0 {
		return // not founded yet
	}
	defer n.startWatch()
	s := n.replica.Status()
	if k, err := n.namedKey(); err == nil && n.agreed() == nil {
		var random [32]byte
		_, _ = rand.Read(random[:]) // never fails
		own := ledger.NewTick(k, n.name, n.cfg.Domain, uint64(time.Now().UnixMilli()), random)
		n.ticks.add(own)
		if s.Leader != s.ID && s.Members != nil {
			m, _ := s.Members.ByID(s.Leader)
			if to, ok := n.contactOf(m.Key); ok {
				n.peers.tick(to, own)
			}
		}
	}
	if s.Leader != s.ID {
		return
	}
	n.proposeOwn(func() ([]byte, error) {
		ticks := n.ticks.take(&roster, n.cfg.Domain, n.provenBad, n.machine.lastTick, time.Now())
		if ticks == nil {
			return nil, nil
		}
		return ledger.TickEntry(ticks)
	})
}

// proposeOwn proposes an entry of this node's own making, and logs a refusal. It
// reports false if the entry may not have reached the log.
func (n *core) proposeOwn(entry func() ([]byte, error)) bool {
	ctx, cancel := context.WithTimeout(n.running, 5*time.Second)
	defer cancel()
	e, err := entry()
	if err == nil && e != nil {
		_, err = n.propose(ctx, e)
	}
	if err != nil {
		n.log.Debug("own entry not taken", "because", err)
	}
	return !client.Unavailable(err)
}

// bootMillis reads CLOCK_BOOTTIME, which goes on while a machine sleeps.
func bootMillis() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every Linux has it
	}
	return uint64(ts.Nano() / int64(time.Millisecond))
}

// startWatch has the domain clock compared with the node's own, from the next tick on,
// once this node has caught up with the log.
func (n *guard) startWatch() {
	n.mu.Lock()
	started := n.pace.caughtUp
	n.mu.Unlock()
	if started {
		return
	}
	ctx, cancel := context.WithTimeout(n.running, tickEvery)
	defer cancel()
	if n.replica.Read(ctx) != nil {
		return // a later tick tries again
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pace.caughtUp = true
}

// fresh refuses while this node may not grant anything: it is not sound, or its clock is
// stale (clock-stale).
func (n *guard) fresh() error {
	if err := n.sound(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pace.watch.Check(bootMillis())
}

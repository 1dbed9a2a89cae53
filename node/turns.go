package node

import (
	"container/heap"
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/keystead/keystead"
)

const (
	maxWaiting = 16          // bundles of one machine that wait for their turn
	turnCredit = time.Second // of judging that who comes now and then is ahead of who always does
)

// turns let evidence be judged, so many bundles at a time and of one machine one. Next is
// the machine whose judgements took the least time of late (start-time fair queueing:
// Goyal, Vin, Cheng, SIGCOMM 1996), not who asked first: whoever sends what takes long to
// judge waits for itself. A judgement that has begun is never cut off, for a verdict does
// not depend on how fast a node is.
type turns struct {
	most     int
	patience time.Duration

	mu      sync.Mutex
	running int
	now     time.Duration // of judging: where the latest turn given began
	of      map[keystead.Digest]*machineTurns
	ready   readyTurns // machines with something waiting, and nothing running
	swept   int        // machines known after the last sweep
}

// machineTurns are one machine's.
type machineTurns struct {
	from    time.Duration // where its next turn begins at the earliest
	running bool
	waiting []chan struct{} // closed when it is their turn
	index   int             // in ready; -1 if not there
}

// newTurns gives turns to most bundles at a time, 0 being one for every two processors: the
// others are the ledger's, whose clock has to go on whatever machines send. Who waits for
// longer than the patience is refused.
func newTurns(most int, patience time.Duration) *turns {
	if most == 0 {
		most = max(1, runtime.GOMAXPROCS(0)/2)
	}
	return &turns{most: most, patience: patience, of: map[keystead.Digest]*machineTurns{}}
}

// take waits for a machine's turn, which lasts until end is called. Refusal: overloaded.
func (t *turns) take(ctx context.Context, machine keystead.Digest) (end func(), err error) {
	t.mu.Lock()
	m := t.machine(machine)
	if len(m.waiting) == maxWaiting {
		t.mu.Unlock()
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "judgement", Want: fmt.Sprintf("at most %d bundles of a machine that wait", maxWaiting), Got: "one more"})
	}
	mine := make(chan struct{})
	m.waiting = append(m.waiting, mine)
	t.offer(m)
	t.next()
	t.mu.Unlock()
	late := time.NewTimer(t.patience)
	defer late.Stop()
	select {
	case <-mine:
		return t.begun(m), nil
	case <-late.C:
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "judgement", Want: fmt.Sprintf("a turn within %v (evidence.turn-ms)", t.patience), Got: "none: send it again"})
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !t.leave(m, mine) { // its turn came meanwhile
		t.begun(m)()
	}
	return nil, err
}

// machine returns a machine's turns, and forgets now and then who took less than the credit.
func (t *turns) machine(id keystead.Digest) *machineTurns {
	if m := t.of[id]; m != nil {
		return m
	}
	if len(t.of) > 2*t.swept+1024 {
		for id, m := range t.of {
			if !m.running && len(m.waiting) == 0 && m.from < t.now {
				delete(t.of, id)
			}
		}
		t.swept = len(t.of)
	}
	m := &machineTurns{from: t.now - turnCredit, index: -1}
	t.of[id] = m
	return m
}

// offer makes a machine ready if it can be.
func (t *turns) offer(m *machineTurns) {
	if !m.running && len(m.waiting) > 0 && m.index < 0 {
		m.from = max(m.from, t.now-turnCredit) // who was away has saved up no more than that
		heap.Push(&t.ready, m)
	}
}

// next gives the turns that there is room for.
func (t *turns) next() {
	for t.running < t.most && len(t.ready) > 0 {
		m := heap.Pop(&t.ready).(*machineTurns)
		t.now = max(t.now, m.from)
		t.running++
		m.running = true
		close(m.waiting[0])
		m.waiting = m.waiting[1:]
	}
}

// begun returns what ends a turn, which the machine then has used up.
func (t *turns) begun(m *machineTurns) (end func()) {
	began := time.Now()
	return func() {
		took := time.Since(began)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.running--
		m.running = false
		m.from += took
		t.offer(m)
		t.next()
		if t.running == 0 { // nobody waits, so nobody owes anything
			clear(t.of)
			t.now, t.swept = 0, 0
		}
	}
}

// leave takes out who waits no more, and reports false if it was its turn.
func (t *turns) leave(m *machineTurns, mine chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, w := range m.waiting {
		if w == mine {
			m.waiting = append(m.waiting[:i:i], m.waiting[i+1:]...)
			if len(m.waiting) == 0 && m.index >= 0 {
				heap.Remove(&t.ready, m.index)
			}
			return true
		}
	}
	return false
}

// readyTurns is a heap of machines, by where their next turn begins.
type readyTurns []*machineTurns

// Len implements heap.Interface.
func (r readyTurns) Len() int { return len(r) }

// Less implements heap.Interface.
func (r readyTurns) Less(i, j int) bool { return r[i].from < r[j].from }

// Swap implements heap.Interface.
func (r readyTurns) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].index, r[j].index = i, j
}

// Push implements heap.Interface.
func (r *readyTurns) Push(x any) {
	m := x.(*machineTurns)
	m.index = len(*r)
	*r = append(*r, m)
}

// Pop implements heap.Interface.
func (r *readyTurns) Pop() any {
	last := len(*r) - 1
	m := (*r)[last]
	*r = (*r)[:last]
	m.index = -1
	return m
}

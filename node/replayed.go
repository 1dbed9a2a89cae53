package node

import (
	"sync"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// Bounds of what a node keeps of hosts' logs, in bytes.
const (
	replayedHost = 1 << 20
	replayedAll  = 1 << 30
)

// replayed are the states from which evidence of hosts goes on: by host the last one,
// and the one before it, for the host learns of the last only if the answer reaches it.
// Whose state is dropped sends its logs anew. Only evidence that was allowed leaves one,
// so a stranger or a liar fills nothing. What states share, such as what a host's package
// database proves, counts once.
type replayed struct {
	mu     sync.Mutex
	hosts  map[string][2]*appraise.State
	shared map[any]int // in how many states
	size   int
	most   int // replayedAll if 0
}

// find returns the state that a continuation refers to, or nil.
func (r *replayed) find(host string, bundle evidence.Bundle) *appraise.State {
	from, ok := bundle.Continues()
	if !ok {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.hosts[host] {
		if s != nil && s.Reference() == from {
			return s
		}
	}
	return nil
}

// keep takes a host's new state. It lets go of any others' if there is too much.
func (r *replayed) keep(host string, s *appraise.State) {
	if s == nil {
		return
	}
	most := r.most
	if most == 0 {
		most = replayedAll
	}
	if _, common := s.Shared(); s.Size() > replayedHost || common > most/replayedPart {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts == nil {
		r.hosts = map[string][2]*appraise.State{}
	}
	was := r.hosts[host]
	now := [2]*appraise.State{s, was[0]}
	if was[0] == nil || was[0].Reference() == s.Reference() {
		now[1] = was[1]
	}
	r.put(host, now)
	for other := range r.hosts {
		if r.size <= most {
			return
		}
		if other != host {
			r.put(other, [2]*appraise.State{})
		}
	}
}

// replayedPart is what part of all one host's own share may be.
const replayedPart = 16

// put puts states in the place of a host's, and counts them.
func (r *replayed) put(host string, now [2]*appraise.State) {
	was := r.hosts[host]
	r.size += sizeOf(now) - sizeOf(was)
	for _, s := range now { // first, so that what stays is not let go of
		common, size := s.Shared()
		r.count(common, size, 1)
	}
	for _, s := range was {
		common, size := s.Shared()
		r.count(common, size, -1)
	}
	if now[0] == nil {
		delete(r.hosts, host)
	} else {
		r.hosts[host] = now
	}
}

// count counts what a state shares, which takes memory as long as one has it.
func (r *replayed) count(common any, size, by int) {
	if common == nil {
		return
	}
	if r.shared == nil {
		r.shared = map[any]int{}
	}
	before := r.shared[common]
	switch r.shared[common] = before + by; {
	case before == 0:
		r.size += size
	case before+by == 0:
		r.size -= size
		delete(r.shared, common)
	}
}

// drop forgets a host.
func (r *replayed) drop(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(host, [2]*appraise.State{})
}

// clear forgets all hosts, as when other terms are in force: nothing goes on from what was
// judged by the old ones, whose reference values the states would keep in memory.
func (r *replayed) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts, r.shared, r.size = nil, nil, 0
}

// sizeOf counts the second state of a host as its fixed part: what they list they share.
func sizeOf(states [2]*appraise.State) (n int) {
	for i, s := range states {
		switch {
		case s == nil:
		case i == 0:
			n += s.Size()
		default:
			n += min(s.Size(), 4096)
		}
	}
	return n
}

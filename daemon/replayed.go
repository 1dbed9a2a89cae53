package daemon

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
// so a stranger or a liar fills nothing.
type replayed struct {
	mu    sync.Mutex
	hosts map[string][2]*appraise.State
	size  int
	most  int // replayedAll if 0
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
	if s == nil || s.Size() > replayedHost {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts == nil {
		r.hosts = map[string][2]*appraise.State{}
	}
	now := r.hosts[host]
	r.size -= sizeOf(now)
	if now[0] == nil || now[0].Reference() != s.Reference() {
		now[1] = now[0]
	}
	now[0] = s
	r.hosts[host] = now
	r.size += sizeOf(now)
	most := r.most
	if most == 0 {
		most = replayedAll
	}
	for other, states := range r.hosts {
		if r.size <= most {
			return
		}
		if other != host {
			r.size -= sizeOf(states)
			delete(r.hosts, other)
		}
	}
}

// drop forgets a host.
func (r *replayed) drop(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size -= sizeOf(r.hosts[host])
	delete(r.hosts, host)
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

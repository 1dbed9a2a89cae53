package node

import "github.com/keystead/keystead/ledger"

// paceSettles is how long after its start the point of comparison may still move
// ahead, in milliseconds.
const paceSettles = 30_000

// pace compares the domain clock with the node's own (ledger.Watch). It begins with a
// tick that was committed after the node had caught up: before that, the domain clock
// may have stood still for as long as there was no majority. A first tick may be late
// too, so for a while the point of comparison moves to where the domain clock is
// furthest ahead; from then on being ahead is as stale as being behind. Nothing moves
// it back, which would let a leader hold a node in the past.
type pace struct {
	watch        ledger.Watch
	caughtUp     bool
	running      bool
	domain, boot uint64 // of the point of comparison
	settled      uint64 // on the node's own clock
}

// observe takes the domain clock of a tick as it is applied.
func (p *pace) observe(domain, boot uint64) {
	p.watch.Observe(domain)
	switch {
	case !p.caughtUp:
		return
	case !p.running:
		p.running, p.settled = true, boot+paceSettles
	case boot >= p.settled || int64(domain-p.domain) <= int64(boot-p.boot):
		return
	}
	p.domain, p.boot = domain, boot
	p.watch.Start(domain, boot)
}

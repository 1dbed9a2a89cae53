package domain

import (
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// comeback is how long a host may take from its new start until it signs again.
const comeback = 6 * time.Second

// eviction is what members do after a fork: they take the liar out, give the one host that it
// led astray another key, and have that start with an empty disk.
type eviction struct {
	victim *Node
	begun  bool          // the roster's change is on its way
	since  time.Duration // when the victim was started anew; 0 for not yet
	tries  int
	next   *key.Node // the victim's
}

// evict does the members' next step, if there is one.
func (d *Domain) evict() {
	e := &d.eviction
	if !d.opts.Evict || d.forkedAt == 0 || d.c.Err() != nil {
		return
	}
	leader := d.c.Leader()
	switch {
	case e.since != 0:
		d.returned()
		return
	case e.begun || leader == nil || !d.byKey[leader.Key].honest:
		return
	}
	side := d.provers()
	if len(side) < d.roster.Majority() || !slices.Contains(side, d.byKey[leader.Key]) {
		return
	}
	var apart []*Node
	for _, n := range d.nodes {
		if n.honest && !slices.Contains(side, n) {
			apart = append(apart, n)
		}
	}
	if len(apart) == 1 {
		e.victim, e.begun = apart[0], true
		d.reform(d.byKey[leader.Key])
	}
}

// provers returns the honest hosts of one log that have proven the liar bad.
func (d *Domain) provers() (best []*Node) {
	for _, n := range d.nodes {
		var side []*Node
		for _, o := range d.nodes {
			if o.honest && o.up() && d.proved[o] && (o == n || differ(n, o) == 0) {
				side = append(side, o)
			}
		}
		if n.honest && len(side) > len(best) {
			best = side
		}
	}
	return best
}

// reform has the roster changed, then the replica's members, and starts the victim anew.
func (d *Domain) reform(by *Node) {
	e := &d.eviction
	again := func(why any) { // the leader may have changed
		d.c.Trace("members try again: %v", why)
		d.c.After(300*time.Millisecond, func() { e.begun = false })
	}
	old, sequence := by.machine().m.Roster()
	if _, in := old.Node(d.liar.n.name); !in {
		d.expel(by, again)
		return
	}
	var chain [][]byte
	err := by.store.View(func(v replica.View) (err error) { chain, err = ledger.NewView(v).Rosters(); return err })
	e.tries++
	next, err2 := key.NewNode(fixed(fmt.Sprint(e.victim.name, " again ", e.tries), d.opts.Seed))
	if err != nil || err2 != nil {
		d.c.Fail("eviction: %v, %v", err, err2)
		return
	}
	if d.opts.Defect == OldKey {
		next = e.victim.key
	}
	c := receipt.Change{Domain: d.id, Sequence: sequence + 1, After: keystead.Sum(chain[len(chain)-1]), Roster: old}
	c.Roster.Nodes = nil
	for _, n := range old.Nodes {
		if n.Name == e.victim.name {
			n.Key = next.Public()
		}
		if n.Name != d.liar.n.name {
			c.Roster.Nodes = append(c.Roster.Nodes, n)
		}
	}
	text, err := c.Text()
	if err == nil {
		text, err = d.member.Sign(text)
	}
	entry, err2 := receipt.NoteEntry(text)
	if err != nil || err2 != nil {
		d.c.Fail("eviction: %v, %v", err, err2)
		return
	}
	by.host.Propose(entry, func(raw []byte, err error) {
		var r ledger.Result
		if err == nil {
			if r, err = ledger.ParseResult(raw); err == nil {
				err = r.Err
			}
		}
		if err != nil {
			again(err)
			return
		}
		d.c.Trace("members evict %s, and give %s another key", d.liar.n.name, e.victim.name)
		d.roster, e.next = c.Roster, next
		d.expel(by, again)
	})
}

// expel takes the liar out of the replica, and starts the victim anew.
func (d *Domain) expel(by *Node, again func(any)) {
	if m, in := by.host.Status().Members.ByKey(d.liar.n.host.Key); in {
		by.host.Change(replica.Change{Remove: []uint64{m.ID}}, func(err error) {
			if err != nil {
				again(err)
				return
			}
			d.c.After(0, func() { d.renew(d.eviction.victim) })
		})
		return
	}
	d.renew(d.eviction.victim)
}

// renew starts a host with an empty disk. It is another to the observer.
func (d *Domain) renew(n *Node) {
	if d.eviction.since != 0 {
		return
	}
	d.eviction.since = d.c.Now()
	n.host.RollBack(vfs.NewCrashableMem())
	n.key = d.eviction.next
	n.links, n.proofs, n.forsaken, n.verifier, n.known = nil, nil, false, nil, receipt.Roster{}
	for p := range d.splits {
		if p[0] == n || p[1] == n {
			delete(d.splits, p)
		}
	}
	delete(d.minority, n)
	delete(d.agreed, n)
	delete(d.claims, n)
	for _, by := range d.states {
		delete(by, n)
	}
	for _, by := range d.suspendedAt {
		delete(by, n)
	}
	d.unproven = slices.DeleteFunc(d.unproven, func(p put) bool { return p.by == n })
	d.puts = slices.DeleteFunc(d.puts, func(p put) bool { return p.by == n })
	if err := n.host.Restart(); err != nil {
		d.c.Fail("%s: start anew: %v", n.name, err)
	}
}

// returned demands that the host which was led astray signs again, by the log of the others.
func (d *Domain) returned() {
	n := d.eviction.victim
	if n.up() && n.store == n.host.Store() && n.sound() == nil {
		if !n.back {
			d.c.Trace("%s is back", n.name)
			n.back = true
			d.Returned++
		}
		return
	}
	if !n.back && d.c.Now() > d.eviction.since+comeback {
		why := "it is down, or has no state"
		if n.up() && n.store == n.host.Store() {
			why = fmt.Sprint(n.sound())
		}
		d.c.Fail("%s is not back %v after it was started anew: %s", n.name, d.c.Now()-d.eviction.since, why)
	}
}

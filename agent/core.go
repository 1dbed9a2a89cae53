package agent

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// Phase says where a host stands.
type Phase string

// The phases.
const (
	Starting    Phase = "starting"    // nothing is known yet
	Unenrolled  Phase = "unenrolled"  // members have not enrolled this machine
	Unavailable Phase = "unavailable" // no node could answer; there is no lease
	Refused     Phase = "refused"     // the nodes refused; there is no lease
	Suspended   Phase = "suspended"   // a node suspended the lease
	Admitted    Phase = "admitted"    // there is a lease
)

// Phases lists them, in the order above.
func Phases() []Phase {
	return []Phase{Starting, Unenrolled, Unavailable, Refused, Suspended, Admitted}
}

// Timing is how often the core acts.
type Timing struct {
	Interval time.Duration // between evidence; a third of the lease if 0
}

// Times of further attempts.
const (
	firstRetry    = time.Second
	lastRetry     = 15 * time.Second
	enrolmentPoll = 5 * time.Second
)

// Ready is what is to be done. The zero value is nothing.
type Ready struct {
	Prove string // purpose of the evidence to show, or ""; answered by Proved or Failed
	Close bool   // end what the lease gave; if Silent, keep what may be held on
	// Silent: the lease ran out because no node answered, and none refused.
	Silent bool
}

// Core decides for an agent. It does nothing by itself: each method takes the time,
// and returns what is to be done. It is not safe for concurrent use.
type Core struct {
	timing Timing
	random *rand.Rand

	phase    Phase
	lease    *Lease
	lost     error  // what ended the last lease; nil while there is one, or if there never was
	problem  error  // of the last attempt; nil after a good one
	next     Moment // when to show evidence again
	proving  bool
	failures int // in a row
}

// NewCore returns a core that starts by showing evidence. Random spreads the times of
// many hosts; it keeps nothing secret.
func NewCore(t Timing, random *rand.Rand) *Core {
	return &Core{timing: t, random: random, phase: Starting}
}

// Step says what is to be done at that time.
func (c *Core) Step(now Moment) (r Ready) {
	if c.lease != nil && now >= c.lease.End() {
		r.Close, r.Silent = true, unreachable(c.problem) || c.problem == nil && c.proving
		c.lease, c.phase = nil, Unavailable
		c.lost = deny(keystead.ReasonLeaseExpired, "a lease that is not over", "one that was not renewed in time")
		c.next = min(c.next, now)
	}
	if !c.proving && now >= c.next {
		c.proving = true
		r.Prove = evidence.PurposeAdmission
		if c.lease != nil {
			r.Prove = evidence.PurposeRenewal
		}
	}
	return r
}

// Next returns when Step has something to do, if nothing happens before.
func (c *Core) Next() Moment {
	next := Moment(1<<63 - 1)
	if !c.proving {
		next = c.next
	}
	if c.lease != nil {
		next = min(next, c.lease.End())
	}
	return next
}

// Proved takes the lease that evidence obtained.
func (c *Core) Proved(now Moment, l Lease) Ready {
	c.proving, c.failures, c.problem, c.lost = false, 0, nil, nil
	c.lease, c.phase = &l, Admitted
	c.next = l.Asked.Add(c.spread(c.Interval()))
	return c.Step(now)
}

// Failed takes why evidence obtained nothing. A refusal ends the lease there and then;
// only when nodes could not answer, or the nonce grew old on the way, or this machine
// could not make evidence, the lease runs on while there is another attempt.
// Evidence that came before the domain's next tick prolongs nothing, and is no trouble.
func (c *Core) Failed(now Moment, err error) Ready {
	c.proving = false
	if c.lease != nil && early(err) {
		c.failures, c.problem = 0, nil
		c.next = now.Add(c.spread(c.Interval()))
		return c.Step(now)
	}
	c.problem = err
	c.failures++
	c.next = now.Add(c.retry(err))
	if c.lease != nil && passing(err) {
		return c.Step(now)
	}
	return c.without(now, err)
}

// Told takes a refusal that a node gave to another request. One that says that there
// is no lease ends it.
func (c *Core) Told(now Moment, err error) Ready {
	if c.lease == nil || !endsLease(err) {
		return Ready{}
	}
	c.problem = err
	c.next = min(c.next, now.Add(c.retry(err)))
	return c.without(now, err)
}

// without notes that there is no lease, or no longer.
func (c *Core) without(now Moment, err error) Ready {
	had := c.lease != nil
	c.lease = nil
	if had {
		c.lost = err
		if !endsLease(err) {
			c.lost = deny(keystead.ReasonLeaseSuspended, "evidence that the nodes accept", err.Error())
		}
	}
	switch {
	case errors.Is(err, keystead.ReasonHostUnenrolled):
		c.phase = Unenrolled
	case passing(err):
		c.phase = Unavailable
	case errors.Is(c.lost, keystead.ReasonLeaseSuspended) && had:
		c.phase = Suspended
	default:
		c.phase = Refused
	}
	r := c.Step(now)
	r.Close = r.Close || had || !unreachable(err) // what was held on in silence goes, too
	return r
}

// Lease returns the lease, or why there is none: what ended the last one, such as
// lease-suspended or lease-expired; host-unenrolled; lease-unknown if there never was one.
func (c *Core) Lease(now Moment) (Lease, error) {
	switch {
	case c.lease != nil && now < c.lease.End():
		return *c.lease, nil
	case c.lease != nil:
		return Lease{}, deny(keystead.ReasonLeaseExpired, "a lease that is not over", "one that was not renewed in time")
	case c.phase == Unenrolled:
		return Lease{}, c.problem
	case c.lost != nil:
		return Lease{}, c.lost
	}
	return Lease{}, deny(keystead.ReasonLeaseUnknown, "an admitted host", "one that is "+string(c.phase))
}

// Phase returns where the host stands, and what the last attempt failed for; nil if it
// did not.
func (c *Core) Phase() (Phase, error) { return c.phase, c.problem }

// Interval is the time between evidence; 0 before there was a lease, if it follows
// from the lease. It is never more than half of the lease.
func (c *Core) Interval() time.Duration {
	switch {
	case c.lease == nil:
		return c.timing.Interval
	case c.timing.Interval == 0:
		return c.lease.Holds / 3
	}
	return min(c.timing.Interval, c.lease.Holds/2)
}

// Exposure bounds how long this machine keeps what it has once it goes bad: until it
// next shows evidence, and if it falls silent until the lease is over.
func (c *Core) Exposure(now Moment) time.Duration {
	l, err := c.Lease(now)
	if err != nil {
		return 0
	}
	return c.Interval() + l.End().Sub(now)
}

// spread takes up to a tenth off.
func (c *Core) spread(d time.Duration) time.Duration {
	return d - time.Duration(c.random.Float64()*float64(d)/10)
}

// retry doubles from attempt to attempt.
func (c *Core) retry(err error) time.Duration {
	if errors.Is(err, keystead.ReasonHostUnenrolled) {
		return c.spread(enrolmentPoll)
	}
	return c.spread(min(lastRetry, firstRetry<<min(max(c.failures-1, 0), 8)))
}

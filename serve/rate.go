package serve

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/keystead/keystead"
)

// maxAddresses bounds how many addresses a rate tells apart. What comes from more
// shares one allowance.
const maxAddresses = 1 << 14

// Source returns the address that a remote address and port counts for: of IPv6 its
// /64, which one machine can have whole. It is not valid if the remote has none.
func Source(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is6() && !addr.IsLoopback() {
		p, _ := addr.Prefix(64) // which every address of IPv6 has
		addr = p.Addr()
	}
	return addr
}

// Rate allows each source so many requests and transactions a second, and as many at
// once. This machine's own address is not limited.
type Rate struct {
	most float64 // 0 for no limit
	now  func() time.Time

	mu     sync.Mutex
	by     map[netip.Addr]*allowance
	forgot time.Time
}

type allowance struct {
	left float64
	at   time.Time
}

// NewRate allows each source so many; 0 sets no limit.
func NewRate(most int) *Rate {
	return &Rate{most: float64(most), now: time.Now, by: map[netip.Addr]*allowance{}}
}

// Take takes one from the allowance of whoever has that address and port, and refuses
// when there is none.
func (r *Rate) Take(remote string) error {
	if r.most == 0 {
		return nil
	}
	if addr := Source(remote); Own(addr) || r.allow(addr) {
		return nil
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "api", Want: fmt.Sprintf("at most %.0f requests and transactions a second from one address", r.most), Got: "more"})
}

func (r *Rate) allow(addr netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	x := r.by[addr]
	if x == nil {
		if len(r.by) >= maxAddresses {
			r.forget(now)
		}
		if len(r.by) >= maxAddresses {
			addr = netip.Addr{}
		}
		if x = r.by[addr]; x == nil {
			x = &allowance{r.most, now}
			r.by[addr] = x
		}
	}
	x.left = min(r.most, x.left+r.most*now.Sub(x.at).Seconds())
	x.at = now
	if x.left < 1 {
		return false
	}
	x.left--
	return true
}

// forget drops the allowances that are whole again, once a second at most.
func (r *Rate) forget(now time.Time) {
	if now.Sub(r.forgot) < time.Second {
		return
	}
	r.forgot = now
	for addr, x := range r.by {
		if now.Sub(x.at) >= time.Second {
			delete(r.by, addr)
		}
	}
}

// pace lets bytes of strangers come so fast and no faster: who sends more is read later. What
// comes from this machine's own address is not held up.
type pace struct {
	each, all float64 // bytes a second, of one address and altogether; a second's worth may come at once

	mu     sync.Mutex
	whole  due
	by     map[netip.Addr]*due
	forgot time.Time
}

// due is when the next byte may come, if no more is saved up than a second has.
type due struct{ at time.Time }

func newPace(each, all float64) *pace { return &pace{each: each, all: all, by: map[netip.Addr]*due{}} }

// take returns how long to wait before so many bytes of an address are read.
func (p *pace) take(addr netip.Addr, n int, now time.Time) time.Duration {
	if Own(addr) {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.by) >= maxAddresses && now.Sub(p.forgot) > time.Second {
		p.forgot = now
		for a, d := range p.by {
			if now.Sub(d.at) > time.Second {
				delete(p.by, a)
			}
		}
	}
	if p.by[addr] == nil && len(p.by) >= maxAddresses {
		addr = netip.Addr{}
	}
	if p.by[addr] == nil {
		p.by[addr] = &due{}
	}
	return max(p.whole.add(n, p.all, now), p.by[addr].add(n, p.each, now))
}

func (d *due) add(n int, rate float64, now time.Time) time.Duration {
	if least := now.Add(-time.Second); d.at.Before(least) {
		d.at = least
	}
	d.at = d.at.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	return max(0, d.at.Sub(now))
}

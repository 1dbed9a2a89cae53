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

package serve

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/keystead/keystead"
)

// Evidence bounds the bytes of evidence that are received or judged at a time.
type Evidence struct {
	Bundle  int64 // of a message of a machine
	Machine int64 // of one machine's messages
	Pending int64 // of all machines' together
	Node    int64 // of one node's, which hands on batches
}

// DefaultEvidence holds where nothing else was configured.
var DefaultEvidence = Evidence{Bundle: maxEvidence, Machine: 64 << 20, Pending: 512 << 20, Node: 192 << 20}

// Room is memory that strangers' bytes take. One half is for whoever has little of it, a
// 512th of the whole at most; of what others leave of the other, one of them gets a half at most
// (a dynamic threshold: Choudhury, Hahne, 1998). So 256 who take all that they get leave
// room for others' renewals, which are small.
type Room struct {
	size int64

	mu    sync.Mutex
	taken int64
	of    map[any]int64
}

// NewRoom makes room for so many bytes.
func NewRoom(size int64) *Room { return &Room{size: size, of: map[any]int64{}} }

// Enter takes room for somebody, who has at most so much altogether. Refusal: overloaded.
func (r *Room) Enter(who any, size, most int64) (leave func(), err error) {
	if err := r.take(who, size, most); err != nil {
		return nil, err
	}
	return func() { r.leave(who, size) }, nil
}

func (r *Room) take(who any, size, most int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	has, little, others := r.of[who]+size, r.size/512, r.taken-r.of[who]
	if has > most || r.taken+size > r.size || has > little && has > (r.size/2-others)/2 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "api", Want: "less under way", Got: "as much as memory is for"})
	}
	r.taken += size
	r.of[who] += size
	return nil
}

func (r *Room) leave(who any, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken -= size
	if r.of[who] -= size; r.of[who] == 0 {
		delete(r.of, who)
	}
}

// places are those of who does something that lasts. Who calls from this machine's own
// address may have them all.
type places struct {
	what     string
	most, of int // altogether, and of one of them

	mu    sync.Mutex
	taken int
	by    map[any]int
}

// enter takes a place until leave is called. Refusal: overloaded.
func (p *places) enter(who any) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "api", Got: "one more"}
	switch {
	case p.taken >= p.most:
		f.Want = fmt.Sprintf("at most %d %s at a time", p.most, p.what)
		return nil, keystead.Deny(f)
	case p.by[who] >= p.of && !own(who):
		f.Want = fmt.Sprintf("at most %d %s at a time of one address or key", p.of, p.what)
		return nil, keystead.Deny(f)
	}
	if p.by == nil {
		p.by = map[any]int{}
	}
	p.taken++
	p.by[who]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken--
		if p.by[who]--; p.by[who] == 0 {
			delete(p.by, who)
		}
	}, nil
}

// own reports whether somebody is the address from which this machine itself calls.
func own(who any) bool {
	addr, ok := who.(netip.Addr)
	return ok && Own(addr)
}

// Own reports whether an address is the one from which this machine itself calls,
// 127.0.0.1 or ::1. No other of the loopback is.
func Own(addr netip.Addr) bool {
	return addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback()
}

package node

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/serve"
)

// Bounds of connections.
const (
	maxArriving   = 512 // that are not known yet, since their handshakes go on
	arrivingEach  = 32  // of them from one address
	arrivalsEach  = 32  // new ones a second from one address
	strangersWide = 64  // of strangers, from one /48 of IPv6
	hostEach      = 16  // of one host
	maxNodes      = 1024
	nodeEach      = 64
)

// pool is a number of connections, and of them one address, or key, has so many at most.
// When there is no place, who has the most of them makes room for who has less.
type pool struct {
	what             string
	most, each, wide int // wide: of one /48; 0 sets no limit
	oldest           bool

	mu   sync.Mutex
	in   int
	of   map[any][]*guest // by address or key, the oldest first
	from map[netip.Prefix]int
}

func newPool(what string, most, each int) *pool {
	return &pool{what: what, most: most, each: each, of: map[any][]*guest{}, from: map[netip.Prefix]int{}}
}

// enter takes a place for a guest, and returns who is to leave for that. Refusal: overloaded.
func (p *pool) enter(g *guest, who any) (out *guest, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wide := wideOf(g.addr)
	switch {
	case len(p.of[who]) >= p.each && !(who == g.addr && serve.Own(g.addr)):
		return nil, crowded(p.what, p.each, "of one address or key")
	case p.wide > 0 && wide.IsValid() && p.from[wide] >= p.wide:
		return nil, crowded(p.what, p.wide, "of one /48")
	case p.in >= p.most:
		if out = p.pushed(len(p.of[who])); out == nil {
			return nil, crowded(p.what, p.most, "altogether")
		}
		p.remove(out)
	}
	p.in++
	p.of[who] = append(p.of[who], g)
	if wide.IsValid() {
		p.from[wide]++
	}
	g.pool, g.who = p, who
	return out, nil
}

func crowded(what string, most int, of string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "connections", Want: fmt.Sprintf("at most %d %s %s", most, what, of), Got: "one more"})
}

// pushed returns a guest of who has the most, and has at least two more than the newcomer.
func (p *pool) pushed(has int) *guest {
	most := has + 1
	var of []*guest
	for _, gs := range p.of {
		if len(gs) > most {
			most, of = len(gs), gs
		}
	}
	switch {
	case of == nil:
		return nil
	case p.oldest:
		return of[0]
	}
	return of[len(of)-1]
}

// leave gives up a guest's place, if it has one here.
func (p *pool) leave(g *guest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(g)
}

func (p *pool) remove(g *guest) {
	gs := p.of[g.who]
	for i, x := range gs {
		if x != g {
			continue
		}
		p.in--
		if p.of[g.who] = append(gs[:i:i], gs[i+1:]...); len(gs) == 1 {
			delete(p.of, g.who)
		}
		if wide := wideOf(g.addr); wide.IsValid() {
			if p.from[wide]--; p.from[wide] == 0 {
				delete(p.from, wide)
			}
		}
		return
	}
}

// wideOf is the /48 that an address of IPv6 is in; not valid for others.
func wideOf(a netip.Addr) netip.Prefix {
	if !a.Is6() || a.IsLoopback() {
		return netip.Prefix{}
	}
	p, _ := a.Prefix(48) // which every address of IPv6 has
	return p
}

// crowd is a listener of connections that strangers may open: one too many is closed before
// a byte of it is read. Who they are is not known at first; settle says it.
type crowd struct {
	net.Listener
	rate     *serve.Rate // of those that come, by address
	arriving *pool
	classes  [part.Classes]*pool
	limited  limitedFunc
}

// limitedFunc hears to whom a limit was applied, and which.
type limitedFunc func(class part.Class, from, what string, because error)

// newHall is for connections of whom nobody is told apart, so many in all.
func newHall(l net.Listener, what string, most int, limited limitedFunc) *crowd {
	return &crowd{Listener: l, rate: serve.NewRate(0), limited: limited, arriving: newPool(what, most, most)}
}

// newCrowd is for the API: strangers, of whom each address has so many, and others.
func newCrowd(l net.Listener, strangers, each, others int, limited limitedFunc) *crowd {
	c := &crowd{Listener: l, rate: serve.NewRate(arrivalsEach), limited: limited, arriving: newPool("connections whose handshakes go on", maxArriving, arrivingEach)}
	c.arriving.oldest = true
	c.classes = [part.Classes]*pool{
		part.ClassStranger: newPool("connections of strangers", strangers, each),
		part.ClassClient:   newPool("connections of clients", others, others),
		part.ClassHost:     newPool("connections of hosts", others, hostEach),
		part.ClassNode:     newPool("connections of nodes", maxNodes, nodeEach),
	}
	c.classes[part.ClassStranger].wide = strangersWide
	return c
}

// Accept implements net.Listener. The connections are of type *guest.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := conn.RemoteAddr().String()
		g := &guest{Conn: conn, addr: serve.Source(from)}
		err = c.rate.Take(from)
		var out *guest
		if err == nil {
			out, err = c.arriving.enter(g, g.addr)
		}
		c.push(out, part.ClassStranger, c.arriving)
		if err == nil {
			return g, nil
		}
		_ = conn.Close() // the client tries again, or another node
		c.limited(part.ClassStranger, from, "connection", err)
	}
}

// push closes a connection that has lost its place.
func (c *crowd) push(out *guest, class part.Class, of *pool) {
	if out == nil {
		return
	}
	_ = out.Conn.Close() // whoever uses it finds out
	c.limited(class, out.RemoteAddr().String(), "connection", crowded(of.what, of.most, "altogether, and this address or key had most of them"))
}

// settle gives a guest its place among those of its class. Without one it is closed.
func (c *crowd) settle(g *guest, class part.Class, who any) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	g.pool.leave(g)
	out, err := c.classes[class].enter(g, who)
	c.push(out, class, c.classes[class])
	if err != nil {
		g.closed = true
		c.limited(class, g.RemoteAddr().String(), "connection", err)
		return err
	}
	return nil
}

// guest is a connection that makes room when it is closed.
type guest struct {
	net.Conn
	addr netip.Addr

	mu     sync.Mutex // of where it is counted
	closed bool
	pool   *pool
	who    any
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		g.pool.leave(g)
	}
	g.mu.Unlock()
	return g.Conn.Close()
}

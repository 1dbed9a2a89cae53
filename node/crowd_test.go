package node

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/serve"
)

// arrivals is a listener that hands out connections as from other machines.
type arrivals struct {
	net.Listener
	from chan string
}

type arrival struct {
	net.Conn
	from net.Addr
}

func (a arrival) RemoteAddr() net.Addr { return a.from }

func (a arrivals) Accept() (net.Conn, error) {
	from, ok := <-a.from
	if !ok {
		return nil, net.ErrClosed
	}
	addr, err := net.ResolveTCPAddr("tcp", from)
	near, far := net.Pipe()
	far.Close()
	return arrival{near, addr}, err
}

// crowdOf lets connections in as they come from addresses, and gives all that got a place
// among strangers it. Limits are told to said.
func crowdOf(t *testing.T, strangers, each int, from []string, said *[]error) (*crowd, []*guest) {
	t.Helper()
	a := arrivals{from: make(chan string, len(from))}
	for _, f := range from {
		a.from <- f
	}
	close(a.from)
	c := newCrowd(a, strangers, each, 4, func(_ part.Class, _, _ string, because error) { *said = append(*said, because) })
	var in []*guest
	for x, err := c.Accept(); err == nil; x, err = c.Accept() {
		g := x.(*guest)
		if c.settle(g, part.ClassStranger, g.addr) == nil {
			in = append(in, g)
		}
	}
	return c, in
}

func (c *crowd) empty() bool {
	for _, p := range append(c.classes[:], c.arriving) {
		if p.in != 0 || len(p.of) != 0 || len(p.from) != 0 {
			return false
		}
	}
	return true
}

// TestCrowdFromOneAddress opens more connections than one address, one /64 and one /48 may
// have.
func TestCrowdFromOneAddress(t *testing.T) {
	var from, want []string
	come := func(address string, stays bool) {
		from = append(from, address)
		if stays {
			want = append(want, address)
		}
	}
	for i := range 20 {
		come(fmt.Sprintf("192.0.2.1:%d", i+1), i < 16)
		come(fmt.Sprintf("127.0.0.2:%d", i+1), i < 16) // of the loopback, and not this machine's own
		come(fmt.Sprintf("[2001:db8::%x]:1", i+1), i < 16)
		come(fmt.Sprintf("127.0.0.1:%d", i+1), true)
	}
	for i := range 80 { // of one /48, sixteen are there
		come(fmt.Sprintf("[2001:db8:0:%x::1]:1", i+1), i < 64-16)
	}
	var said []error
	c, in := crowdOf(t, 512, 16, from, &said)
	var got []string
	for _, g := range in {
		got = append(got, g.RemoteAddr().String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("let in %d: %q\nwant %d: %q", len(got), got, len(want), want)
	}
	if len(said) != len(from)-len(want) || !errors.Is(said[0], keystead.ReasonOverloaded) {
		t.Errorf("%d were told of %d that were turned away", len(said), len(from)-len(want))
	}
	for _, g := range in {
		for range 2 {
			_ = g.Close() // the second time is none
		}
	}
	if !c.empty() {
		t.Error("all have left, and some are counted")
	}
}

// TestCrowdMakesRoom has addresses take all places of strangers: one that has none gets one,
// from who has most, and hosts, nodes and listed clients have their own.
func TestCrowdMakesRoom(t *testing.T) {
	var from []string
	for i := range 64 {
		for j := range 8 {
			from = append(from, fmt.Sprintf("10.0.0.%d:%d", i, j+1))
		}
	}
	var said []error
	c, in := crowdOf(t, 512, 16, from, &said)
	if len(in) != 512 || len(said) != 0 {
		t.Fatalf("%d are in, %d turned away", len(in), len(said))
	}
	enter := func(remote string, class part.Class, who any) error {
		t.Helper()
		addr, err := net.ResolveTCPAddr("tcp", remote)
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		far.Close()
		g := &guest{Conn: arrival{near, addr}, addr: serve.Source(remote)}
		if _, err := c.arriving.enter(g, g.addr); err != nil {
			t.Fatal(err)
		}
		return c.settle(g, class, who)
	}
	stranger := func(remote string) error {
		return enter(remote, part.ClassStranger, serve.Source(remote))
	}
	for i := range 7 {
		if err := stranger(fmt.Sprintf("192.0.2.1:%d", i+1)); err != nil {
			t.Errorf("connection %d of a newcomer: %v", i+1, err)
		}
	}
	if err := stranger("10.0.0.1:99"); !errors.Is(err, keystead.ReasonOverloaded) {
		t.Errorf("one more of who has as many as anybody: %v", err)
	}
	if p := c.classes[part.ClassStranger]; p.in != 512 {
		t.Errorf("%d strangers are in", p.in)
	}
	for i := range 4 {
		key := keystead.Sum([]byte{byte(i)})
		for class, who := range map[part.Class]any{part.ClassHost: key, part.ClassClient: key, part.ClassNode: "n1"} {
			if err := enter("10.0.0.1:100", class, who); err != nil {
				t.Errorf("of %v, number %d: %v", class, i+1, err)
			}
		}
	}
	if err := enter("192.0.2.9:1", part.ClassHost, keystead.Sum([]byte("another"))); !errors.Is(err, keystead.ReasonOverloaded) {
		t.Errorf("a host too many: %v", err)
	}
}

// TestCrowdOfHandshakes has 64 addresses hold as many handshakes as they get, and say
// nothing: whoever comes from another gets a place for his, whose oldest goes.
func TestCrowdOfHandshakes(t *testing.T) {
	var said []error
	c := newCrowd(nil, 512, 16, 4, func(_ part.Class, _, _ string, because error) { said = append(said, because) })
	come := func(remote string) (*guest, error) {
		addr, err := net.ResolveTCPAddr("tcp", remote)
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		far.Close()
		g := &guest{Conn: arrival{near, addr}, addr: serve.Source(remote)}
		out, err := c.arriving.enter(g, g.addr)
		c.push(out, part.ClassStranger, c.arriving)
		return g, err
	}
	var first *guest
	for j := range arrivingEach {
		for i := range 64 {
			g, err := come(fmt.Sprintf("10.0.0.%d:%d", i, j+1))
			if err != nil && c.arriving.in < maxArriving {
				t.Fatal(err)
			}
			if first == nil {
				first = g
			}
		}
	}
	if _, err := come("192.0.2.1:1"); err != nil {
		t.Errorf("a newcomer: %v", err)
	}
	if _, err := first.Conn.Read(make([]byte, 1)); err == nil || c.arriving.in != maxArriving {
		t.Errorf("%d are in, and who came first is still there: %v", c.arriving.in, err)
	}
	if len(said) != 1 {
		t.Errorf("%d were told", len(said))
	}
}

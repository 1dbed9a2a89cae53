package attest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// loopback is a TCP connection of this process with itself.
func loopback(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan error, 1)
	go func() {
		var err error
		client, err = net.Dial("tcp", l.Addr().String())
		dialled <- err
	}()
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := <-dialled; err != nil {
		t.Fatal(err)
	}
	return client, server
}

// TestConnection: two machines meet, over an unbuffered pipe and over TCP, know each
// other by hardware and name, and exchange data.
func TestConnection(t *testing.T) {
	s := onStage(t)
	alice, bob := s.config(s.alice, s.bob), s.config(s.bob, s.alice)
	for name, pair := range map[string]func() (net.Conn, net.Conn){"pipe": net.Pipe, "tcp": func() (net.Conn, net.Conn) { return loopback(t) }} {
		t.Run(name, func(t *testing.T) {
			a, b := pair()
			before := time.Now()
			left, right := begin(t, roleClient, a, alice), begin(t, roleServer, b, bob)
			c, d := <-left, <-right
			if c.err != nil || d.err != nil {
				t.Fatalf("client: %v; server: %v", c.err, d.err)
			}
			for _, e := range []struct {
				conn *Conn
				peer *party
			}{{c.conn, s.bob}, {d.conn, s.alice}} {
				p := e.conn.Peer()
				if p.IsZero() || p.Name() != e.peer.name || p.Identity() != e.peer.id || !p.Verdict().Allowed() || p.Verdict().Assurance() != evidence.AssuranceTest {
					t.Errorf("want %s as peer, got %q, %v, allowed %t", e.peer.name, p.Name(), p.Identity(), p.Verdict().Allowed())
				}
				if k := p.Key(); k.IsZero() || !bytes.Equal(k.EKPublic, e.peer.keys.EKPublic) {
					t.Errorf("the peer's key is %+v", k)
				}
				if at := e.conn.Established(); at.Before(before) || at.After(time.Now()) {
					t.Errorf("established at %v", at)
				}
				if cs := e.conn.TLS(); cs.NegotiatedProtocol != Protocol || cs.DidResume {
					t.Errorf("TLS state: protocol %q, resumed %t", cs.NegotiatedProtocol, cs.DidResume)
				}
			}
			go func() {
				c.conn.Write([]byte("to the server"))
				c.conn.CloseWrite()
			}()
			if got, err := io.ReadAll(d.conn); err != nil || string(got) != "to the server" {
				t.Errorf("server read %q, %v", got, err)
			}
			go func() {
				d.conn.Write([]byte("to the client"))
				d.conn.Close()
			}()
			if got, err := io.ReadAll(c.conn); err != nil || string(got) != "to the client" {
				t.Errorf("client read %q, %v", got, err)
			}
			if err := c.conn.Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, net.ErrClosed) {
				t.Logf("close: %v", err) // the other side is gone, so that its end may not be taken
			}
		})
	}
}

// counting counts the challenges that its verifier makes.
type counting struct {
	Verifier
	made *int
}

func (c counting) Challenge(ctx context.Context, keys evidence.TPMKeys) (*appraise.Activation, error) {
	a, err := c.Verifier.Challenge(ctx, keys)
	if a != nil {
		*c.made++
	}
	return a, err
}

// TestActivatedOnce: a TPM activates its key once for one verifier, and anew for keys
// that differ in any part.
func TestActivatedOnce(t *testing.T) {
	s := onStage(t)
	made := 0
	alice, bob := s.config(s.alice, s.bob), s.config(s.bob, s.alice)
	verifier := NewAppraiser(s.knowing(s.alice))
	bob.Verifier = counting{verifier, &made}
	if !verifier.Accepted(s.alice.id).IsZero() {
		t.Error("a key is accepted before anything was activated")
	}
	for range 3 {
		if c, d := meet(t, alice, bob); c.err != nil || d.err != nil {
			t.Fatalf("client: %v; server: %v", c.err, d.err)
		}
	}
	if made != 1 {
		t.Errorf("want 1 challenge in 3 connections, got %d", made)
	}
	if k := verifier.Accepted(s.alice.id); !bytes.Equal(k.EKPublic, s.alice.keys.EKPublic) || k.Activated.IsZero() {
		t.Errorf("the accepted key is %+v", k)
	}
	longer := s.alice.as()
	longer.introduce = func() (evidence.TPMKeys, error) {
		k := s.alice.keys
		k.EKCertificate = append(k.EKCertificate[:1:1], k.EKCertificate[0])
		return k, nil
	}
	alice.Prover = longer
	if c, d := meet(t, alice, bob); c.err != nil || d.err != nil || made != 2 {
		t.Errorf("another certificate chain: want a second challenge, got %d (client: %v; server: %v)", made, c.err, d.err)
	}
}

// TestForgotten: a key that a verifier does not know any more is not taken for
// accepted.
func TestForgotten(t *testing.T) {
	s := onStage(t)
	_, _, err := NewAppraiser(s.knowing(s.alice)).Verify(ctx, Claim{Keys: s.alice.keys})
	demand(t, "no activation", err, keystead.ReasonAKUnbound)
	v := NewAppraiser(s.knowing(s.alice, s.carol))
	asked, err := v.Challenge(ctx, s.carol.keys)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = v.Verify(ctx, Claim{Keys: s.alice.keys, Activation: asked, Answer: asked.Secret})
	demand(t, "an activation of other keys", err, keystead.ReasonAKUnbound)
	if _, _, err := NewAppraiser(s.knowing(s.alice)).Verify(ctx, Claim{}); err == nil {
		t.Error("no keys: want an error")
	}
}

// TestMaxAge: a connection ends by itself, for readers and writers alike.
func TestMaxAge(t *testing.T) {
	s := onStage(t)
	alice, bob := s.config(s.alice, s.bob), s.config(s.bob, s.alice)
	bob.MaxAge = 50 * time.Millisecond
	a, b := loopback(t)
	left, right := begin(t, roleClient, a, alice), begin(t, roleServer, b, bob)
	c, d := <-left, <-right
	if c.err != nil || d.err != nil {
		t.Fatalf("client: %v; server: %v", c.err, d.err)
	}
	_, err := d.conn.Read(make([]byte, 1))
	demand(t, "read", err, keystead.ReasonConnectionExpired)
	_, err = d.conn.Write([]byte("late"))
	demand(t, "write", err, keystead.ReasonConnectionExpired)
	if _, err := c.conn.Read(make([]byte, 1)); err == nil {
		t.Error("the other side reads on")
	}
	d.conn.Close() // may fail, must not hang
}

// TestRenewed: newer evidence from elsewhere keeps a connection, as long as it is young
// enough and newer than what was last counted.
func TestRenewed(t *testing.T) {
	s := onStage(t)
	alice, bob := s.config(s.alice, s.bob), s.config(s.bob, s.alice)
	bob.MaxAge = 50 * time.Millisecond
	asked, answers := make(chan time.Time), make(chan time.Time)
	bob.Renewed = func(c *Conn) time.Time {
		asked <- c.Established()
		return <-answers
	}
	for name, last := range map[string]func(before time.Time) time.Time{
		"no more evidence":  func(time.Time) time.Time { return time.Time{} },
		"evidence too old":  func(before time.Time) time.Time { return time.Now().Add(-bob.MaxAge) },
		"the same evidence": func(before time.Time) time.Time { return before },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := loopback(t)
			left, right := begin(t, roleClient, a, alice), begin(t, roleServer, b, bob)
			c, d := <-left, <-right
			if c.err != nil || d.err != nil {
				t.Fatalf("client: %v; server: %v", c.err, d.err)
			}
			<-asked
			newer := time.Now()
			answers <- newer
			go func() { _, _ = c.conn.Write([]byte("x")) }()
			if n, err := d.conn.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Fatalf("after newer evidence: %d bytes, %v", n, err)
			}
			if counted := <-asked; !counted.Equal(newer) {
				t.Errorf("counted from %v, want %v", counted, newer)
			}
			answers <- last(newer)
			_, err := d.conn.Read(make([]byte, 1))
			demand(t, "read", err, keystead.ReasonConnectionExpired)
		})
	}
}

// TestKnownKeysAreBounded: an appraiser forgets before it grows without end.
func TestKnownKeysAreBounded(t *testing.T) {
	s := onStage(t)
	v := NewAppraiser(s.knowing(s.alice))
	for i := range maxKnown {
		v.accepted[keystead.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16)})] = knownKey{}
	}
	asked, err := v.Challenge(ctx, s.alice.keys)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.accept(s.alice.id, Claim{Keys: s.alice.keys, Activation: asked, Answer: asked.Secret}, Terms{}); err != nil {
		t.Fatal(err)
	}
	if n := len(v.accepted); n != maxKnown || v.Accepted(s.alice.id).IsZero() {
		t.Errorf("%d keys are known, the newest zero: %t", n, v.Accepted(s.alice.id).IsZero())
	}
}

// TestConfig: a side that could not prove or judge does not begin, and the connection
// it was given is closed.
func TestConfig(t *testing.T) {
	s := onStage(t)
	for what, edit := range map[string]func(*Config){
		"no prover":      func(c *Config) { c.Prover = nil },
		"no verifier":    func(c *Config) { c.Verifier = nil },
		"no certificate": func(c *Config) { c.Certificate.Certificate = nil },
		"no key":         func(c *Config) { c.Certificate.PrivateKey = nil },
		"a bad one":      func(c *Config) { c.Certificate.Certificate = [][]byte{{1}} },
		"endless":        func(c *Config) { c.MaxBundle = evidence.MaxBundle + 1 },
	} {
		cfg := s.config(s.alice, s.bob)
		edit(&cfg)
		for _, r := range []role{roleClient, roleServer} {
			a, b := net.Pipe()
			if e := <-begin(t, r, a, cfg); e.err == nil || e.conn != nil {
				t.Errorf("%s, %s: want an error", what, r)
			}
			if _, err := b.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s, %s: the connection is not closed: %v", what, r, err)
			}
		}
	}
}

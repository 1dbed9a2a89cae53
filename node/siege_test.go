//go:build !race

// What is measured here, or has to come in time while strangers take all that they can, means
// nothing under the race detector, which takes ten times as much.

package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/flood"
)

// TestBombsAtTheDoor sends what unpacks to much: packed bodies of under a megabyte
// together, and bodies as they are whose parts take fifty times their size.
func TestBombsAtTheDoor(t *testing.T) {
	for name, send := range map[string]func(s *flood.Stranger, ctx context.Context) (int, string, error){
		"packed": func() func(*flood.Stranger, context.Context) (int, string, error) {
			packed := flood.Packed(flood.Operations(4<<20 - 16))
			return func(s *flood.Stranger, ctx context.Context) (int, string, error) { return s.Bomb(ctx, packed) }
		}(),
		"as it is": func() func(*flood.Stranger, context.Context) (int, string, error) {
			body := flood.Operations(4<<20 - 16)
			return func(s *flood.Stranger, ctx context.Context) (int, string, error) { return s.Large(ctx, body) }
		}(),
		"as long as may be": func() func(*flood.Stranger, context.Context) (int, string, error) {
			body := flood.Operations(7<<18 - 16)
			return func(s *flood.Stranger, ctx context.Context) (int, string, error) { return s.Large(ctx, body) }
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			b := besiege(t, "")
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			s := flood.New(b.contact, netip.Addr{})
			defer s.Close()
			at(16, func(int) { _, _, _ = send(s, ctx) }) // a node that falls answers nobody
			b.holds("sixteen bombs, " + name)
			code, answer, err := send(s, ctx)
			t.Logf("one more: %d %.300q %v", code, answer, err)
			if code == 200 || err != nil {
				t.Errorf("one more: %d %.300q %v", code, answer, err)
			}
		})
	}
}

// TestIdleStreams has one address hold as many waiting Tails as it gets, over seven
// connections: more than there may be requests of all. Others are answered, and those that
// are held are few.
func TestIdleStreams(t *testing.T) {
	b := besiege(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cl := b.client("") // it has its connection before
	if _, err := cl.Put(ctx, "kv/a", []byte("a")); err != nil {
		t.Fatal(err)
	}
	hold, end := context.WithTimeout(ctx, 15*time.Second)
	defer end()
	var refused atomic.Int64
	var wg sync.WaitGroup
	var strangers []*flood.Stranger
	const each, connections = 2350, 7
	for range connections {
		s := flood.New(b.contact, netip.MustParseAddr("127.0.1.1"))
		s.OneConnection()
		strangers = append(strangers, s)
		for range each {
			wg.Go(func() {
				if err := s.Tail(hold); hold.Err() == nil && err != nil {
					refused.Add(1)
				}
			})
		}
	}
	read := 0
	for hold.Err() == nil {
		if _, err := cl.Read(ctx, false, "kv/a"); err != nil {
			t.Errorf("a read beside them: %v", err)
		}
		read++
	}
	wg.Wait()
	b.holds(fmt.Sprintf("%d waiting streams, of which %d were refused, and %d reads beside them", each*connections, refused.Load(), read))
	if read < 100 {
		t.Errorf("%d reads were answered in %v", read, 15*time.Second)
	}
	if refused.Load() == 0 { // those that were not wait for a stream of the few connections that the address has
		t.Error("none was refused")
	}
	for _, s := range strangers {
		s.Close()
	}
}

// TestFloodFromManyAddresses has 64 addresses do all that strangers may think of at once, for
// ten seconds: the node takes no more memory than it may, refuses nobody who is known by a
// key, and names the limits and to whom it applied them.
func TestFloodFromManyAddresses(t *testing.T) {
	b := besiege(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	pair, err := nodeCertificate(b.nodes[0].dir)
	if err != nil {
		t.Fatal(err)
	}
	known, err := client.Open(b.file, b.digest, client.Options{Certificate: &pair, Attempt: 20 * time.Second}) // as a node would
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	out, err := known.Put(ctx, "kv/large", bytes.Repeat([]byte("x"), 500<<10))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := known.Receipt(ctx, out.GetLeaf()); err != nil {
		t.Fatal(err)
	}
	hold, end := context.WithTimeout(ctx, 10*time.Second)
	defer end()
	packed, long := flood.Packed(flood.Operations(4<<20-16)), flood.Operations(7<<18-16)
	beats := []func(s *flood.Stranger){
		func(s *flood.Stranger) { _, _, _ = s.Bomb(hold, packed) },
		func(s *flood.Stranger) { _, _, _ = s.Large(hold, long) },
		func(s *flood.Stranger) { _ = s.Tail(hold) },
		func(s *flood.Stranger) { _, _, _ = s.Slow(hold, 60<<10, 4<<10, 100*time.Millisecond) },
		func(s *flood.Stranger) { _, _, _ = s.Receipts(hold, out.GetLeaf(), 256) },
		func(s *flood.Stranger) { _, _, _ = s.Receipts(hold, out.GetLeaf(), 1) },
		func(s *flood.Stranger) { _ = s.Handshake(hold) },
		func(s *flood.Stranger) { _ = s.Silent(hold) },
		func(s *flood.Stranger) { _ = s.Object(hold, []byte(rand.Text())) },
	}
	var wg sync.WaitGroup
	for _, from := range flood.Addresses(64) {
		for _, beat := range beats {
			s := flood.New(b.contact, from)
			defer s.Close()
			for range 2 {
				wg.Go(func() {
					for hold.Err() == nil {
						beat(s)
						select { // strangers have not the processors of this machine
						case <-time.After(100 * time.Millisecond):
						case <-hold.Done():
						}
					}
				})
			}
		}
	}
	var took []time.Duration
	for hold.Err() == nil {
		began := time.Now()
		if _, err := known.Put(ctx, "kv/a", []byte("a")); err != nil {
			t.Errorf("who is known is refused: %v", err)
			break
		}
		took = append(took, time.Since(began))
	}
	wg.Wait()
	if len(took) == 0 {
		t.Fatal("no transaction of who is known was done")
	}
	slices.Sort(took) // how long they take, make bench-flood measures: here the flood has the same processors
	b.holds(fmt.Sprintf("a flood from 64 addresses, beside %d transactions, most %v", len(took), took[len(took)-1]))
	said, err := os.ReadFile(b.nodes[0].log())
	if err != nil || strings.Count(string(said), `msg="limit applied" to=strangers from=127.0.1.`) == 0 {
		t.Errorf("the node names no limit that it applied: %v", err)
	}
}

//go:build !race

package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/evidence"
)

const (
	goodHosts, hostileHosts = 5, 4
	connectionsEach         = 8       // of strangers, for each hostile host and node
	slowEach                = 4       // bodies that one hostile host has under way at each node: all that it may
	lateEach                = 1       // bundles that one hostile host has judged at a time
	lateBytes               = 2 << 20 // beside what the recording has; the nodes, hosts and attackers share the processors
	delayRounds             = 3       // in one of which the processors have to be ours
	delayAtMost             = 10      // times the slowest renewal of an idle domain, or half a second if that is more
)

// renewals has each host renew over and over, and returns how long each one took from the
// request to the answer, sorted.
func renewals(t *testing.T, hosts []*host, times int) (took []time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, h := range hosts {
		all.Go(func() {
			for done := 0; done < times; {
				bundle, tick, err := h.answer(evidence.PurposeRenewal)
				if err != nil {
					t.Error(err)
					return
				}
				began := time.Now()
				_, err = h.api.Renew(h.f.ctx, &apiv1.RenewRequest{Host: h.name, Bundle: bundle, Tick: tick})
				if errors.Is(err, keystead.ReasonRenewalReplayed) {
					continue // the next tick has not come yet, or not to this node
				}
				done++
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", h.name, err)
				}
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

// late makes long evidence, all of which is well-formed and the
// quote of which is good: it fails where the log's end is compared with the quote.
func (h *host) late() (*apiv1.AdmitRequest, error) {
	raw, tick, err := h.answer(evidence.PurposeAdmission)
	if err != nil {
		return nil, err
	}
	whole, err := evidence.Parse(raw)
	if err != nil {
		return nil, err
	}
	p := whole.Parts()
	last := lastEntry(p.IMALog)
	before := p.IMALog[:len(p.IMALog)-len(last)]
	p.IMALog = slices.Concat(before, bytes.Repeat(before[len(before)-len(lastEntry(before)):], lateBytes/len(lastEntry(before))), last)
	b, err := evidence.New(p)
	return &apiv1.AdmitRequest{Host: h.name, Bundle: b.Bytes(), Tick: tick}, err
}

// lastEntry returns the last entry of an IMA log: PCR, digest, name, data.
func lastEntry(log []byte) (entry []byte) {
	for len(log) > 0 {
		name := int(binary.LittleEndian.Uint32(log[24:]))
		data := int(binary.LittleEndian.Uint32(log[28+name:]))
		entry, log = log[:32+name+data], log[32+name+data:]
	}
	return entry
}

// trickle sends on a connection a byte a second of what it announced, until it is closed.
func trickle(ctx context.Context, c net.Conn, announced string) {
	defer c.Close()
	if _, err := c.Write([]byte(announced)); err != nil {
		return
	}
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			if _, err := c.Write([]byte{0}); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// attack has a host do to every node what slows others down.
func (h *host) attack(ctx context.Context, all *sync.WaitGroup, late, other *atomic.Int64) {
	announced := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: n\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n", apiv1connect.HostServiceAdmitProcedure, 16<<20)
	for _, to := range h.f.contacts() {
		for range connectionsEach { // which never say what they are
			all.Go(func() {
				for ctx.Err() == nil {
					c, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(to.API, "https://"))
					if err != nil {
						return
					}
					trickle(ctx, c, "\x16\x03\x01")
				}
			})
		}
		for range slowEach { // which showed evidence, and have more
			all.Go(func() {
				for ctx.Err() == nil {
					c, err := h.dial(ctx, to)
					if err != nil {
						continue // the strangers above took the place
					}
					trickle(ctx, c, announced)
				}
			})
		}
	}
	all.Go(func() {
		for ctx.Err() == nil {
			r, err := h.late()
			if err != nil {
				return
			}
			var round sync.WaitGroup
			for name, to := range h.f.contacts() {
				api := h.at(name, to)
				for range lateEach {
					round.Go(func() {
						_, err := api.Admit(ctx, r)
						switch {
						case errors.Is(err, keystead.ReasonLogTruncated):
							late.Add(1)
						case ctx.Err() == nil && !errors.Is(err, keystead.ReasonOverloaded):
							h.f.t.Logf("%s at %s: %v", h.name, name, err)
							other.Add(1)
						}
					})
				}
			}
			round.Wait()
		}
	})
}

// TestHostileHostsDelayNobody has hosts that are enrolled keep every node as busy as they
// can: with connections that say a byte a second, with evidence that arrives a byte a
// second, and with long evidence that is judged to its end to be found bad. Good
// hosts' renewals go on, none of them refused.
func TestHostileHostsDelayNobody(t *testing.T) {
	f := newField(t, 3, "trust-disks=true")
	var good, hostile []*host
	for i := range goodHosts {
		h, _ := f.admitted(fmt.Sprintf("good-%d", i))
		good = append(good, h)
	}
	for i := range hostileHosts {
		h := f.host(fmt.Sprintf("hostile-%d", i))
		if err := f.enrol(h.name, h.ek); err != nil {
			t.Fatal(err)
		}
		if err := h.connect(); err != nil {
			t.Fatal(err)
		}
		hostile = append(hostile, h)
	}
	for round := 1; !timely(t, f, good, hostile) && !t.Failed(); round++ { // the processors are others', too
		if round == delayRounds {
			t.Errorf("in none of %d rounds was the slowest renewal under attack fast enough", round)
		}
	}
}

// timely reports whether good hosts' renewals took no longer under attack than they may.
func timely(t *testing.T, f *field, good, hostile []*host) bool {
	t.Helper()
	idle := renewals(t, good, 4)
	ctx, cancel := context.WithCancel(f.ctx)
	var all sync.WaitGroup
	var late, other atomic.Int64
	for _, h := range hostile {
		h.attack(ctx, &all, &late, &other)
	}
	for late.Load() < hostileHosts && ctx.Err() == nil { // the attack is under way
		_ = renewals(t, good[:1], 1)
	}
	busy := renewals(t, good, 6)
	cancel()
	all.Wait()
	if t.Failed() {
		return false
	}
	most, worst := max(idle[len(idle)-1]*delayAtMost, 500*time.Millisecond), busy[len(busy)-1]
	t.Logf("idle: median %v, slowest %v; attacked: median %v, slowest %v of at most %v; %d bundles judged late, %d other refusals", idle[len(idle)/2], idle[len(idle)-1], busy[len(busy)/2], worst, most, late.Load(), other.Load())
	return worst <= most
}

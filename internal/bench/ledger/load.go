package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
)

// figures of one run.
type figures struct {
	count    int
	failed   int
	elapsed  time.Duration
	latency  []time.Duration // a sample
	firstErr error
	keys     int // that stream 0 wrote
}

func (f *figures) rate() float64 { return float64(f.count) / f.elapsed.Seconds() }

func (f *figures) quantile(q float64) time.Duration {
	if len(f.latency) == 0 {
		return 0
	}
	slices.Sort(f.latency)
	return f.latency[min(len(f.latency)-1, int(q*float64(len(f.latency))))]
}

// check reports failures, and that nothing was done.
func (f *figures) check(what string) error {
	if f.failed > 0 || f.count == 0 {
		return fmt.Errorf("%s: %d done, %d failed: %w", what, f.count, f.failed, f.firstErr)
	}
	return nil
}

// putLoad is many clients over a few connections: each stream has clients puts
// under way at any time, in messages of whatever is due.
type putLoad struct {
	streams, clients int
	value            []byte
	duration         time.Duration
	only             string // node to send to; "" spreads over all
}

func (d *domain) puts(load putLoad) (*figures, error) {
	c, err := client.Open(d.file, d.digest, client.Options{Only: load.only})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), load.duration+20*time.Second)
	defer cancel()
	deadline, err := c.Deadline(ctx)
	if err != nil {
		return nil, err
	}
	var f figures
	var mu sync.Mutex
	var wg sync.WaitGroup
	began := time.Now()
	for s := range load.streams {
		wg.Add(1)
		go func() {
			defer wg.Done()
			one := load.stream(ctx, c, s, deadline, began)
			mu.Lock()
			defer mu.Unlock()
			f.count += one.count
			if s == 0 {
				f.keys = one.keys
			}
			f.failed += one.failed
			f.latency = append(f.latency, one.latency...)
			if f.firstErr == nil {
				f.firstErr = one.firstErr
			}
		}()
	}
	wg.Wait()
	f.elapsed = time.Since(began)
	return &f, nil
}

// benchKey is the nth key that a stream writes, from 1 on, with values of a size.
func benchKey(size, stream, n int) string { return fmt.Sprintf("kv/bench/%d/%d/%d", size, stream, n) }

// stream keeps clients puts under way on one stream until the time is over.
func (l *putLoad) stream(ctx context.Context, c *client.Client, s int, deadline uint64, began time.Time) *figures {
	f := &figures{}
	var mu sync.Mutex
	free := make(chan struct{}, l.clients)
	for range l.clients {
		free <- struct{}{}
	}
	var open atomic.Int64
	p := c.Pipeline(ctx)
	n := 0
	for time.Since(began) < l.duration && ctx.Err() == nil {
		<-free
		take := 1
	more:
		for take < 256 {
			select {
			case <-free:
				take++
			default:
				break more
			}
		}
		txs := make([]*apiv1.Transaction, take)
		for i := range txs {
			n++
			txs[i] = &apiv1.Transaction{RequestId: client.NewRequestID(), Contract: client.KV, DeadlineMs: deadline,
				Operations: []*apiv1.Operation{{Key: benchKey(len(l.value), s, n), Value: l.value}}}
		}
		sent := time.Now()
		open.Add(int64(take))
		err := p.Send(txs, func(_ *apiv1.Outcome, err error) {
			took := time.Since(sent)
			mu.Lock()
			if err != nil {
				f.failed++
				if f.firstErr == nil {
					f.firstErr = err
				}
			} else if f.count++; f.count%16 == 0 {
				f.latency = append(f.latency, took)
			}
			mu.Unlock()
			open.Add(-1)
			free <- struct{}{}
		})
		if err != nil {
			f.firstErr = err
			return f
		}
	}
	for open.Load() > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	_ = p.Close()
	f.keys = n
	return f
}

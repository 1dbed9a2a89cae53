package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/keystead/keystead/client"
)

// crew is the hosts of a share, each on its own schedule: an open loop, in which a slow
// domain is asked no less. Latency counts from when a renewal was due.
type crew struct {
	interval time.Duration
	began    time.Time // of the schedule
	contacts map[string]client.Contact

	mu       sync.Mutex
	from, to time.Time // renewals due between them are counted
	counted  window
	lost     int
	reason   string
}

// runShare is the process of a share: it has its hosts admitted, says so, renews their
// leases until its input ends, and for each line of that counts a window and reports it.
func (o *order) runShare(ctx context.Context, first int) error {
	d, err := joinDomain(o.of)
	if err != nil {
		return err
	}
	hosts, err := o.muster(ctx, d, first)
	if err != nil {
		return err
	}
	c := &crew{interval: o.interval, began: time.Now()}
	if c.contacts, err = d.contacts(); err != nil {
		return err
	}
	for i, h := range hosts {
		go c.keep(ctx, h, i, o.interval*time.Duration(i)/time.Duration(len(hosts)))
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(window{}); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		whole := d.again.Load()
		w := c.count(len(hosts))
		w.Whole = int(d.again.Load() - whole)
		if err := out.Encode(w); err != nil {
			return err
		}
	}
	return nil
}

// muster makes hosts and has them enrolled, known to every node, and admitted.
func (o *order) muster(ctx context.Context, d *domain, first int) ([]*synthetic, error) {
	cl, err := d.client("")
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	contacts, err := d.contacts()
	if err != nil {
		return nil, err
	}
	hosts := make([]*synthetic, o.hosts)
	err = all(o.hosts, o.workers, func(i int) (err error) {
		if hosts[i], err = newSynthetic(d, first+i); err != nil {
			return err
		}
		return d.enrol(ctx, cl, hosts[i])
	})
	if err != nil {
		return nil, fmt.Errorf("enrolments: %w", err)
	}
	return hosts, all(o.hosts, 12, func(i int) error {
		if err := patient(ctx, func() error { return hosts[i].meet(ctx, contacts, names[i%len(names)]) }); err != nil {
			return fmt.Errorf("connections: %w", err)
		}
		if err := patient(ctx, func() error { return hosts[i].admit(ctx) }); err != nil {
			return fmt.Errorf("admissions: %w", err)
		}
		return nil
	})
}

// keep renews a host's lease whenever it is due, until the lease ends. Once an hour it
// shows evidence to all nodes before.
func (c *crew) keep(ctx context.Context, h *synthetic, i int, phase time.Duration) {
	stay, hourly := names[i%len(names)], max(1, int(nodeAge/c.interval))
	for due := c.began.Add(phase); ctx.Err() == nil; due = due.Add(c.interval) {
		time.Sleep(time.Until(due))
		if i++; i%hourly == 0 {
			if err := patient(ctx, func() error { return h.meet(ctx, c.contacts, stay) }); err != nil {
				c.ended(fmt.Errorf("%s: %w", h.name, err))
				return
			}
		}
		if err := h.renewed(ctx); err != nil {
			c.ended(fmt.Errorf("%s: %w", h.name, err))
			return
		}
		c.renewed(due, time.Since(due))
	}
}

func (c *crew) ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost, c.reason = c.lost+1, err.Error()
}

func (c *crew) renewed(due time.Time, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !due.Before(c.from) && due.Before(c.to) {
		c.counted.Took = append(c.counted.Took, took)
	}
}

// count counts the renewals that are due in the next two intervals, and gives those that
// are late another one.
func (c *crew) count(hosts int) window {
	now := time.Now()
	c.mu.Lock()
	c.from, c.to, c.counted = now, now.Add(2*c.interval), window{Due: 2 * hosts}
	c.mu.Unlock()
	time.Sleep(2 * c.interval)
	for end := time.Now().Add(c.interval); ; time.Sleep(20 * time.Millisecond) {
		c.mu.Lock()
		w := c.counted
		w.Lost, w.Reason = c.lost, c.reason
		c.mu.Unlock()
		if len(w.Took) == w.Due || time.Now().After(end) {
			return w
		}
	}
}

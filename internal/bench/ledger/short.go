package main

import (
	"context"
	"fmt"
	"time"
)

// Floors far below what a loaded machine reaches. What falls through them is broken.
const (
	leastPuts     = 1000 // a second, as all of these
	leastReads    = 1000
	leastReceipts = 300
	mostCommit    = time.Second // of one client's puts, the median
)

// short measures a domain for a few seconds, beside nothing, and fails when a figure is
// absurd: it is a test that every part of the bench works and that no figure has
// fallen to a fraction, not a measurement.
func (o *order) short() error {
	const length = time.Second
	o.length = length
	t := newTable()
	defer t.w.Flush()
	d, err := startDomain(o.program, o.dir, 17301, o.node)
	if err != nil {
		return err
	}
	defer d.stop()
	cs, leader, lead, err := d.connect()
	if err != nil {
		return err
	}
	one := d.commit(leader, length)
	if err := one.check("one client's puts"); err != nil {
		return err
	}
	t.row("one client's commit", "p50 "+ms(one.quantile(.5)), "<= "+ms(mostCommit), "")
	if one.quantile(.5) > mostCommit {
		return fmt.Errorf("one client's commit takes %s, which is absurd", ms(one.quantile(.5)))
	}
	floor := func(what string, f *figures, least float64) error {
		if err := f.check(what); err != nil {
			return err
		}
		t.row(what, fmt.Sprintf("%.0f/s, p99 %s", f.rate(), ms(f.quantile(.99))), fmt.Sprintf(">= %.0f/s", least), "")
		if f.rate() < least {
			return fmt.Errorf("%.0f %s a second, which is absurd: at least %.0f are expected", f.rate(), what, least)
		}
		return nil
	}
	for _, size := range sizes {
		f, err := d.puts(o.load(size, lead))
		if err != nil {
			return err
		}
		if err := floor(fmt.Sprintf("puts of %d B", size), f, leastPuts); err != nil {
			return err
		}
		if err := floor(fmt.Sprintf("linearizable reads of %d B, 64 a call", size), d.reads(cs, 64, 64, size, f.keys, length), leastReads); err != nil {
			return err
		}
	}
	s, err := leader.Status(context.Background())
	if err != nil {
		return err
	}
	return floor("receipts, 64 a call", d.receipts(cs, 8, 64, s.GetCheckpointSize(), length), leastReceipts)
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/bench/profiled"
)

var sizes = []int{100, 1024} // of the values that are put

// peer is what the yardsticks did under the same load.
type peer struct{ bare, inside, etcd float64 }

// load is many clients' puts of values of a size, which do not compress.
func (o *order) load(size int, only string) putLoad {
	value := make([]byte, size)
	_, _ = rand.Read(value) // never fails
	return putLoad{streams: o.streams, clients: o.clients / o.streams, value: value, duration: o.length, only: only}
}

// bench measures the parts that are wanted.
func (o *order) bench() error {
	if o.pprof != 0 {
		profiled.Serve(o.pprof)
	}
	t := newTable()
	defer t.w.Flush()
	if o.wants("commit") {
		if err := o.commit(t); err != nil {
			return err
		}
	}
	peers := map[int]peer{}
	if o.wants("puts") {
		for _, size := range sizes {
			p, err := o.peer(size)
			if err != nil {
				return err
			}
			peers[size] = p
		}
	}
	if o.wants("puts") || o.wants("reads") || o.wants("receipts") {
		if err := o.loads(t, peers); err != nil {
			return err
		}
	}
	if o.wants("keys") {
		if err := keysBench(&t, o.program, o.dir, o.node, o.length); err != nil {
			return err
		}
	}
	if o.wants("positions") {
		if err := o.positions(t); err != nil {
			return err
		}
	}
	if o.wants("take") {
		return o.take(t)
	}
	return nil
}

// commit measures the latency of one client's puts on a fresh domain, beside those of
// the bare loop.
func (o *order) commit(t table) error {
	bare, inside, err := o.bareCommit()
	if err != nil {
		return err
	}
	sync, err := fsync(o.dir, 1)
	if err != nil {
		return err
	}
	three, err := fsync(o.dir, 3)
	if err != nil {
		return err
	}
	d, err := startDomain(o.program, o.dir, 17101, o.node)
	if err != nil {
		return err
	}
	defer d.stop()
	_, leader, _, err := d.connect()
	if err != nil {
		return err
	}
	trip := d.roundTrip(leader)
	one := d.commit(leader, o.length/2)
	if err := one.check("one client's puts"); err != nil {
		return err
	}
	t.row("one client's commit", fmt.Sprintf("p50 %s, p99 %s", ms(one.quantile(.5)), ms(one.quantile(.99))), ms((sync+trip)*3/2),
		fmt.Sprintf("fsync %s (of three files at once %s) + round trip %s; bare loop p50 %s, from inside %s", ms(sync), ms(three), ms(trip), ms(bare), ms(inside)))
	return nil
}

// bareCommit is one client's median commit on the bare loop, over its API and from inside.
func (o *order) bareCommit() (over, inside time.Duration, err error) {
	b, err := startBare(o.program, o.dir, 17401)
	if err != nil {
		return 0, 0, err
	}
	defer b.stop()
	_, leader, _, err := b.connect()
	if err != nil {
		return 0, 0, err
	}
	one := b.commit(leader, o.length/4)
	f, err := b.inside(1, 160, o.length/4)
	if err != nil {
		return 0, 0, err
	}
	return one.quantile(.5), f.quantile(.5), one.check("the bare loop's puts")
}

// peer loads the yardsticks.
func (o *order) peer(size int) (p peer, err error) {
	b, err := startBare(o.program, o.dir, 17401)
	if err != nil {
		return p, err
	}
	defer b.stop()
	_, _, lead, err := b.connect()
	if err != nil {
		return p, err
	}
	f, err := b.puts(o.load(size, lead))
	if err == nil {
		err = f.check("the bare loop's puts")
	}
	if err != nil {
		return p, err
	}
	p.bare = f.rate()
	if f, err = b.inside(o.clients, size+60, o.length); err != nil { // as large as the entry of such a put
		return p, err
	}
	p.inside = f.rate()
	b.stop()
	e, err := startEtcd(o.dir, 17501)
	if err != nil {
		return p, err
	}
	defer e.stop()
	f = etcdPuts(17501, o.clients, o.load(size, "").value, o.length)
	if f.count == 0 {
		return p, fmt.Errorf("etcd: %w", f.firstErr)
	}
	p.etcd = f.rate()
	return p, nil
}

// loads measures puts, reads and receipts on one domain: reads before and after the
// heavy load, whose compactions they meet.
func (o *order) loads(t table, peers map[int]peer) error {
	d, err := startDomain(o.program, o.dir, 17101, o.node)
	if err != nil {
		return err
	}
	defer d.stop()
	cs, leader, lead, err := d.connect()
	if err != nil {
		return err
	}
	memory, disk := d.rss(), d.disk()
	small, err := o.puts(t, d, peers, sizes[0], lead)
	if err != nil {
		return err
	}
	s, err := leader.Status(context.Background())
	if err != nil {
		return err
	}
	leaves := s.GetTreeSize()
	if o.wants("puts") {
		per := 1e6 / float64(leaves)
		t.row("memory a node, per million entries of 100 B", fmt.Sprintf("%.0f MiB", float64(d.rss()-memory)/3*per/(1<<20)), "", fmt.Sprintf("%d entries", leaves))
		t.row("disk a node, per million entries of 100 B", fmt.Sprintf("%.0f MiB", float64(d.disk()-disk)/3*per/(1<<20)), "", "log not yet cut included")
	}
	if o.wants("reads") {
		if err := o.reads(t, d, cs, sizes[0], small.keys, "fresh"); err != nil {
			return err
		}
	}
	if o.wants("puts") || o.wants("reads") {
		large, err := o.puts(t, d, peers, sizes[1], lead)
		if err != nil {
			return err
		}
		if o.wants("reads") {
			err = errors.Join(o.reads(t, d, cs, sizes[0], small.keys, "after the load of 1 KiB"), o.reads(t, d, cs, sizes[1], large.keys, "after it"))
		}
		if err != nil {
			return err
		}
	}
	if !o.wants("receipts") {
		return nil
	}
	for _, perCall := range []int{1, 64} {
		f := d.receipts(cs, 32, perCall, leaves, o.length)
		if err := f.check("receipts"); err != nil {
			return err
		}
		t.row(fmt.Sprintf("receipts made, sent and verified, %d a call", perCall), fmt.Sprintf("%.0f/s, p99 %s", f.rate(), ms(f.quantile(.99))), "20000/s", fmt.Sprintf("%.0f calls/s", f.rate()/float64(perCall)))
	}
	return nil
}

// puts loads a domain with puts, and prints them beside the yardsticks if there are any.
func (o *order) puts(t table, d *domain, peers map[int]peer, size int, lead string) (*figures, error) {
	f, err := d.puts(o.load(size, lead))
	if err == nil {
		err = f.check("puts")
	}
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("puts of %d B, %d clients", size, o.clients)
	t.row(name, fmt.Sprintf("%.0f/s, p50 %s, p99 %s", f.rate(), ms(f.quantile(.5)), ms(f.quantile(.99))), "60000/s, p99 50 ms", "")
	if p, ok := peers[size]; ok {
		t.row(name+" / bare loop", fmt.Sprintf("%.2f", f.rate()/p.bare), ">= 0.60", fmt.Sprintf("bare loop %.0f/s; from inside, without API and clients, %.0f/s", p.bare, p.inside))
		t.row(name+" / etcd", fmt.Sprintf("%.1f", f.rate()/p.etcd), ">= 5", fmt.Sprintf("etcd %.0f/s", p.etcd))
	}
	return f, nil
}

func (o *order) reads(t table, d *domain, cs []*client.Client, size, keys int, when string) error {
	for _, perCall := range []int{1, 64} {
		f := d.reads(cs, 256, perCall, size, keys, o.length)
		if err := f.check("reads"); err != nil {
			return err
		}
		t.row(fmt.Sprintf("linearizable reads of %d B, %d a call, %s", size, perCall, when), fmt.Sprintf("%.0f/s, p50 %s, p99 %s", f.rate(), ms(f.quantile(.5)), ms(f.quantile(.99))),
			"100000/s", fmt.Sprintf("%.0f calls/s", f.rate()/float64(perCall)))
	}
	return nil
}

// Command hosts measures admission by three node processes on this machine, each with
// a software TPM, over attested connections, with fsync, tree and checkpoints on. The
// hosts are synthetic: keys in memory that sign well-formed quotes over a recorded
// boot, so that the nodes are what is measured. Everything shares the machine's
// cores, the load included.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/bench/profiled"
)

// order is what is to be measured, and with what load.
type order struct {
	program, dir   string
	hosts, workers int
	length         time.Duration
	pprof          int

	floods bool   // strangers flood the domain
	only   string // flood, of all
	storm  string // the flood that this process is
	leaf   uint64 // of a large entry
	short  bool   // of floods: that it runs is what counts

	most     int           // hosts of a fleet; 0 for the other figures
	interval time.Duration // between two renewals of a fleet's host
	of       string        // the directory of the domain that a share's hosts are of
}

func main() {
	var o order
	flag.StringVar(&o.program, "program", "build/keystead", "`PATH` of the program")
	flag.StringVar(&o.dir, "dir", "build", "where to put the stores: on a disk, for fsync to mean something")
	flag.IntVar(&o.hosts, "hosts", 2000, "hosts of the load; of a fleet, by how many it grows")
	flag.IntVar(&o.most, "fleet", 0, "have the fleet grow to so many hosts, as long as the domain holds them")
	flag.DurationVar(&o.interval, "interval", time.Minute, "how often each host of the fleet re-attests")
	flag.DurationVar(&o.length, "length", 10*time.Second, "how long leases are renewed")
	flag.IntVar(&o.workers, "workers", 48, "requests under way")
	flag.IntVar(&o.pprof, "pprof", 0, "serve net/http/pprof of the bench on this port and of the nodes on the three after it")
	flag.BoolVar(&o.floods, "flood", false, "have strangers flood the domain, in one way after the other for -length each, beside -hosts good ones")
	flag.BoolVar(&o.short, "short", false, "of -flood: do not fail for figures")
	flag.StringVar(&o.only, "only", "", "of -flood: this one alone")
	flag.StringVar(&o.storm, "storm", "", "be the strangers of that flood")
	flag.Uint64Var(&o.leaf, "leaf", 0, "of -storm: a leaf with a large entry")
	node := flag.String("profiled", "", "be a node of that configuration, with net/http/pprof")
	share := flag.Int("share", -1, "be a process with the fleet's hosts from that number on")
	flag.StringVar(&o.of, "of", "", "of a share: the directory of its domain")
	flag.Parse()
	run := o.bench
	switch {
	case *node != "":
		run = func(context.Context) error { return profiled.Node(*node, o.pprof) }
	case *share >= 0:
		run = func(ctx context.Context) error { return o.runShare(ctx, *share) }
	case o.most > 0:
		run = o.fleet
	case o.storm != "":
		run = o.runStorms
	case o.floods:
		run = o.flood
	}
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o *order) bench(ctx context.Context) (err error) {
	if o.pprof != 0 {
		profiled.Serve(o.pprof)
	}
	count, workers := o.hosts, o.workers
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	defer w.Flush()
	row := func(figure, measured, limit string) { fmt.Fprintf(w, "%s\t%s\t%s\n", figure, measured, limit) }
	row("figure (synthetic hosts)", "measured", "limit")
	d, err := startDomain(ctx, o, 17601)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	hosts := make([]*synthetic, count)
	if err := all(count, workers, func(i int) (err error) { hosts[i], err = newSynthetic(d, i); return err }); err != nil {
		return err
	}
	cl, err := d.client("")
	if err != nil {
		return err
	}
	defer cl.Close()
	contacts, err := d.contacts()
	if err != nil {
		return err
	}
	rate, err := timed(count, workers, func(i int) error { return d.enrol(ctx, cl, hosts[i]) }) // the client asks again by itself
	if err != nil {
		return fmt.Errorf("enrolments: %w", err)
	}
	row("enrolments judged and endorsed by three nodes", fmt.Sprintf("%.0f/s", rate), "")
	rate, err = timed(count, 12, func(i int) error {
		return patient(ctx, func() error { return hosts[i].meet(ctx, contacts, names[i%len(names)]) })
	})
	if err != nil {
		return fmt.Errorf("connections: %w", err)
	}
	row("attested connections, activation included", fmt.Sprintf("%.0f/s", 3*rate), "")
	before := d.rss()
	cpu := d.cpu()
	rate, err = timed(count, workers, func(i int) error { return patient(ctx, func() error { return hosts[i].admit(ctx) }) })
	if err != nil {
		return fmt.Errorf("admissions: %w", err)
	}
	row("admissions judged and endorsed by three nodes", fmt.Sprintf("%.0f/s, %.1f ms of processor each, all nodes together", rate, (d.cpu()-cpu).Seconds()*1e3/float64(count)), "")
	row("memory a node and admitted host", fmt.Sprintf("%.1f KiB", float64(d.rss()-before)/3/float64(count)/1024), "")
	handed, waited, err := releases(ctx, d, cl, hosts, min(count, 64), o.length)
	if err != nil {
		return fmt.Errorf("releases: %w", err)
	}
	row("keys released to admitted hosts, each with ReadIndex", fmt.Sprintf("%.0f/s, p50 %v, p99 %v", handed, waited[0].Round(100*time.Microsecond), waited[1].Round(100*time.Microsecond)), ">= 1000/s")
	cpu = d.cpu()
	began := time.Now()
	renewed, latency, err := renewals(ctx, hosts, min(count, 8*workers), o.length) // as many hosts wait for a batch at a time
	if err != nil {
		return fmt.Errorf("renewals: %w", err)
	}
	each := (d.cpu() - cpu).Seconds() * 1e3 / (renewed * time.Since(began).Seconds())
	row(fmt.Sprintf("renewals judged by two nodes, %d hosts", count), fmt.Sprintf("%.0f/s, p50 %v, p99 %v, %.2f ms of processor each, all nodes together", renewed,
		latency[0].Round(time.Millisecond), latency[1].Round(time.Millisecond), each), ">= 1700/s")
	row("of these sent whole because a node asked for it", fmt.Sprint(d.again.Load()), "")
	took, err := refusals(ctx, d, hosts[:min(20, count)], contacts)
	if err != nil {
		return fmt.Errorf("refusals: %w", err)
	}
	row("bad quote to refusal on all nodes", fmt.Sprintf("p50 %v, most %v", took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond)), "< 500 ms")
	return nil
}

// all does n things, so many at a time, and stops at the first error.
func all(n, workers int, do func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// patient does something again while nodes are unavailable, as a host would.
func patient(ctx context.Context, do func() error) error {
	end := time.Now().Add(30 * time.Second)
	for {
		err := do()
		if err == nil || !client.Unavailable(err) || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// timed is all, and how many a second.
func timed(n, workers int, do func(i int) error) (float64, error) {
	began := time.Now()
	err := all(n, workers, do)
	return float64(n) / time.Since(began).Seconds(), err
}

// renewals has every host renew its lease upon every tick that it can, and returns
// how many a second took effect, with median and 99th percentile of their times.
func renewals(ctx context.Context, hosts []*synthetic, workers int, length time.Duration) (float64, [2]time.Duration, error) {
	var nonces sync.Map // by node: the newest
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range names {
		h := hosts[i%len(hosts)]
		n, err := h.api.Nonce(ctx)
		if err != nil {
			return 0, [2]time.Duration{}, err
		}
		nonces.Store(i, n)
		go func() {
			for ctx.Err() == nil {
				if n, err := h.api.Nonce(ctx); err == nil {
					nonces.Store(i, n)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	var mu sync.Mutex
	var took []time.Duration
	end := time.Now().Add(length)
	began := time.Now()
	err := all(workers, workers, func(worker int) error {
		for time.Now().Before(end) {
			idle := true
			for i := worker; i < len(hosts) && time.Now().Before(end); i += workers {
				n, _ := nonces.Load(i % len(names))
				start := time.Now()
				did, err := hosts[i].renew(ctx, n.(*apiv1.NonceResponse))
				if err != nil && client.Unavailable(err) && !errors.Is(err, keystead.ReasonLeaseExpired) {
					continue // as a host would, again with the next tick
				}
				if err != nil {
					return fmt.Errorf("%s: %w", hosts[i].name, err)
				}
				if did {
					idle = false
					mu.Lock()
					took = append(took, time.Since(start))
					mu.Unlock()
				}
			}
			if idle {
				time.Sleep(5 * time.Millisecond)
			}
		}
		return nil
	})
	rate := float64(len(took)) / time.Since(began).Seconds()
	if err != nil || len(took) == 0 {
		return 0, [2]time.Duration{}, errors.Join(err, ctx.Err())
	}
	slices.Sort(took)
	return rate, [2]time.Duration{took[len(took)/2], took[len(took)*99/100]}, nil
}

// refusals has hosts go bad, one after the other, and measures from the bad quote to
// where every node refuses the host an SVID. Each asks on connections of before.
func refusals(ctx context.Context, d *domain, hosts []*synthetic, contacts map[string]client.Contact) (took []time.Duration, err error) {
	for _, h := range hosts {
		apis := map[string]*client.Host{}
		for name, to := range contacts {
			apis[name] = client.NewHost(client.HostOptions{Dial: h.dial, MaxAge: time.Hour})
			apis[name].Nodes(map[string]client.Contact{name: to})
			if _, err := apis[name].IssueSVID(ctx, h.name); err != nil {
				return nil, err
			}
		}
		n, err := h.api.Nonce(ctx)
		for err == nil && n.GetTick() == h.tick { // it answered that one
			time.Sleep(10 * time.Millisecond)
			n, err = h.api.Nonce(ctx)
		}
		if err != nil {
			return nil, err
		}
		h.phase, h.banks = 1, h.rec.Phases[1].PCRs
		bad, err := h.evidence(n, evidence.PurposeRenewal)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if _, err := h.api.Renew(ctx, &apiv1.RenewRequest{Host: h.name, Bundle: bad, Tick: n.GetTick()}); !errors.Is(err, keystead.ReasonFileAltered) {
			return nil, fmt.Errorf("a bad quote is answered by %v", err)
		}
		for _, api := range apis {
			for {
				if _, err := api.IssueSVID(ctx, h.name); errors.Is(err, keystead.ReasonLeaseSuspended) {
					break
				} else if time.Since(began) > 30*time.Second {
					return nil, fmt.Errorf("after 30 s a node answers %v", err)
				}
			}
		}
		took = append(took, time.Since(began))
		for _, api := range apis {
			api.Close()
		}
	}
	slices.Sort(took)
	return took, nil
}

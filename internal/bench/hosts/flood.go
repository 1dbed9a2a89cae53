package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/flood"
)

// Limits of a flood.
const (
	floodAddresses = 64
	floodMemory    = 512 // MiB that a node has at most above its idle memory
	floodPatience  = time.Second
)

// A wave is one kind of flood: what a stranger does again and again, and how many of its
// address do so at a time, at each node.
type wave struct {
	name  string
	beat  func(ctx context.Context, s *flood.Stranger)
	depth int
}

// waves are all kinds.
func waves(leaf uint64) []wave {
	body := flood.Operations(4<<20 - 16)
	packed, long := flood.Packed(body), body[:0:0]
	long = append(long, flood.Operations(7<<18-16)...)
	return []wave{
		{"none", func(ctx context.Context, _ *flood.Stranger) { <-ctx.Done() }, 0},
		{"packed bombs", func(ctx context.Context, s *flood.Stranger) { _, _, _ = s.Bomb(ctx, packed) }, 2},
		{"bombs of 1.75 MiB", func(ctx context.Context, s *flood.Stranger) { _, _, _ = s.Large(ctx, long) }, 2},
		{"idle streams", func(ctx context.Context, s *flood.Stranger) { _ = s.Tail(ctx) }, 16},
		{"slow bodies", func(ctx context.Context, s *flood.Stranger) {
			_, _, _ = s.Slow(ctx, 60<<10, 4<<10, 100*time.Millisecond)
		}, 8},
		{"a receipt 256 times", func(ctx context.Context, s *flood.Stranger) { _, _, _ = s.Receipts(ctx, leaf, 256) }, 2},
		{"handshakes", func(ctx context.Context, s *flood.Stranger) { _ = s.Handshake(ctx) }, 2},
		{"silent connections", func(ctx context.Context, s *flood.Stranger) { _ = s.Silent(ctx) }, 16},
	}
}

// flood has strangers of 64 addresses flood all nodes in one way after the other, and
// measures what memory that takes and how long good hosts wait for renewals, SVIDs and
// new connections beside it.
func (o *order) flood(ctx context.Context) (err error) {
	d, err := startDomain(ctx, o, 17601)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	hosts := make([]*synthetic, o.hosts)
	cl, err := d.client("")
	if err != nil {
		return err
	}
	defer cl.Close()
	contacts, err := d.contacts()
	if err != nil {
		return err
	}
	for i := range hosts {
		if hosts[i], err = newSynthetic(d, i); err != nil {
			return err
		}
		h := hosts[i]
		for _, do := range []func() error{func() error { return d.enrol(ctx, cl, h) }, func() error { return h.meet(ctx, contacts, names[i%len(names)]) }, func() error { return h.admit(ctx) }} {
			if err := patient(ctx, do); err != nil {
				return fmt.Errorf("%s: %w", h.name, err)
			}
		}
	}
	put, err := cl.Put(ctx, "kv/large", bytes.Repeat([]byte("x"), 500<<10))
	if err != nil {
		return err
	}
	if _, _, err := cl.Receipt(ctx, put.GetLeaf()); err != nil {
		return err
	}
	o.leaf = put.GetLeaf()
	idle := d.peaks()
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "flood from %d addresses at each of 3 nodes\tMiB above idle (limit %d)\trenewals\tp50\tp99 (limit %v)\tmost\tSVID p99\tnew connection, most\tlimits named\tmet\n", floodAddresses, floodMemory, floodPatience)
	missed := false
	for _, x := range waves(put.GetLeaf()) {
		if o.only != "" && x.name != o.only {
			continue
		}
		r, err := o.wave(ctx, d, x, hosts, contacts)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", x.name, err), w.Flush())
		}
		above := 0
		for i, p := range d.peaks() {
			above = max(above, p-idle[i])
		}
		met := above <= floodMemory && quantile(r.renewals, 99) <= floodPatience && quantile(r.issued, 99) <= floodPatience && len(r.renewals) > 0
		missed = missed || !met
		fmt.Fprintf(w, "%s\t%d\t%d\t%v\t%v\t%v\t%v\t%v\t%d\t%v\n", x.name, above, len(r.renewals), quantile(r.renewals, 50), quantile(r.renewals, 99), quantile(r.renewals, 100),
			quantile(r.issued, 99), quantile(r.connected, 100), r.said, met)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if missed && !o.short {
		return errors.New("a limit was missed")
	}
	return nil
}

// reckoning is what good hosts had while a wave went on.
type reckoning struct {
	mu                          sync.Mutex
	renewals, issued, connected []time.Duration
	said                        int // limits that the nodes' logs named
}

func (r *reckoning) add(to *[]time.Duration, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*to = append(*to, time.Since(began))
}

// wave floods for a while.
func (o *order) wave(ctx context.Context, d *domain, x wave, hosts []*synthetic, contacts map[string]client.Contact) (*reckoning, error) {
	r := &reckoning{said: -d.limitsNamed()}
	d.forget()
	ctx, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	attack, err := o.storms(ctx, d, x)
	if err != nil {
		return nil, err
	}
	var errs []error
	var good sync.WaitGroup
	fail := func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		errs = append(errs, err)
	}
	time.Sleep(min(o.length/4, 3*time.Second)) // for the flood to rise
	for i, h := range hosts {
		good.Go(func() {
			for ctx.Err() == nil {
				if err := r.live(ctx, h, i == 0, contacts); err != nil && ctx.Err() == nil {
					fail(err)
					return
				}
			}
		})
	}
	good.Wait()
	cancel()
	_ = attack.Wait() // it was ended
	r.said += d.limitsNamed()
	return r, errors.Join(errs...)
}

// storms starts the strangers of a wave, in a process of their own that gives way to others:
// strangers bring their own processors.
func (o *order) storms(ctx context.Context, d *domain, x wave) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, "nice", "-n", "19", os.Args[0], "-storm", x.name, "-of", d.dir, "-leaf", fmt.Sprint(o.leaf), "-length", o.length.String())
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c, c.Start()
}

// runStorms is that process.
func (o *order) runStorms(ctx context.Context) error {
	d := &domain{dir: o.of}
	if err := d.know(); err != nil {
		return err
	}
	contacts, err := d.contacts()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	var wg sync.WaitGroup
	for _, x := range waves(o.leaf) {
		if x.name != o.storm {
			continue
		}
		for _, from := range flood.Addresses(floodAddresses) {
			for _, to := range contacts {
				s := flood.New(to, from)
				defer s.Close()
				for range x.depth {
					wg.Go(func() { storm(ctx, s, x) })
				}
			}
		}
	}
	wg.Wait()
	return nil
}

// storm is a stranger who does the same again and again, and pauses a little when that is
// over at once: who is turned away comes again.
func storm(ctx context.Context, s *flood.Stranger, x wave) {
	for ctx.Err() == nil {
		began := time.Now()
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		x.beat(one, s)
		cancel()
		if left := 50*time.Millisecond - time.Since(began); left > 0 {
			select {
			case <-time.After(left):
			case <-ctx.Done():
			}
		}
	}
}

// live is what a good host does in a second: it renews its lease and has an SVID issued. One
// of them shows all nodes evidence anew, too. What is refused as unavailable is asked for
// again, as agents do, and its time goes on.
func (r *reckoning) live(ctx context.Context, h *synthetic, meets bool, contacts map[string]client.Contact) error {
	began, did := time.Now(), false
	err := again(ctx, func() error {
		n, err := h.api.Nonce(ctx)
		if err == nil && n.GetTick() == h.tick {
			began = time.Now() // there is nothing to answer yet
		}
		if err == nil {
			did, err = h.renew(ctx, n)
		}
		return err
	})
	if err != nil && ctx.Err() != nil && time.Since(began) > floodPatience {
		r.add(&r.renewals, began) // it was not done, and took as long at least
	}
	if err != nil {
		return fmt.Errorf("%s: renewal: %w", h.name, err)
	}
	if !did {
		return nil
	}
	r.add(&r.renewals, began)
	began = time.Now()
	if err := again(ctx, func() error { _, err := h.api.IssueSVID(ctx, h.name); return err }); err != nil {
		return fmt.Errorf("%s: SVID: %w", h.name, err)
	}
	r.add(&r.issued, began)
	if !meets {
		return nil
	}
	for _, to := range contacts {
		began = time.Now()
		conn, err := h.dial(ctx, to)
		r.add(&r.connected, began) // one that did not come to be took as long, at least
		if err == nil {
			_ = conn.Close() // nothing was said on it
		}
	}
	return nil
}

// again does something until it is done or refused for good, and lets a moment pass.
func again(ctx context.Context, do func() error) error {
	for {
		err := do()
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err == nil || !client.Unavailable(err) || errors.Is(err, keystead.ReasonLeaseExpired) {
			return err
		}
	}
}

func quantile(took []time.Duration, percent int) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[min(len(took)*percent/100, len(took)-1)].Round(time.Millisecond)
}

// forget has the kernel count the nodes' peaks of memory anew (proc(5), clear_refs).
func (d *domain) forget() {
	for _, p := range d.processes() {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Pid), []byte("5"), 0) // else the peak is an older one, and higher
	}
}

// peaks are the most memory that each node had since, in MiB; of one that is gone, more than
// there is.
func (d *domain) peaks() (out []int) {
	for _, p := range d.processes() {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
		_, line, ok := strings.Cut(string(status), "VmHWM:")
		kib := 1 << 40
		if ok {
			fmt.Sscan(line, &kib)
		}
		out = append(out, kib>>10)
	}
	return out
}

// limitsNamed counts the lines of the nodes' logs that name a limit and to whom it was applied.
func (d *domain) limitsNamed() (n int) {
	for _, name := range names {
		b, _ := os.ReadFile(filepath.Join(d.dir, name+".log"))
		n += strings.Count(string(b), `msg="limit applied"`)
	}
	return n
}

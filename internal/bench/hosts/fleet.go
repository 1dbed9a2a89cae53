package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

// holdsWithin is how late the 99th percentile of a fleet's verdicts may be.
const holdsWithin = 5 * time.Second

// A share is some of a fleet's hosts, in a process of their own: so the load's processor
// time and memory are told from the domain's, and open files suffice.
type share struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// window is what the renewals of a share that were due within a time came to.
type window struct {
	Due    int             `json:"due"`    // renewals
	Took   []time.Duration `json:"took"`   // from when each was due to the verdict on it, of those that have one
	Lost   int             `json:"lost"`   // leases that ended
	Whole  int             `json:"whole"`  // renewals that a node wanted with the whole log
	Reason string          `json:"reason"` // why the last lease ended
}

// fleet has ever more hosts, which re-attest at an interval each, until the domain does
// not hold them: a table of what each number cost. The first number has to be held.
func (o *order) fleet(ctx context.Context) (err error) {
	d, err := startDomain(ctx, o, 17601)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.set(o.program, "lease-seconds", max(600, int(3*o.interval/time.Second))); err != nil { // a host that is late is counted so, not admitted anew
		return err
	}
	var shares []*share
	defer func() {
		for _, s := range shares {
			s.stop()
		}
	}()
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "synthetic hosts, each every %v\trenewals/s\tdue to verdict p50\tp99\tmost\tprocessors: domain\tload\tMiB: domain\tload\tKiB a host and node\twhole\tholds (limit 100000)\n", o.interval)
	before, holds := d.rss(), 0
	for n := o.hosts; n <= o.most; n += o.hosts {
		began := time.Now()
		s, err := o.share(ctx, d, n-o.hosts)
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		shares = append(shares, s)
		setUp := time.Since(began)
		time.Sleep(o.interval) // the backlog of admissions is not what is measured
		now, used, load, err := o.measure(d, shares)
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		verdict := now.holds(o.interval)
		size := d.rss()
		fmt.Fprintf(w, "%d\t%.0f\t%v\t%v\t%v\t%.2f\t%.2f\t%d\t%d\t%.1f\t%d\t%s\n", n, float64(len(now.Took))/o.window().Seconds(), now.at(50), now.at(99), now.at(100), used, load,
			size>>20, rss(processes(shares)...)>>20, float64(size-before)/3/float64(n)/1024, now.Whole, verdict)
		fmt.Fprintf(os.Stderr, "%d hosts (%d more in %v): p99 %v, %s\n", n, o.hosts, setUp.Round(time.Second), now.at(99), verdict)
		if verdict != "yes" {
			break
		}
		holds = n
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if holds == 0 {
		return fmt.Errorf("not even %d hosts are held", o.hosts)
	}
	fmt.Printf("the largest number that was held: %d\n", holds)
	return nil
}

// window is how long renewals are counted.
func (o *order) window() time.Duration { return 2 * o.interval }

// measure counts what becomes of the renewals of a window, and the processors that the
// nodes and the load used meanwhile.
func (o *order) measure(d *domain, shares []*share) (all window, used, load float64, err error) {
	for _, s := range shares {
		if _, err := fmt.Fprintln(s.in, "count"); err != nil {
			return all, 0, 0, err
		}
	}
	began, nodes, hosts := time.Now(), d.cpu(), cpu(processes(shares)...)
	time.Sleep(o.window())
	length := time.Since(began).Seconds()
	used, load = (d.cpu()-nodes).Seconds()/length, (cpu(processes(shares)...)-hosts).Seconds()/length
	for _, s := range shares { // each tells once all that was due has its verdict, or is late beyond measure
		var one window
		if err := s.read(&one); err != nil {
			return all, 0, 0, err
		}
		all.Due, all.Lost, all.Whole, all.Took = all.Due+one.Due, all.Lost+one.Lost, all.Whole+one.Whole, append(all.Took, one.Took...)
		if one.Reason != "" {
			all.Reason = one.Reason
		}
	}
	slices.Sort(all.Took)
	return all, used, load, nil
}

// at returns a percentile, rounded.
func (w *window) at(percent int) time.Duration {
	if len(w.Took) == 0 {
		return 0
	}
	return w.Took[(len(w.Took)-1)*percent/100].Round(time.Millisecond)
}

// holds says yes, or why not.
func (w *window) holds(interval time.Duration) string {
	switch {
	case w.Lost > 0:
		return fmt.Sprintf("no: %d leases ended, as %s", w.Lost, w.Reason)
	case len(w.Took) < w.Due:
		return fmt.Sprintf("no: %d of %d are without a verdict after another interval", w.Due-len(w.Took), w.Due)
	case w.at(99) > min(holdsWithin, interval):
		return fmt.Sprintf("no: p99 is over %v", min(holdsWithin, interval))
	}
	return "yes"
}

// share starts a process with the hosts from a number on, and waits until all are admitted.
func (o *order) share(ctx context.Context, d *domain, first int) (*share, error) {
	s := &share{cmd: exec.CommandContext(ctx, os.Args[0], "-share", fmt.Sprint(first), "-of", d.dir, "-hosts", fmt.Sprint(o.hosts), "-workers", fmt.Sprint(o.workers), "-interval", o.interval.String())}
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	var admitted window
	if err := s.read(&admitted); err != nil {
		s.stop()
		return nil, fmt.Errorf("hosts from %d on: %w", first, err)
	}
	return s, nil
}

func (s *share) read(w *window) error {
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, w)
}

func (s *share) stop() {
	_ = s.in.Close() // it ends by that
	_ = s.cmd.Wait() // what it had to say it said
}

func processes(shares []*share) (out []*os.Process) {
	for _, s := range shares {
		out = append(out, s.cmd.Process)
	}
	return out
}

// Command ledger measures the ledger of three node processes on this machine, with
// fsync, tree and checkpoints on, and prints one table: figure, measured, limit,
// and a peer measured in the same run - the bare replica loop and etcd, three
// processes each. Everything shares the machine's cores, the clients included.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"text/tabwriter"
	"time"
)

func main() {
	program := flag.String("program", "build/keystead", "the keystead program")
	dir := flag.String("dir", "build", "where to put the stores: on a disk, for fsync to mean something")
	length := flag.Duration("length", 5*time.Second, "length of each load")
	streams := flag.Int("streams", 4, "connections of the load")
	clients := flag.Int("clients", 1024, "puts under way, over all connections")
	isBare := flag.Bool("bare", false, "be a process of the bare loop")
	releasing := flag.String("releasing", "", "be a node of that configuration which releases keys to everybody")
	onlyKeys := flag.Bool("keys", false, "measure keys alone")
	flag.Parse()
	run := func() error { return bench(*program, *dir, *length, *streams, *clients) }
	switch {
	case *isBare:
		run = runBare
	case *releasing != "":
		run = func() error { return runReleasing(*releasing) }
	case *onlyKeys:
		run = func() error {
			t := table{tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)}
			defer t.w.Flush()
			return keysBench(&t, *program, *dir, *length)
		}
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// table collects the rows.
type table struct{ w *tabwriter.Writer }

func (t table) row(figure, measured, limit, peer string) {
	fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\n", figure, measured, limit, peer)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }

func bench(program, dir string, length time.Duration, streams, clients int) error {
	t := table{tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)}
	defer t.w.Flush()
	t.row("figure", "measured", "limit", "peer")
	bare := map[int]float64{}
	etcds := map[int]float64{}
	var bareOne time.Duration // one client's commit in the bare loop
	for _, size := range []int{100, 1024} {
		b, err := startBare(dir, 17401)
		if err != nil {
			return err
		}
		one, err := b.puts(1, size+60, length/4)
		if err != nil {
			return err
		}
		bareOne = one.quantile(.5)
		f, err := b.puts(clients, size+60, length) // as large as the entry of such a put
		b.stop()
		if err != nil {
			return err
		}
		bare[size] = f.rate()
		e, err := startEtcd(dir, 17501)
		if err != nil {
			return err
		}
		f = etcdPuts(17501, clients, make([]byte, size), length)
		e.stop()
		if f.count == 0 {
			return fmt.Errorf("etcd: %w", f.firstErr)
		}
		etcds[size] = f.rate()
	}
	sync, err := fsync(dir)
	if err != nil {
		return err
	}
	d, err := startDomain(program, dir, 17101, func(config string) *exec.Cmd { return exec.Command(program, "node", "run", "--config", config) })
	if err != nil {
		return err
	}
	defer d.stop()
	cs, err := d.clients()
	if err != nil {
		return err
	}
	lead, err := d.leader(context.Background())
	if err != nil {
		return err
	}
	leader := cs[lead[1]-'1']
	trip := d.roundTrip(leader)
	one := d.commit(leader, 2*time.Second)
	t.row("one client's commit", fmt.Sprintf("p50 %s, p99 %s", ms(one.quantile(.5)), ms(one.quantile(.99))), ms((sync+trip)*3/2),
		fmt.Sprintf("fsync %s + round trip %s; bare loop p50 %s", ms(sync), ms(trip), ms(bareOne)))
	memory, disk, leaves := d.rss(), d.disk(), uint64(0)
	for _, size := range []int{100, 1024} {
		f, err := d.puts(putLoad{streams: streams, clients: clients / streams, value: bytes.Repeat([]byte{'x'}, size), duration: length, only: lead})
		if err != nil {
			return err
		}
		if f.failed > 0 {
			return fmt.Errorf("%d puts failed: %w", f.failed, f.firstErr)
		}
		name := fmt.Sprintf("puts of %d B, %d clients", size, clients)
		t.row(name, fmt.Sprintf("%.0f/s, p50 %s, p99 %s", f.rate(), ms(f.quantile(.5)), ms(f.quantile(.99))), "60000/s, p99 50 ms", "")
		t.row(name+" / bare loop", fmt.Sprintf("%.2f", f.rate()/bare[size]), ">= 0.60", fmt.Sprintf("bare loop %.0f/s, loaded from inside", bare[size]))
		t.row(name+" / etcd", fmt.Sprintf("%.1f", f.rate()/etcds[size]), ">= 5", fmt.Sprintf("etcd %.0f/s", etcds[size]))
		if size == 100 {
			s, err := leader.Status(context.Background())
			if err != nil {
				return err
			}
			leaves = s.GetTreeSize()
			per := 1e6 / float64(leaves)
			t.row("memory a node, per million entries of 100 B", fmt.Sprintf("%.0f MiB", float64(d.rss()-memory)/3*per/(1<<20)), "", fmt.Sprintf("%d entries", leaves))
			t.row("disk a node, per million entries of 100 B", fmt.Sprintf("%.0f MiB", float64(d.disk()-disk)/3*per/(1<<20)), "", "log not yet cut included")
		}
	}
	for _, perCall := range []int{1, 64} {
		f := d.reads(cs, 256, perCall, length)
		if f.count == 0 {
			return fmt.Errorf("reads: %w", f.firstErr)
		}
		t.row(fmt.Sprintf("linearizable reads, %d a call", perCall), fmt.Sprintf("%.0f/s, p99 %s", f.rate(), ms(f.quantile(.99))), "100000/s", fmt.Sprintf("%.0f calls/s", f.rate()/float64(perCall)))
	}
	for _, perCall := range []int{1, 64} {
		f := d.receipts(cs, 32, perCall, leaves, length)
		if f.count == 0 {
			return fmt.Errorf("receipts: %w", f.firstErr)
		}
		t.row(fmt.Sprintf("receipts made, sent and verified, %d a call", perCall), fmt.Sprintf("%.0f/s, p99 %s", f.rate(), ms(f.quantile(.99))), "20000/s", fmt.Sprintf("%d failed", f.failed))
	}
	d.stop()
	return keysBench(&t, program, dir, length)
}

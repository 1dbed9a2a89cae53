// Command ledger measures the ledger of three node processes on this machine, with
// fsync, tree and checkpoints on, and prints one table: figure, measured, limit,
// and a peer measured in the same run - the bare replica loop and etcd, three
// processes each. The bare loop is the same replica, store and API with a state
// machine that does nothing, and is loaded by the same clients; a second figure of it
// is of a load from inside the leader's process. Values do not compress. Everything
// shares the machine's cores, the clients included.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/keystead/keystead/internal/bench/profiled"
)

// order is what is to be measured, and with what load.
type order struct {
	program, dir     string
	length           time.Duration
	streams, clients int
	only             []string // parts; all if empty
	pprof            int
}

// parts of the table, in their order.
var parts = []string{"commit", "puts", "reads", "receipts", "keys", "positions", "take"}

func (o *order) wants(part string) bool { return len(o.only) == 0 || slices.Contains(o.only, part) }

func main() {
	var o order
	flag.StringVar(&o.program, "program", "build/keystead", "`PATH` of the program")
	flag.StringVar(&o.dir, "dir", "build", "where to put the stores: on a disk, for fsync to mean something")
	flag.DurationVar(&o.length, "length", 5*time.Second, "length of each load")
	flag.IntVar(&o.streams, "streams", 4, "connections of the load")
	flag.IntVar(&o.clients, "clients", 1024, "puts under way, over all connections")
	flag.IntVar(&o.pprof, "pprof", 0, "serve net/http/pprof of the bench on this port and of the nodes on the three after it")
	only := flag.String("only", "", "measure some parts alone, separated by commas: "+strings.Join(parts, ", "))
	short := flag.Bool("short", false, "measure a domain for a few seconds, and fail when a figure is absurd")
	bareConfig := flag.String("bare", "", "be a process of the bare loop, for the node of this configuration")
	node := flag.String("profiled", "", "be a node of that configuration, with net/http/pprof")
	flag.Parse()
	run := o.bench
	switch {
	case *bareConfig != "":
		run = func() error { return runBare(*bareConfig) }
	case *node != "":
		run = func() error { return profiled.Node(*node, o.pprof) }
	case *short:
		run = o.short
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	for _, part := range o.only {
		if !slices.Contains(parts, part) {
			fmt.Fprintf(os.Stderr, "bench: %q is no part: %s\n", part, strings.Join(parts, ", "))
			os.Exit(1)
		}
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// node returns how a node of the domain is run: as everybody runs it, or with profiles.
func (o *order) node(config string) (*exec.Cmd, error) {
	return profiled.Command(o.program, config, o.pprof), nil
}

// table collects the rows.
type table struct{ w *tabwriter.Writer }

func newTable() table {
	t := table{tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)}
	t.row("figure", "measured", "limit", "peer")
	return t
}

func (t table) row(figure, measured, limit, peer string) {
	fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\n", figure, measured, limit, peer)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }

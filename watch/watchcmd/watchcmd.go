// Package watchcmd is watching's presence on the command line: keystead host watch.
package watchcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/refusal"
)

// Commands are those of watching.
func Commands(a *cli.App) []cli.Placed { return []cli.Placed{{Under: "host", Command: hostWatch(a)}} }

func hostWatch(a *cli.App) *cobra.Command {
	var f cli.ClientFlags
	var from string
	var renewals bool
	var count int
	c := &cobra.Command{
		Use:   "watch [PREFIX] --domain FILE",
		Short: "Tell what becomes of hosts, as it happens",
		Long: `Prints a line for each host that is admitted, suspended or revoked, or whose lease ran out, and
for each node that members removed; with --renewals for each renewal as well. It says what became
of a machine since it was last judged: rebooted, resumed, clock-unsafe, tpm-cleared,
firmware-changed. It begins
with what happens next, or with --from at a leaf. Each line begins with where to go on after
it, LEAF@TIME, which --from takes. With --json each line is an object. It ends after --count
events, with --timeout, or when it is interrupted. When a node fails, another goes on; an
event may then be told twice, under one id.`,
		Example: `  keystead host watch --domain d.json
  keystead host watch web- --from 120@1790000000000 --json --domain d.json`,
		Args: cobra.MaximumNArgs(1),
	}
	f.Add(c)
	t := c.Flags().Lookup("timeout")
	t.Usage, t.DefValue, f.Timeout = "how long to watch; 0 for ever", "0s", 0
	c.Flags().StringVar(&from, "from", "", "begin at `LEAF[@TIME]`; 0 is the first")
	c.Flags().BoolVar(&renewals, "renewals", false, "tell renewals as well")
	c.Flags().IntVar(&count, "count", 0, "end after `N` events")
	c.RunE = func(c *cobra.Command, args []string) error {
		r := &apiv1.WatchHostsRequest{Prefix: strings.Join(args, ""), Renewals: renewals, Live: from == ""}
		if err := goOn(r, from); err != nil {
			return err
		}
		if f.Timeout == 0 {
			f.Timeout = 1 << 62 // as good as for ever
		}
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		ctx, stop := cli.Interruptible(ctx)
		defer stop()
		told, at := 0, fmt.Sprintf("%d@%d", r.GetFrom(), r.GetAfterMs())
		err = cl.WatchHosts(ctx, r, func(m *apiv1.WatchHostsResponse) bool {
			next := fmt.Sprintf("%d@%d", m.GetNext(), m.GetClockMs())
			for i, e := range m.GetEvents() {
				if i == len(m.GetEvents())-1 { // before, going on from there would leave some out
					at = next
				}
				tellEvent(a, at, e)
				if told++; told == count {
					return false
				}
			}
			at = next
			return true
		})
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && count == 0 {
			return nil // as asked for
		}
		return err
	}
	return c
}

// goOn reads where to begin.
func goOn(r *apiv1.WatchHostsRequest, from string) (err error) {
	if from == "" {
		return nil
	}
	leaf, ms, timed := strings.Cut(from, "@")
	if r.From, err = strconv.ParseUint(leaf, 10, 64); err == nil && timed {
		r.AfterMs, err = strconv.ParseUint(ms, 10, 64)
	}
	if err != nil {
		return cli.Misuse(fmt.Errorf("--from is %.80q, not LEAF or LEAF@TIME", from), "the first word of each line is one")
	}
	return nil
}

// tellEvent prints one event.
func tellEvent(a *cli.App, at string, e *apiv1.HostEvent) {
	if !a.JSON {
		printEvent(a.Stdout, at, e)
		return
	}
	_ = a.Line(cli.Members{{Name: "next", Value: at}, {Name: "event", Value: cli.Document(e)}}) // a reader that went away ends the command by a signal
}

func printEvent(w io.Writer, next string, e *apiv1.HostEvent) {
	fmt.Fprintf(w, "%s %s %s leaf %d", next, e.GetEvent(), cli.Printable(e.GetHost()), e.GetLeaf())
	if e.GetUntilMs() > 0 {
		fmt.Fprintf(w, " until %s", cli.Stamp(e.GetUntilMs()))
	}
	if deny := refusal.Parse(e.GetBecause()); deny != nil {
		for _, f := range deny.Findings {
			fmt.Fprintf(w, " %s", cli.Printable(f.String()))
		}
	}
	fmt.Fprintln(w)
}

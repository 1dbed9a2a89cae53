package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/refusal"
)

// socketFlags are those of commands that ask the machine's agent.
type socketFlags struct {
	socket  string
	timeout time.Duration
}

func (f *socketFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.socket, "socket", cmp.Or(os.Getenv("KEYSTEAD_AGENT"), agent.DefaultConfig().Socket.Path), "`PATH` of the agent's socket (default: $KEYSTEAD_AGENT, else "+agent.DefaultConfig().Socket.Path+")")
	c.Flags().Lookup("socket").DefValue = "" // help is the same everywhere
	c.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to try")
}

func (f *socketFlags) open() (client.LocalAgent, context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), f.timeout)
	if os.Getenv(client.LaunchedEnv) == "3" { // this program was launched by keystead run
		return client.Launched(), ctx, cancel
	}
	return client.Local(f.socket), ctx, cancel
}

func (a *app) agentStatus() *cobra.Command {
	var f socketFlags
	var wait string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show where this host stands",
		Long: `Asks the agent of this machine where the host stands: its lease and how long it lasts from now,
when evidence is shown next, how long the machine keeps what it has once it goes bad
(exposure), the nodes, and what the last attempt failed for. --wait PHASE waits, as long as
--timeout says, until the host is starting, unenrolled, unavailable, refused, suspended or
admitted. Without --wait the exit status is 0 only for a host that is admitted: that of the
problem otherwise.`,
		Example: `  keystead agent status
  keystead agent status --wait admitted --timeout 1m`,
		Args: cobra.NoArgs,
	}
	f.add(c)
	c.Flags().StringVar(&wait, "wait", "", "wait until the host is in that `PHASE`")
	c.RunE = func(*cobra.Command, []string) error {
		if wait != "" && !slices.Contains(agent.Phases(), agent.Phase(wait)) {
			return cli.Misuse(fmt.Errorf("--wait %.80q is no phase", wait), fmt.Sprintf("the phases are %v", agent.Phases()))
		}
		to, ctx, done := f.open()
		defer done()
		s, err := awaitPhase(ctx, to, wait)
		if err != nil {
			return err
		}
		err = a.AnswerMessage(s, func(w io.Writer) { printAgent(w, s) })
		if err == nil && wait == "" {
			err = leaseless(s)
		}
		return err
	}
	return c
}

func (a *app) agentWatch() *cobra.Command {
	var f socketFlags
	var over bool
	c := &cobra.Command{
		Use:   "watch",
		Short: "Tell where this host stands, at once and whenever it changes",
		Long: `Prints a line whenever the host gets a lease or loses it, as the agent tells applications on
its socket; renewals are not told. With --until-over it ends once there is no lease, with
the refusal that says why. When the agent ends, so does the command, as unavailable.`,
		Example: `  keystead agent watch --until-over`,
		Args:    cobra.NoArgs,
	}
	f.add(c)
	t := c.Flags().Lookup("timeout")
	t.Usage, t.DefValue, f.timeout = "how long to watch; 0 for ever", "0s", 0
	c.Flags().BoolVar(&over, "until-over", false, "end once the host has no lease")
	c.RunE = func(*cobra.Command, []string) error {
		if f.timeout == 0 {
			f.timeout = 1 << 62 // as good as for ever
		}
		to, ctx, done := f.open()
		defer done()
		ctx, stop := cli.Interruptible(ctx)
		defer stop()
		var lost error
		err := to.Watch(ctx, func(r *apiv1.WatchLeaseResponse) bool {
			a.tellLease(r)
			if over && r.GetLeaseVersion() == 0 {
				lost = cmp.Or[error](asError(r.GetBecause()), errors.New("the host has no lease"))
			}
			return lost == nil
		})
		if end, ok := ctx.Deadline(); ctx.Err() != nil || ok && time.Until(end) < 100*time.Millisecond {
			return nil // as asked for: the agent is told of the time, and may see its end first
		}
		return cmp.Or(lost, err)
	}
	return c
}

// leaseless returns why the host has no lease; nil if it has one.
func leaseless(s *apiv1.AgentStatusResponse) error {
	if agent.Phase(s.GetPhase()) == agent.Admitted {
		return nil
	}
	why := cmp.Or[error](asError(s.GetProblem()), keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseUnknown, Where: "host " + s.GetHost(), Want: "an admitted host", Got: "one that is " + s.GetPhase()}))
	f := &cli.Failure{Err: fmt.Errorf("%s: %w", s.GetPhase(), why)}
	switch agent.Phase(s.GetPhase()) {
	case agent.Starting, agent.Unavailable:
		f.Stage, f.Hint = keystead.StageUnavailable, "keystead agent status --wait admitted waits for it"
	case agent.Unenrolled:
		f.Hint = "a member runs: " + s.GetEnrolment()
	}
	return f
}

// asError returns a refusal of the API as an error, or nil.
func asError(r *apiv1.Refusal) error {
	if deny := refusal.Parse(r); deny != nil {
		return deny
	}
	return nil
}

func (a *app) tellLease(r *apiv1.WatchLeaseResponse) {
	if a.JSON {
		_ = a.Line(cli.Document(r)) // a reader that went away ends the command by a signal
		return
	}
	switch {
	case r.GetLeaseVersion() != 0:
		fmt.Fprintf(a.Stdout, "%s: lease %d, %v left unless it is renewed\n", r.GetPhase(), r.GetLeaseVersion(), time.Duration(r.GetLeftMs())*time.Millisecond)
	case r.GetBecause() != nil:
		fmt.Fprintf(a.Stdout, "%s: %s\n", r.GetPhase(), said(r.GetBecause()))
	default:
		fmt.Fprintln(a.Stdout, r.GetPhase())
	}
}

// awaitPhase asks until the host is in the phase, or once if that is "".
func awaitPhase(ctx context.Context, to client.LocalAgent, phase string) (*apiv1.AgentStatusResponse, error) {
	for {
		s, err := to.Status(ctx)
		if err == nil && (phase == "" || s.GetPhase() == phase) || err != nil && (phase == "" || ctx.Err() != nil) {
			return s, err
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "host " + s.GetHost(), Want: phase, Got: s.GetPhase()})
			}
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func printAgent(w io.Writer, s *apiv1.AgentStatusResponse) {
	ms := func(n uint64) time.Duration {
		return (time.Duration(n) * time.Millisecond).Round(100 * time.Millisecond)
	}
	fmt.Fprintf(w, "host:      %s (%s) in %s\nidentity:  %s\n", s.GetHost(), s.GetPhase(), s.GetDomain(), s.GetEk())
	if s.GetLeaseVersion() != 0 {
		fmt.Fprintf(w, "lease:     version %d, assurance %s, %v left, %v after its nonce was asked for\nevidence:  every %v, next in %v\nexposure:  %v at most\n",
			s.GetLeaseVersion(), s.GetAssurance(), ms(s.GetLeftMs()), ms(s.GetHeldMs()), ms(s.GetIntervalMs()), ms(s.GetNextMs()), ms(s.GetExposureMs()))
	}
	if s.GetSpiffeId() != "" {
		fmt.Fprintf(w, "svid:      %s\n", s.GetSpiffeId())
	}
	fmt.Fprintf(w, "keys:      %d held\n", s.GetKeys())
	for _, n := range s.GetNodes() {
		state := "connected"
		if !n.GetConnected() {
			state = "not connected: " + said(n.GetProblem())
		}
		fmt.Fprintf(w, "node:      %s %s\n", n.GetName(), state)
	}
	if s.GetProblem() != nil {
		fmt.Fprintf(w, "problem:   %s\n", said(s.GetProblem()))
	}
	if s.GetPhase() == string(agent.Unenrolled) {
		fmt.Fprintf(w, "a member:  %s\n", s.GetEnrolment())
	}
}

// said gives a refusal on one line.
func said(r *apiv1.Refusal) string {
	deny := refusal.Parse(r)
	if deny == nil {
		return "unknown"
	}
	var all []string
	for _, f := range deny.Findings {
		all = append(all, cli.Printable(f.String()))
	}
	return strings.Join(all, "; ")
}

package appcmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/app/launch"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/refusal"
)

const agentSocket = "/run/keystead/agent.sock"

func run(a *cli.App) *cobra.Command {
	var socket string
	var s launch.Setting
	c := &cobra.Command{
		Use:   "run BIN [ARGUMENT]... --uid UID",
		Short: "Launch a signed program so that no other code ever ran in its process",
		Long: `Copies a signed static program into memory that nobody can write to, has this machine's agent
judge the copy, and runs it: as a user of its own, with the arguments and the environment that are
given here and nothing else, without new privileges, core dumps or files that it was not given,
under a filter. The agent knows it at level launched. Its descriptor 3 is a connection to the agent
(client.Launched of this project). Only root may launch, with the program that the agent itself is.

Standard input, output and error are passed on, signals as well, and the exit status is the
program's: 128 and the signal's number, if one ended it. So it serves as ExecStart of a systemd
service. It is ended once its certificate is denied or over. When the agent is started anew, the
program stays launched, and connects to the socket that KEYSTEAD_AGENT in its environment names.`,
		Example: `  keystead run /usr/local/bin/billing.signed --uid 900 --gid 900 --read /etc/billing -- serve`,
		Args:    cobra.MinimumNArgs(1),
	}
	f := c.Flags()
	f.SetInterspersed(true)
	f.StringVar(&socket, "socket", cmp.Or(os.Getenv("KEYSTEAD_AGENT"), agentSocket), "`PATH` of the agent's socket (default: $KEYSTEAD_AGENT, else "+agentSocket+")")
	f.Lookup("socket").DefValue = "" // help is the same everywhere
	f.Uint32Var(&s.UID, "uid", 0, "`NUMBER` of the user that it runs as: its own, and not root's")
	f.Uint32Var(&s.GID, "gid", 0, "`NUMBER` of its group (default: that of --uid)")
	f.StringArrayVar(&s.Env, "env", nil, "`NAME=VALUE` in its environment; may be repeated")
	f.StringArrayVar(&s.Read, "read", nil, "`DIR` that it may read; may be repeated")
	f.StringArrayVar(&s.Write, "write", nil, "`DIR` that it may read and write; may be repeated")
	cli.Must(c.MarkFlagRequired("uid"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		s.Args, s.GID = args[1:], cmp.Or(s.GID, s.UID)
		s.Env = append(s.Env, "KEYSTEAD_AGENT="+socket, client.LaunchedEnv+"=3")
		s.Stdin, s.Stdout, s.Stderr = os.Stdin, os.Stdout, os.Stderr
		l := &launcher{socket: socket, setting: s}
		status, err := l.run(args[0])
		if err != nil {
			return err
		}
		os.Exit(status) // the program's own, which is no stage of ours
		return nil
	}
	return c
}

// launcher launches one program, and holds it with the agent for as long as it runs.
type launcher struct {
	socket  string
	setting launch.Setting
	sealed  *os.File
	started *launch.Launched
	socketF *os.File // of the agent's end, until it was handed over

	mu  sync.Mutex
	why error // why the program was ended
}

func (l *launcher) run(program string) (status int, err error) {
	switch {
	case os.Geteuid() != 0:
		return 0, cli.Misuse(errors.New("only root launches programs"), "a systemd service without User= runs as root; --uid says whose the program is")
	case l.setting.UID == 0 || l.setting.GID == 0:
		return 0, cli.Misuse(errors.New("--uid and --gid are those of a user of the program's own, not root's"), "")
	}
	for _, e := range l.setting.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return 0, cli.Misuse(fmt.Errorf("--env %.80q is not NAME=VALUE", e), "")
		}
	}
	f, _, err := openProgram(program)
	if err != nil {
		return 0, err
	}
	l.sealed, err = launch.Seal(f)
	f.Close()
	if err != nil {
		return 0, err
	}
	defer l.sealed.Close()
	return l.launch()
}

// agentTime is how long an agent has for an answer.
const agentTime = 30 * time.Second

// launch has the agent judge the copy, and starts it.
func (l *launcher) launch() (int, error) {
	h := l.connect()
	defer h.close()
	ctx, cancel := context.WithTimeout(context.Background(), agentTime)
	defer cancel()
	id, err := l.prepare(ctx, h)
	if err != nil {
		return 0, cli.Hinted(err, "the agent of this machine answers at the socket: keystead agent status says where it stands")
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if l.started, err = launch.Start("/proc/self/exe", l.sealed, id, l.setting); err != nil {
		return 0, err
	}
	l.socketF, err = l.started.Conn.File()
	_ = l.started.Conn.Close() // the agent has the other end, and nobody else
	if err != nil {
		return 0, errors.Join(err, l.started.Kill(), l.started.Wait())
	}
	ended := make(chan error, 1)
	go func() { ended <- l.started.Wait() }()
	over, stop := context.WithCancel(context.Background())
	defer stop()
	go l.hold(over, h)
	for {
		select {
		case s := <-signals:
			_ = l.started.Signal(s) // one that has ended needs none
		case err := <-ended:
			return l.outcome(err)
		}
	}
}

// outcome is the program's exit status, or why it was ended.
func (l *launcher) outcome(err error) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return 0, l.why
	}
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) {
		return 0, err
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// prepare returns who the program is, by the roots that the agent goes by.
func (l *launcher) prepare(ctx context.Context, h *held) (app.Identity, error) {
	h.conn.sends(l.sealed)
	r, err := h.api.Prepare(ctx, connect.NewRequest(&appv1.PrepareRequest{Uid: l.setting.UID}))
	if err != nil {
		return app.Identity{}, refusal.Decode(err)
	}
	roots, err := app.ParseRoots(r.Msg.GetRoots())
	if err != nil {
		return app.Identity{}, err
	}
	st, err := l.sealed.Stat()
	if err != nil {
		return app.Identity{}, err
	}
	p, err := app.Parse(l.sealed, st.Size())
	if err != nil {
		return app.Identity{}, err
	}
	m, err := p.FileMeasured()
	if err != nil {
		return app.Identity{}, err
	}
	return p.Verify(m, roots, func(keystead.Digest) bool { return false }, time.Now()) // the agent asked for denials
}

// again is how long it is waited before an agent that has ended is asked anew.
const again = 200 * time.Millisecond

// hold tells the agent what runs, again and again where the agent is started anew, until the program
// has ended or may not run any more.
func (l *launcher) hold(ctx context.Context, h *held) {
	for ctx.Err() == nil {
		err := l.held(ctx, h)
		var refused *keystead.DenyError
		if errors.As(err, &refused) && refused.Stage() != keystead.StageUnavailable {
			l.mu.Lock()
			l.why = err
			l.mu.Unlock()
			_ = l.started.Kill()
			return
		}
		h.close()
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
		h = l.connect()
		if _, err = l.prepare(ctx, h); err != nil {
			continue // held says why
		}
	}
}

// held hands the process over, and returns when the agent says no more.
func (l *launcher) held(ctx context.Context, h *held) error {
	files := []*os.File{l.started.Pidfd}
	if l.socketF != nil {
		files = append(files, l.socketF)
	}
	h.conn.sends(files...)
	s, err := h.api.Hold(ctx, connect.NewRequest(&appv1.HoldRequest{Socket: l.socketF != nil}))
	if l.socketF != nil { // gone with the agent that had it
		_ = l.socketF.Close()
		l.socketF = nil
	}
	if err != nil {
		return refusal.Decode(err)
	}
	defer s.Close()
	for s.Receive() {
	}
	return refusal.Decode(s.Err())
}

// held is one connection to the agent.
type held struct {
	conn  *passing
	api   appv1connect.LaunchServiceClient
	close func()
}

func (l *launcher) connect() *held {
	h := &held{conn: &passing{}}
	t := &http.Transport{MaxConnsPerHost: 1, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "unix", l.socket)
		if err != nil {
			return nil, err
		}
		h.conn.UnixConn = c.(*net.UnixConn)
		return h.conn, nil
	}}
	h.close = t.CloseIdleConnections
	h.api = appv1connect.NewLaunchServiceClient(&http.Client{Transport: t}, "http://agent.invalid", connect.WithReadMaxBytes(2*app.MaxRoots))
	return h
}

// passing is a connection by which descriptors go along with the next bytes.
type passing struct {
	*net.UnixConn
	mu    sync.Mutex
	files []*os.File
}

func (p *passing) sends(files ...*os.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files = files
}

// Write implements net.Conn.
func (p *passing) Write(b []byte) (int, error) {
	p.mu.Lock()
	files := p.files
	p.files = nil
	p.mu.Unlock()
	if len(files) == 0 {
		return p.UnixConn.Write(b)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	n, _, err := p.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	return n, err
}

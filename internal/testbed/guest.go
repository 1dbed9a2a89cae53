package testbed

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead/internal/swtpm"
)

// Limits of a guest.
const (
	bootLimit = 5 * time.Minute // until it takes commands; it takes 30 s on two quiet cores
	maxOutput = 64 << 20        // bytes of one command
)

// Guest is a machine that runs, with a disk and a TPM of its own that outlast reboots.
// Its methods are not for concurrent use.
type Guest struct {
	bed  *Bed
	dir  string // disk, TPM, console
	life context.Context
	end  context.CancelFunc

	port    net.Conn
	answers *bufio.Reader
	off     chan struct{} // closed when the machine is off
	failed  error         // why, once it is; nil after a power-off
}

// Start boots a guest on a copy of the bed's disk and a new TPM that ca certifies, and
// returns when it takes commands. files are put on its disk before: files of this
// machine, by the guest's paths, in directories that are there. The guest ends with
// ctx, or Close.
func (b *Bed) Start(ctx context.Context, ca *swtpm.CA, files map[string]string) (_ *Guest, err error) {
	g := &Guest{bed: b}
	g.life, g.end = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = fmt.Errorf("testbed: %w", errors.Join(err, g.Close()))
		}
	}()
	if g.dir, err = os.MkdirTemp("", "keystead-testbed-"); err != nil {
		return nil, err
	}
	if err := g.makeDisk(ctx, files); err != nil {
		return nil, err
	}
	if err := os.Mkdir(g.at("tpm"), 0o700); err != nil {
		return nil, err
	}
	if err := ca.Manufacture(ctx, g.at("tpm")); err != nil {
		return nil, err
	}
	return g, g.boot(ctx, Boot{})
}

func (g *Guest) at(name string) string { return filepath.Join(g.dir, name) }

// makeDisk copies the bed's disk and puts files on it.
func (g *Guest) makeDisk(ctx context.Context, files map[string]string) error {
	if err := run(ctx, command(ctx, "cp", "--sparse=always", "--reflink=auto", g.bed.image, g.at("root.img"))); err != nil {
		return err
	}
	var script strings.Builder
	for _, to := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&script, "cd %s\nwrite %s %s\n", filepath.Dir(to), files[to], filepath.Base(to))
	}
	if script.Len() == 0 {
		return nil
	}
	if err := os.WriteFile(g.at("files"), []byte(script.String()), 0o600); err != nil {
		return err
	}
	return run(ctx, command(ctx, "debugfs", "-w", "-f", g.at("files"), g.at("root.img")))
}

// boot starts the machine and waits until it takes commands.
func (g *Guest) boot(ctx context.Context, o Boot) error {
	if err := g.prepare(o); err != nil {
		return err
	}
	if err := removeIfThere(g.at("port.sock")); err != nil {
		return err
	}
	start := time.Now()
	off := make(chan struct{})
	g.port, g.off, g.failed = nil, off, nil
	go func() {
		g.failed = emulate(g.life, g.at)
		close(off)
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("the guest takes no commands after %v", bootLimit))
	defer cancel()
	err := g.connect(ctx)
	if err == nil {
		var line string
		if line, err = g.line(ctx); err == nil && line != "ready" {
			err = fmt.Errorf("the guest said %.80q, want ready", line)
		}
	}
	if err != nil {
		return fmt.Errorf("%w\nthe guest's console ends:\n%s", err, g.console())
	}
	g.bed.progress("guest: takes commands %.1f s after its start", time.Since(start).Seconds())
	return nil
}

// console returns the end of what the guest wrote on its serial console.
func (g *Guest) console() string {
	text, _ := os.ReadFile(g.at("console")) // what there is of it
	return lastLines(text, 30)
}

// connect opens the port by which the guest takes commands.
func (g *Guest) connect(ctx context.Context) error {
	path := g.at("port.sock")
	ended := make(chan error, 1)
	off := g.off
	go func() {
		<-off
		ended <- g.why()
	}()
	return await(ctx, ended, func() (err error) {
		if g.port, err = new(net.Dialer).DialContext(ctx, "unix", path); err != nil {
			g.port = nil
			return err
		}
		g.answers = bufio.NewReader(g.port)
		return nil
	})
}

// why says why the machine is off.
func (g *Guest) why() error {
	if g.failed != nil {
		return g.failed
	}
	return errors.New("the guest powered off")
}

// line reads a line of the guest's.
func (g *Guest) line(ctx context.Context) (string, error) {
	defer g.hurry(ctx)()
	s, err := g.answers.ReadString('\n')
	return strings.TrimSpace(s), g.cause(ctx, err)
}

// hurry has reads and writes on the port end with ctx.
func (g *Guest) hurry(ctx context.Context) (stop func() bool) {
	port := g.port
	return context.AfterFunc(ctx, func() { port.SetDeadline(time.Unix(1, 0)) })
}

// cause says why the port failed.
func (g *Guest) cause(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	<-g.off // the emulator holds the other end
	return g.why()
}

// A Failure is a command of the guest's that ended with another status than 0.
type Failure struct {
	Status int
	Output string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("the guest's command ended with status %d:\n%s", f.Status, lastLines([]byte(f.Output), 30))
}

// Run has the guest's root run a script by sh, which reads it: a file is not executed.
// It returns what the script wrote on standard output and standard error, with a
// *Failure if its status is not 0.
func (g *Guest) Run(ctx context.Context, script string) (string, error) {
	if err := g.send(ctx, script); err != nil {
		return "", err
	}
	line, err := g.line(ctx)
	if err != nil {
		return "", err
	}
	var status, size int
	if _, err := fmt.Sscanf(line, "%d %d", &status, &size); err != nil || size < 0 || size > maxOutput {
		return "", fmt.Errorf("the guest answered %.80q, want status and size", line)
	}
	defer g.hurry(ctx)()
	output := make([]byte, size)
	if _, err := io.ReadFull(g.answers, output); err != nil {
		return "", g.cause(ctx, err)
	}
	if status != 0 {
		return string(output), &Failure{status, string(output)}
	}
	return string(output), nil
}

func (g *Guest) send(ctx context.Context, script string) error {
	defer g.hurry(ctx)()
	_, err := fmt.Fprintf(g.port, "%d\n%s", len(script), script)
	return g.cause(ctx, err)
}

// Write makes a file in the guest, or replaces it.
func (g *Guest) Write(ctx context.Context, path, mode string, content []byte) error {
	_, err := g.Run(ctx, fmt.Sprintf("set -e\nbase64 -d > '%[1]s' <<'EOF'\n%[3]s\nEOF\nchmod %[2]s '%[1]s'\n", path, mode, base64.StdEncoding.EncodeToString(content)))
	return err
}

// Reboot has the guest reset, in order, and returns when it takes commands again. Its
// disk and its TPM stay.
func (g *Guest) Reboot(ctx context.Context, o Boot) error {
	if err := g.send(ctx, "sync; systemctl reboot --force"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*bootLimit, errors.New("the guest does not reset"))
	defer cancel()
	select {
	case <-g.off:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	g.port.Close()
	if g.failed != nil {
		return g.failed
	}
	return g.boot(ctx, o)
}

// Close ends the guest and removes everything of it. It may be called twice.
func (g *Guest) Close() error {
	g.end()
	if g.off != nil {
		<-g.off
	}
	if g.port != nil {
		g.port.Close()
	}
	if g.dir == "" {
		return nil
	}
	return os.RemoveAll(g.dir)
}

// Package shell runs commands of the program as a person would, for the demo and the
// test bed: to their end, or beside, with their logs in files. It trusts the program
// that it is given.
package shell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Patience bounds what is waited for, and how long a process takes to end.
const Patience = 30 * time.Second

// A Shell runs commands in one directory.
type Shell struct {
	program string
	dir     string
	env     []string
	running map[string]*process
}

// process is a command that goes on.
type process struct {
	cmd   *exec.Cmd
	args  []string
	ended chan struct{} // closed once err stands
	err   error
}

// New returns a shell that runs the program in dir, with more in its environment.
func New(program, dir string, env ...string) *Shell {
	return &Shell{program: program, dir: dir, env: env, running: map[string]*process{}}
}

func (s *Shell) command(args ...string) *exec.Cmd {
	c := exec.Command(s.program, args...)
	c.Dir = s.dir
	c.Env = append(os.Environ(), s.env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // never outlives who runs it
	return c
}

// A Refusal is a command that ended with another status than 0.
type Refusal struct {
	Status int
	Words  string // standard error
}

func (r *Refusal) Error() string { return r.Words }

// Do runs a command to its end and returns what it answered.
func (s *Shell) Do(ctx context.Context, args ...string) (string, error) {
	c := s.command(args...)
	var out, words bytes.Buffer
	c.Stdout, c.Stderr = &out, &words
	if err := c.Start(); err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Process.Kill() })()
	err := c.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return out.String(), &Refusal{exit.ExitCode(), strings.TrimSpace(words.String())}
	}
	if err != nil {
		return "", fmt.Errorf("keystead %s: %w %s", strings.Join(args, " "), errors.Join(ctx.Err(), err), words.String())
	}
	return out.String(), nil
}

// Ask runs a command with --json and reads its answer.
func (s *Shell) Ask(ctx context.Context, into any, args ...string) error {
	out, err := s.Do(ctx, append([]string{"--json"}, args...)...)
	if err != nil {
		return fmt.Errorf("keystead %s: %w", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("keystead %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Start starts a command that goes on; what it logs is in NAME.log.
func (s *Shell) Start(name string, args ...string) error {
	log, err := os.OpenFile(filepath.Join(s.dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p := &process{cmd: s.command(args...), args: args, ended: make(chan struct{})}
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	s.running[name] = p
	return nil
}

// Process returns the id of a command that goes on; 0 if there is none of that name.
func (s *Shell) Process(name string) int {
	if p := s.running[name]; p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Ended is closed when a command ends by itself or by somebody else; then Why tells how.
func (s *Shell) Ended(name string) <-chan struct{} { return s.running[name].ended }

// Why tells how an ended command ended, such as "signal: killed", and whether of itself:
// by an exit status that tells of trouble.
func (s *Shell) Why(name string) (how string, trouble bool) {
	p := s.running[name]
	<-p.ended
	var exit *exec.ExitError
	if p.err == nil {
		return "exit status 0", false
	}
	return p.err.Error(), !errors.As(p.err, &exit) || exit.Exited()
}

// Again starts an ended command once more.
func (s *Shell) Again(name string) error { return s.Start(name, s.running[name].args...) }

// End sends a signal to a command that goes on, and waits for its end.
func (s *Shell) End(name string, signal syscall.Signal) error {
	p := s.running[name]
	delete(s.running, name)
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(Patience):
		return errors.Join(fmt.Errorf("%s does not end after %v", name, signal), p.cmd.Process.Kill())
	}
}

// Stopped waits for a command to end by itself.
func (s *Shell) Stopped(name string) error {
	p := s.running[name]
	select {
	case <-p.ended:
		delete(s.running, name)
		return nil
	case <-time.After(Patience):
		return fmt.Errorf("%s does not end by itself", name)
	}
}

// Log returns the last lines that a command logged.
func (s *Shell) Log(name string) string {
	b, err := os.ReadFile(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// Close ends everything that still runs: politely, then not.
func (s *Shell) Close() error {
	for _, p := range s.running {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	var errs []error
	deadline := time.After(Patience)
	for name, p := range s.running {
		select {
		case <-p.ended:
		case <-deadline:
			errs = append(errs, fmt.Errorf("%s does not end", name), p.cmd.Process.Kill())
		}
	}
	clear(s.running)
	return errors.Join(errs...)
}

// Until asks again and again until done says so. Between two questions there is no
// event to wait for: they go to other processes.
func Until(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	var last error
	for {
		ok, err := done(ctx)
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v: %w", what, Patience, errors.Join(last, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

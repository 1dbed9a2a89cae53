package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
)

const (
	maxStatus  = 64 << 10
	maxThreads = 4096
)

// threads checks every thread: none traced (process-traced), none under a filter that may
// answer its system calls (process-filtered), unless filters are the launcher's own. It
// returns the effective user.
func (p *Process) threads(filtered bool) (uid uint32, err error) {
	dir, err := p.file("task", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxThreads + 1)
	if err != nil {
		return 0, p.explain("task", err)
	}
	if len(names) > maxThreads {
		return 0, p.deny(keystead.ReasonBinaryUnsuitable, fmt.Sprintf("a process of at most %d threads", maxThreads), "more")
	}
	seen := 0
	for _, name := range names {
		b, err := p.read("task/"+name+"/status", maxStatus)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return 0, err
		}
		if uid, err = p.thread(string(b), filtered); err != nil {
			return 0, err
		}
		seen++
	}
	if seen == 0 {
		return 0, p.gone()
	}
	return uid, nil
}

// Launches refuses a process that is not this very program, run by root, untraced, unfiltered, with
// nothing of other users about it: what it starts, its own starter could not touch
// (launch-unsealed).
func (p *Process) Launches() error {
	uid, err := p.threads(false)
	if err != nil {
		return err
	}
	its, st, err := p.look("exe")
	if err != nil {
		return err
	}
	own, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer own.Close()
	mine, _, err := stampOf(own)
	if err != nil {
		return err
	}
	status, err := p.read("status", maxStatus)
	if err != nil {
		return err
	}
	if its != mine || uid != 0 || !strings.Contains(string(status), "\nUid:\t0\t0\t0\t0\n") {
		return p.deny(keystead.ReasonLaunchUnsealed, "the agent's own program, run by root, to launch another", fmt.Sprintf("another program, or one of user %d", uid))
	}
	return p.trusted("an executable", st)
}

// ReadSealed reads a signed program of a copy that nobody can write to (launch-unsealed), and
// measures the file.
func ReadSealed(f *os.File) (note *app.Note, m app.Measured, err error) {
	if err := (&Process{}).sealed(f); err != nil {
		return nil, m, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, m, err
	}
	p, err := app.Parse(f, st.Size())
	if err != nil {
		return nil, m, err
	}
	m, err = p.FileMeasured()
	return p.Note, m, err
}

func (p *Process) thread(status string, filtered bool) (uid uint32, err error) {
	fields := map[string]string{}
	for line := range strings.Lines(status) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	uids := strings.Fields(fields["Uid"])
	switch {
	case len(uids) != 4 || fields["TracerPid"] == "" || fields["Seccomp"] == "":
		return 0, fmt.Errorf("process %d: /proc/PID/status has no user, tracer or seccomp", p.pid)
	case fields["TracerPid"] != "0":
		return 0, p.deny(keystead.ReasonProcessTraced, "no debugger", "process "+fields["TracerPid"]+" is attached")
	case fields["Seccomp"] != "0" && !filtered:
		return 0, p.deny(keystead.ReasonProcessFiltered, "no seccomp filter", "mode "+fields["Seccomp"])
	}
	n, err := strconv.ParseUint(uids[1], 10, 32)
	return uint32(n), err
}

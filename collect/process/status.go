package process

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
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

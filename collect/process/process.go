package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
)

// A Process is one process of this machine and no later one of its number. Its methods
// are for concurrent use.
type Process struct {
	pid   int
	inode uint64
	pidfd *os.File
	proc  *os.File // /proc/PID
}

// Open holds on to the process of a pidfd, which it takes over. It refuses with
// process-gone one that has ended, and with sender-foreign one that this process can not
// name, or that is in another user, pid or mount namespace.
func Open(pidfd *os.File) (*Process, error) {
	p := &Process{pidfd: pidfd}
	err := p.open()
	if err == nil {
		err = p.sameNamespaces()
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Process) open() (err error) {
	if p.inode, err = inode(p.pidfd); err != nil {
		return err
	}
	if p.pid, err = number(p.pidfd); err != nil {
		return err
	}
	switch {
	case p.pid == -1:
		return p.gone()
	case p.pid <= 0:
		return foreign("a process that the agent can see", "one of a pid namespace that it can not")
	}
	name := "/proc/" + strconv.Itoa(p.pid)
	if p.proc, err = openAt(unix.AT_FDCWD, name, unix.O_PATH|unix.O_DIRECTORY); errors.Is(err, fs.ErrNotExist) {
		return p.gone()
	}
	if err != nil {
		return err
	}
	return p.Alive() // under its number until here: the directory is its own
}

// pidfsMagic is PID_FS_MAGIC of linux/magic.h.
const pidfsMagic = 0x50494446

// inode returns the number that pidfs gave the process: no other of this boot has it.
func inode(pidfd *os.File) (n uint64, err error) {
	var st unix.Stat_t
	var sfs unix.Statfs_t
	err = control(pidfd, func(fd int) error { return errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &sfs)) })
	if err == nil && sfs.Type != pidfsMagic {
		err = &collect.Error{Found: "this kernel does not number processes once and for all (pidfs)", Hint: "Linux 6.9 and later do"}
	}
	return st.Ino, err
}

// number returns the process's number: -1 once it is reaped, 0 if it has none here.
func number(pidfd *os.File) (pid int, err error) {
	err = control(pidfd, func(fd int) error {
		f, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(fd))
		if err != nil {
			return err
		}
		defer f.Close()
		for in := bufio.NewScanner(io.LimitReader(f, 4096)); in.Scan(); {
			if v, ok := strings.CutPrefix(in.Text(), "Pid:"); ok {
				pid, err = strconv.Atoi(strings.TrimSpace(v))
				return err
			}
		}
		return errors.New("/proc/self/fdinfo names no process for a pidfd")
	})
	return pid, err
}

// control runs f with a descriptor that stays open while f runs.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if raw.Control(func(fd uintptr) { err = f(int(fd)) }) != nil {
		return os.ErrClosed
	}
	return err
}

func openAt(dir int, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// namespaces are those that a process shares with the agent, or its messages and paths
// mean something else than they say.
var namespaces = []string{"user", "pid", "mnt"}

func (p *Process) sameNamespaces() error {
	for _, name := range namespaces {
		var own, its unix.Stat_t
		if err := unix.Stat("/proc/self/ns/"+name, &own); err != nil {
			return fmt.Errorf("/proc/self/ns/%s: %w", name, err)
		}
		err := control(p.proc, func(dir int) error { return unix.Fstatat(dir, "ns/"+name, &its, 0) })
		if err != nil {
			return p.explain("ns/"+name, err)
		}
		if own.Dev != its.Dev || own.Ino != its.Ino {
			return foreign("a process in the "+name+" namespace of the agent", "one in another")
		}
	}
	return nil
}

func foreign(want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSenderForeign, Where: "peer of the socket", Want: want, Got: got})
}

func (p *Process) deny(reason keystead.Reason, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: reason, Where: fmt.Sprintf("process %d", p.pid), Want: want, Got: got})
}

func (p *Process) gone() error {
	return p.deny(keystead.ReasonProcessGone, "alive until it has its answer", "ended")
}

// Alive fails with process-gone once the process has ended.
func (p *Process) Alive() error {
	ended := false
	err := control(p.pidfd, func(fd int) error {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if !errors.Is(err, unix.EINTR) {
				ended = n > 0
				return err
			}
		}
	})
	if err == nil && ended {
		return p.gone()
	}
	return err
}

// Inode is the process's number in pidfs: no other process of this boot has it.
func (p *Process) Inode() uint64 { return p.inode }

// PID is the number of the process, for people: another process may have it later.
func (p *Process) PID() int { return p.pid }

// Close lets go of the process. It may be called twice.
func (p *Process) Close() error {
	var errs []error
	for _, f := range []*os.File{p.pidfd, p.proc} {
		if f == nil {
			continue
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// file opens a file of the process's directory in /proc.
func (p *Process) file(name string, flags int) (f *os.File, err error) {
	err = control(p.proc, func(dir int) (err error) { f, err = openAt(dir, name, flags); return err })
	if err != nil {
		return nil, p.explain(name, err)
	}
	return f, nil
}

// read reads a file of /proc/PID of at most limit bytes.
func (p *Process) read(name string, limit int64) ([]byte, error) {
	f, err := p.file(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, p.explain(name, err)
	}
	if int64(len(b)) > limit {
		return nil, p.deny(keystead.ReasonBinaryUnsuitable, fmt.Sprintf("a process whose /proc/PID/%s is at most %d bytes", name, limit), "more")
	}
	return b, nil
}

// explain says what it means that a file of /proc/PID could not be read.
func (p *Process) explain(name string, err error) error {
	if gone := p.Alive(); gone != nil {
		return gone
	}
	if errors.Is(err, fs.ErrPermission) {
		return &collect.Error{Found: fmt.Sprintf("process %d: /proc/PID/%s may not be read", p.pid, name), Err: err, Hint: "run the agent as root"}
	}
	return fmt.Errorf("process %d: /proc/PID/%s: %w", p.pid, name, err)
}

// User returns the effective user of the process, whose filters are the launcher's own.
func (p *Process) User() (uint32, error) { return p.threads(true) }

// Twin returns another descriptor of the same file.
func Twin(f *os.File) (twin *os.File, err error) {
	err = control(f, func(fd int) error {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			twin = os.NewFile(uintptr(n), f.Name())
		}
		return err
	})
	return twin, err
}

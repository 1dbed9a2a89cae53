package collect

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
)

// A Peer is the process that connected to a Unix socket of this machine: that one
// process and no later one of the same number, for a pidfd holds on to it. What is
// found out of it stands at level peer; docs/adversaries.md says what fools that.
//
// Its methods are for concurrent use. Close does not wait for the others, which then
// fail.
type Peer struct {
	uid   uint32
	pid   int32
	pidfd *os.File
	proc  *os.File // /proc/PID
}

// NewPeer returns the process at the other end of conn, which it leaves open. The
// caller closes the peer. It fails with process-gone if the process has ended, and
// with an [Error] on a kernel that does not name peers by pidfd (before Linux 6.5):
// by its number alone another process could be taken for it.
func NewPeer(conn *net.UnixConn) (*Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &Peer{}
	cerr := raw.Control(func(fd uintptr) { err = p.identify(int(fd)) })
	if err = errors.Join(cerr, err); err == nil {
		err = p.openProc()
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// identify asks the kernel who connected (unix(7)).
func (p *Peer) identify(socket int) error {
	cred, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("SO_PEERCRED: %w", err)
	}
	p.uid, p.pid = cred.Uid, cred.Pid
	pidfd, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return p.refused(err)
	}
	unix.CloseOnExec(pidfd)
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	return nil
}

// refused says why the kernel gives no pidfd.
func (p *Peer) refused(err error) error {
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return &Error{Found: "this kernel does not name the peer of a socket by pidfd (SO_PEERPIDFD)", Hint: "Linux 6.5 and later do", Err: err}
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL): // it was reaped before it was asked for
		return p.gone()
	}
	return fmt.Errorf("SO_PEERPIDFD: %w", err)
}

// openProc opens the process's directory in /proc. It is that process's own, since
// the process is still alive, under its number, once the directory is open.
func (p *Peer) openProc() error {
	if p.pid <= 0 {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProcessGone, Where: "peer of the socket",
			Want: "a process that the agent can see", Got: "one of a pid namespace that it can not"})
	}
	name := "/proc/" + strconv.Itoa(int(p.pid))
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return p.gone()
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	p.proc = os.NewFile(uintptr(fd), name)
	return p.Alive()
}

func (p *Peer) gone() error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProcessGone, Where: p.where(), Want: "alive until it has its answer", Got: "ended"})
}

func (p *Peer) where() string { return fmt.Sprintf("process %d of user %d", p.pid, p.uid) }

// Alive fails with process-gone once the process has ended.
func (p *Peer) Alive() error {
	ended := false
	err := control(p.pidfd, func(fd int) error {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if !errors.Is(err, unix.EINTR) {
				ended = n > 0 // pidfd_open(2): readable when the process terminates
				return err
			}
		}
	})
	if err == nil && ended {
		return p.gone()
	}
	return err
}

// control runs f with a descriptor that is not closed, and so not another file's,
// before f returns. It fails with os.ErrClosed.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if raw.Control(func(fd uintptr) { err = f(int(fd)) }) != nil {
		return os.ErrClosed // nothing else fails there
	}
	return err
}

// UID is the user that the process had in effect when it connected.
func (p *Peer) UID() uint32 { return p.uid }

// PID is the number of the process, for people: another process may have it later.
func (p *Peer) PID() int32 { return p.pid }

// Close lets go of the process. It may be called twice.
func (p *Peer) Close() error {
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

package process

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead/collect"
)

// A Conn is the connection of an application. Read gives only what the process that
// connected sends by itself: bytes that a child sends, or another process that was
// handed the descriptor, end it with sender-foreign. Receive gives all, and Foreign says
// from then on that others sent as well.
type Conn struct {
	*Process
	conn *net.UnixConn

	mu      sync.Mutex
	foreign error // why not all that came is the process's own; nil if it is
	keep    int   // descriptors to keep of those that come
	kept    []*os.File
}

// Listening prepares a listener whose connections go to [Accept], so that not even a
// first message is without its sender.
func Listening(l *net.UnixListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return pass(raw.Control)
}

// pass asks the kernel to name the sender of each message.
func pass(control func(func(uintptr)) error) (err error) {
	cerr := control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1) })
	if err = errors.Join(cerr, err); errors.Is(err, unix.ENOPROTOOPT) {
		return &collect.Error{Found: "this kernel does not name senders by pidfd (SO_PASSPIDFD)", Hint: "Linux 6.5 and later do", Err: err}
	}
	return err
}

// Accept finds out who connected. The caller closes conn and what is returned.
func Accept(conn *net.UnixConn) (*Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := pass(raw.Control); err != nil {
		return nil, err
	}
	var pidfd int
	cerr := raw.Control(func(fd uintptr) { pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
	switch err = errors.Join(cerr, err); {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		return nil, (&Process{}).gone()
	case err != nil:
		return nil, fmt.Errorf("SO_PEERPIDFD: %w", err)
	}
	unix.CloseOnExec(pidfd)
	p, err := Open(os.NewFile(uintptr(pidfd), "pidfd"))
	if err != nil {
		return nil, err
	}
	return &Conn{Process: p, conn: conn}, nil
}

// Launched is the connection of a process that the agent itself launched, by the other
// end of a socket that it gave it. It takes the pidfd over.
func Launched(conn *net.UnixConn, pidfd *os.File) (*Conn, error) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = pass(raw.Control)
	}
	if err != nil {
		return nil, errors.Join(err, pidfd.Close())
	}
	p, err := Open(pidfd)
	if err != nil {
		return nil, err
	}
	return &Conn{Process: p, conn: conn}, nil
}

// descriptors bounds those that come with a message: SCM_MAX_FD of Linux.
const descriptors = 253

// Read reads what the process sends. Descriptors that come along are closed. The bytes of
// one call are of one sender: the kernel does not join those of two.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Receive(b)
	if n == 0 || err != nil {
		return 0, err
	}
	if err := c.Foreign(); err != nil {
		return 0, err
	}
	return n, c.Alive()
}

// Receive reads what comes, whoever sends it.
func (c *Conn) Receive(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	oob := make([]byte, unix.CmsgSpace(4)+unix.CmsgSpace(4*descriptors)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return 0, err
	}
	sender, others, err := senderOf(oob[:oobn])
	c.take(others)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	case flags&unix.MSG_CTRUNC != 0 || sender == nil:
		c.taint(foreign("a message whose sender the kernel names", "one without"))
		return n, nil
	}
	defer sender.Close()
	got, err := inode(sender)
	if err != nil {
		return 0, err
	}
	if got != c.inode {
		c.taint(foreign("the process that connected", "another"))
	}
	return n, nil
}

// Foreign says that something came that the process did not send by itself (sender-foreign).
func (c *Conn) Foreign() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.foreign
}

func (c *Conn) taint(because error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.foreign == nil {
		c.foreign = because
	}
}

// Keep has the next n descriptors that come along kept for [Conn.Descriptors]; further ones are
// closed.
func (c *Conn) Keep(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep = n
}

// Descriptors hands over those that came, in their order.
func (c *Conn) Descriptors() []*os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.kept
	c.keep, c.kept = c.keep+len(out), nil
	return out
}

func (c *Conn) take(others []*os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range others {
		if c.keep == 0 {
			f.Close()
			continue
		}
		c.keep, c.kept = c.keep-1, append(c.kept, f)
	}
}

// Close lets go of the process, and of descriptors that came.
func (c *Conn) Close() error {
	for _, f := range c.Descriptors() {
		f.Close()
	}
	return c.Process.Close()
}

// senderOf returns the pidfd of a message's sender, nil if there is none, and other
// descriptors that came.
func senderOf(oob []byte) (sender *os.File, others []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, nil, fmt.Errorf("control messages: %w", err)
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS && m.Header.Type != unix.SCM_PIDFD {
			continue
		}
		pidfd := m.Header.Type == unix.SCM_PIDFD
		m.Header.Type = unix.SCM_RIGHTS // of the same form
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			switch {
			case fd < 0: // the kernel could not open one
			case pidfd && sender == nil:
				unix.CloseOnExec(fd)
				sender = os.NewFile(uintptr(fd), "pidfd")
			default:
				unix.CloseOnExec(fd)
				others = append(others, os.NewFile(uintptr(fd), "descriptor"))
			}
		}
	}
	return sender, others, nil
}

// Write sends to the socket. Whoever holds the other end may read it: what is secret is
// sealed to a key that the process itself sent.
func (c *Conn) Write(b []byte) (int, error) { return c.conn.Write(b) }

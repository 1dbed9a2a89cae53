package process

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead/collect"
)

// A Conn is the connection of an application. It reads only what the process that
// connected sends by itself: bytes that a child sends, or another process that was
// handed the descriptor, end it with sender-foreign.
type Conn struct {
	*Process
	conn *net.UnixConn
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

// descriptors bounds those that come with a message: SCM_MAX_FD of Linux.
const descriptors = 253

// Read reads what the process sends. Descriptors that come along are closed. The bytes of
// one call are of one sender: the kernel does not join those of two.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	oob := make([]byte, unix.CmsgSpace(4)+unix.CmsgSpace(4*descriptors)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return 0, err
	}
	sender, err := senderOf(oob[:oobn])
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	case flags&unix.MSG_CTRUNC != 0 || sender == nil:
		return 0, foreign("a message whose sender the kernel names", "one without")
	}
	defer sender.Close()
	got, err := inode(sender)
	if err != nil {
		return 0, err
	}
	if got != c.inode {
		return 0, foreign("the process that connected", "another")
	}
	return n, c.Alive()
}

// senderOf returns the pidfd of a message's sender, nil if there is none, and closes
// other descriptors.
func senderOf(oob []byte) (sender *os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control messages: %w", err)
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
				unix.Close(fd)
			}
		}
	}
	return sender, nil
}

// Write sends to the socket. Whoever holds the other end may read it: what is secret is
// sealed to a key that the process itself sent.
func (c *Conn) Write(b []byte) (int, error) { return c.conn.Write(b) }

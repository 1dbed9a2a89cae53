package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
)

// A Setting is what a program is started with.
type Setting struct {
	Args  []string // after the name
	Env   []string // all of it: nothing is inherited
	UID   uint32   // its own: not root's
	GID   uint32
	Read  []string // directories that it may read
	Write []string // directories that it may write, besides

	Stdin, Stdout, Stderr *os.File `json:"-"` // may be nil
}

// A Launched is a program that was started. Its process is that of Pidfd; Conn is the
// other end of its descriptor 3. The caller closes both, and waits.
type Launched struct {
	Conn  *net.UnixConn
	Pidfd *os.File

	cmd *exec.Cmd
}

// Wait waits until the program ends.
func (l *Launched) Wait() error { return l.cmd.Wait() }

// Signal sends the program a signal.
func (l *Launched) Signal(s os.Signal) error { return l.cmd.Process.Signal(s) }

// Kill ends the program.
func (l *Launched) Kill() error { return l.cmd.Process.Kill() }

// Descriptors of the stage.
const (
	stageProgram = 3 + iota
	stageSocket
	stageSetting
	stageWord     // what went wrong; closed by exec
	stageArgument = "keystead-launch-stage"
)

const maxSetting = 1 << 20

// Start runs a sealed copy that a root vouches for, by way of a binary whose main calls
// Stage: the agent's own. It refuses a copy that is not sealed (launch-unsealed), that is
// another program than the identity's (app-altered), and one that needs a loader
// (binary-unsuitable).
func Start(stage string, sealed *os.File, id app.Identity, s Setting) (*Launched, error) {
	if err := check(sealed, id, s); err != nil {
		return nil, err
	}
	setting, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if len(setting) > maxSetting {
		return nil, fmt.Errorf("the setting is %d bytes, at most %d are accepted", len(setting), maxSetting)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer theirs.Close()
	defer ours.Close()
	if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1); err != nil { // before the program can say anything
		return nil, fmt.Errorf("SO_PASSPIDFD: %w", err)
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	l := &Launched{Conn: conn.(*net.UnixConn)}
	if err := l.start(stage, sealed, theirs, setting, s); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return l, nil
}

func check(sealed *os.File, id app.Identity, s Setting) error {
	deny := func(reason keystead.Reason, want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: reason, Where: "program to launch", Want: want, Got: got})
	}
	got, err := unix.FcntlInt(sealed.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || got&seals != seals {
		return deny(keystead.ReasonLaunchUnsealed, "a sealed copy", fmt.Sprintf("seals %#x, %v", got, err))
	}
	st, err := sealed.Stat()
	if err != nil {
		return err
	}
	p, err := app.Parse(sealed, st.Size())
	if err != nil {
		return err
	}
	digest, err := p.FileDigest()
	switch {
	case err != nil:
		return err
	case id.Program().IsZero() || digest != id.Program():
		return deny(keystead.ReasonAppAltered, "the program that a root vouches for, "+id.Program().String(), digest.String())
	case p.Image.Interpreter != "":
		return deny(keystead.ReasonBinaryUnsuitable, "a static program", "one with the loader "+p.Image.Interpreter)
	case s.UID == 0 || s.GID == 0:
		return errors.New("a launched program has a user and a group of its own, not root's")
	}
	return nil
}

func (l *Launched) start(stage string, sealed, socket *os.File, setting []byte, s Setting) error {
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	word, said, err := os.Pipe()
	if err != nil {
		return errors.Join(err, in.Close())
	}
	defer word.Close()
	pidfd := -1
	l.cmd = &exec.Cmd{Path: stage, Args: []string{stageArgument}, Env: []string{}, Dir: "/", ExtraFiles: []*os.File{sealed, socket, in, said},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}}
	if s.Stdin != nil {
		l.cmd.Stdin = s.Stdin
	}
	if s.Stdout != nil {
		l.cmd.Stdout = s.Stdout
	}
	if s.Stderr != nil {
		l.cmd.Stderr = s.Stderr
	}
	err = l.cmd.Start()
	in.Close()
	said.Close()
	if err != nil {
		return fmt.Errorf("start the stage: %w", err)
	}
	l.Pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	_, err = out.Write(setting)
	err = errors.Join(err, out.Close())
	problem, rerr := io.ReadAll(io.LimitReader(word, 4096)) // ends with exec
	if err = errors.Join(err, rerr); err == nil && len(problem) > 0 {
		err = fmt.Errorf("launch: %s", problem)
	}
	if err != nil {
		_ = l.Kill()
		_ = l.Wait()
		return errors.Join(err, l.Pidfd.Close())
	}
	return nil
}

package collect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/process"
)

// peerEnv makes the test's binary an application: it connects to the socket named
// there, or goes on with the open descriptor named there, and does what it is told.
const peerEnv = "KEYSTEAD_TEST_PEER"

// playPeer is the application's main. It obeys one line at a time.
func playPeer() bool {
	where, ok := os.LookupEnv(peerEnv)
	if !ok {
		return false
	}
	var f *os.File
	if fd, err := strconv.Atoi(where); err == nil {
		f = os.NewFile(uintptr(fd), "socket")
	} else {
		conn, err := net.Dial("unix", where)
		check(err)
		f, err = conn.(*net.UnixConn).File()
		check(err)
	}
	fmt.Fprintln(f, "here")
	for in := bufio.NewScanner(f); in.Scan(); {
		verb, path, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "exit":
			return true
		case "hold": // a child keeps the connection, and this process becomes another
			holder := exec.Command("/proc/self/exe")
			holder.Env = append(os.Environ(), peerEnv+"=3")
			holder.ExtraFiles = []*os.File{f}
			check(holder.Start())
			fallthrough
		case "exec":
			fd, err := syscall.Dup(int(f.Fd())) // without close-on-exec
			check(err)
			if verb == "hold" {
				fd = int(must(os.Open(os.DevNull)).Fd()) // nothing of the connection
				check(syscall.Exec(path, []string{path, "300"}, nil))
			}
			check(syscall.Exec(path, []string{path}, []string{peerEnv + "=" + strconv.Itoa(fd)}))
		}
	}
	return true
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must[T any](v T, err error) T { check(err); return v }

// application is a process of a program of its own that has connected.
type application struct {
	*Peer
	path string // of its executable
	conn *net.UnixConn
	in   *bufio.Reader
	cmd  *exec.Cmd
}

// copyOfTest is an executable that nobody else runs.
func copyOfTest(t *testing.T, path string) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(to, from)
	}
	if err = errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
}

// launch starts an application and has it connect, without looking at it.
func launch(t *testing.T) *application {
	t.Helper()
	dir := t.TempDir()
	a := &application{path: filepath.Join(dir, "application")}
	copyOfTest(t, a.path)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.cmd = exec.Command(a.path)
	a.cmd.Env = append(os.Environ(), peerEnv+"="+l.Addr().String())
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.cmd.Process.Kill(); a.cmd.Wait() })
	if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	a.conn, a.in = conn.(*net.UnixConn), bufio.NewReader(conn)
	a.heard(t)
	return a
}

// started is an application whose peer is open.
func started(t *testing.T) *application {
	t.Helper()
	a := launch(t)
	var err error
	if a.Peer, err = NewPeer(a.conn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Peer.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// heard waits until the application says that it is there.
func (a *application) heard(t *testing.T) {
	t.Helper()
	a.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if line, err := a.in.ReadString('\n'); err != nil || line != "here\n" {
		t.Fatalf("application: %q, %v", line, err)
	}
}

func (a *application) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(a.conn, line); err != nil {
		t.Fatal(err)
	}
}

func (a *application) program(t *testing.T) Program {
	t.Helper()
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refused measures, and demands a refusal for exactly this reason.
func (a *application) refused(t *testing.T, before Program, want keystead.Reason) {
	t.Helper()
	f, err := a.Measure(context.Background(), before)
	var deny *keystead.DenyError
	if !errors.As(err, &deny) || len(deny.Findings) != 1 || deny.Findings[0].Reason != want || f != (process.Facts{}) {
		t.Errorf("want %s, got %v, %v", want, f, err)
	}
}

func fileDigest(t *testing.T, path string) keystead.Digest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return keystead.Sum(b)
}

func TestPeerIsMeasured(t *testing.T) {
	a := started(t)
	f, err := a.Measure(context.Background(), a.program(t))
	if err != nil {
		t.Fatal(err)
	}
	want := process.Facts{Level: process.Peer, Path: a.path, Digest: fileDigest(t, a.path), UID: uint32(os.Geteuid())}
	if f != want || a.PID() != int32(a.cmd.Process.Pid) {
		t.Errorf("got %v of process %d, want %v of process %d", f, a.PID(), want, a.cmd.Process.Pid)
	}
}

// TestRenamedExecutable shows that what is measured is the file that runs, whatever
// stands at the path that it was started from.
func TestRenamedExecutable(t *testing.T) {
	a := started(t)
	content, elsewhere := fileDigest(t, a.path), a.path+"-elsewhere"
	before := a.program(t)
	if err := os.Rename(a.path, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.path, []byte("an accepted program"), 0o755); err != nil {
		t.Fatal(err)
	}
	a.refused(t, before, keystead.ReasonProcessChanged)
	f, err := a.Measure(context.Background(), a.program(t))
	if err != nil || f.Path != elsewhere || f.Digest != content {
		t.Errorf("renamed before it was asked: got %v, %v", f, err)
	}
}

func TestMovedExecutable(t *testing.T) {
	for name, move := range map[string]func(path string) error{
		"deleted":  os.Remove,
		"replaced": func(path string) error { return os.Rename(copyBeside(t, path), path) },
		"deleted, with a file of the name that the kernel then gives": func(path string) error {
			return errors.Join(os.Rename(copyBeside(t, path), path+" (deleted)"), os.Remove(path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := started(t)
			if err := move(a.path); err != nil {
				t.Fatal(err)
			}
			a.refused(t, a.program(t), keystead.ReasonExecutableMoved)
		})
	}
}

func copyBeside(t *testing.T, path string) string {
	copyOfTest(t, path+"-copy")
	return path + "-copy"
}

func TestProcessChanged(t *testing.T) {
	t.Run("another program", func(t *testing.T) {
		a := started(t)
		before, other := a.program(t), a.path+"-other"
		copyOfTest(t, other)
		a.tell(t, "exec "+other)
		a.heard(t)
		a.refused(t, before, keystead.ReasonProcessChanged)
	})
	t.Run("its executable was touched", func(t *testing.T) {
		a := started(t)
		before := a.program(t)
		if err := os.Chmod(a.path, 0o700); err != nil {
			t.Fatal(err)
		}
		a.refused(t, before, keystead.ReasonProcessChanged)
	})
	t.Run("another user", func(t *testing.T) {
		a := started(t)
		a.uid++ // as if the one who connected had been another
		a.refused(t, a.program(t), keystead.ReasonProcessChanged)
	})
}

func TestProcessGone(t *testing.T) {
	end := func(t *testing.T, a *application) {
		a.tell(t, "exit")
		if err := a.cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("between challenge and answer", func(t *testing.T) {
		a := started(t)
		before := a.program(t)
		end(t, a)
		a.refused(t, before, keystead.ReasonProcessGone)
		if err := a.Alive(); !errors.Is(err, keystead.ReasonProcessGone) {
			t.Errorf("Alive: %v", err)
		}
	})
	t.Run("before it was asked for", func(t *testing.T) {
		a := launch(t)
		end(t, a)
		if p, err := NewPeer(a.conn); !errors.Is(err, keystead.ReasonProcessGone) {
			t.Errorf("got %v, %v", p, err)
		}
	})
}

func TestProcessTraced(t *testing.T) {
	a := started(t)
	before := a.program(t)
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(a.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	a.refused(t, before, keystead.ReasonProcessTraced)
}

func TestMeasureObeysItsContext(t *testing.T) {
	a := started(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Measure(ctx, a.program(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestExecHandOff shows what level peer does not defend against: the process is
// measured as what it became, and a child of what it was holds the connection.
func TestExecHandOff(t *testing.T) {
	a := started(t)
	accepted, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err = filepath.EvalSymlinks(accepted); err != nil {
		t.Fatal(err)
	}
	a.tell(t, "hold "+accepted)
	a.heard(t) // from the child
	for deadline := time.Now().Add(30 * time.Second); ; {
		f, err := a.Measure(context.Background(), a.program(t))
		if err == nil && f.Path == accepted {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v, %v", f, err)
		}
		runtime.Gosched()
	}
	a.tell(t, "exit") // the child's end of the connection still answers
}

func TestClosedPeer(t *testing.T) {
	a := started(t)
	before := a.program(t)
	if err := errors.Join(a.Close(), a.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Measure(context.Background(), before); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

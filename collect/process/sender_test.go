package process_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect/process"
	level "github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
)

// TestHandOff has a stranger connect, leave the connection with a child, and run the
// signed program: the measurement finds the signed program, and what the child then
// sends on the connection is refused.
func TestHandOff(t *testing.T) {
	a := specimen.NewAuthority(t)
	trusted := a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player")
	stranger := start(t, specimen.Build(t, specimen.CPIE))
	if _, err := fmt.Fprintln(stranger, "hold "+trusted); err != nil {
		t.Fatal(err)
	}
	var m *process.Measurement
	for end := time.Now().Add(20 * time.Second); ; runtime.Gosched() { // until the stranger has become the signed program
		var err error
		if m, err = stranger.Measure(ctx, process.Options{}); err == nil || time.Now().After(end) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if id, err := m.Program.Verify(m.Measured, a.Roots(t, level.Measured), nobody, a.Now); err != nil || id.Name() != "player" {
		t.Fatalf("the attack is not mounted: %q, %v", id.Name(), err)
	}
	if _, err := fmt.Fprintln(stranger, "say"); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the holder answers", stranger.hears("ok"), keystead.ReasonSenderForeign)
}

// TestRunsAnother has a measured program run another in its place.
func TestRunsAnother(t *testing.T) {
	a := specimen.NewAuthority(t)
	other := specimen.Build(t, specimen.MuslStatic)
	p := start(t, a.Sign(t, specimen.Build(t, specimen.CPIE), "player"))
	m, err := p.Measure(ctx, process.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(p, "run "+other); err != nil {
		t.Fatal(err)
	}
	if err := p.hears("here"); err != nil { // the same process sends: the other program
		t.Fatal(err)
	}
	wantReason(t, "another program since", m.Again(), keystead.ReasonProcessChanged)
}

// TestSenders sends on a measured program's connection by a child of it, and by whoever
// took a copy of its descriptor.
func TestSenders(t *testing.T) {
	a := specimen.NewAuthority(t)
	path := a.Sign(t, specimen.Build(t, specimen.CPIE), "player")
	p := start(t, path)
	if _, err := fmt.Fprintln(p, "child"); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "a child", p.hears("ok"), keystead.ReasonSenderForeign)

	p = start(t, path)
	pidfd, err := unix.PidfdOpen(p.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	stolen, err := unix.PidfdGetfd(pidfd, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stolen)
	if _, err := unix.Write(stolen, []byte("ok\n")); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "who took the descriptor (pidfd_getfd)", p.hears("ok"), keystead.ReasonSenderForeign)

	p = start(t, path)
	held, err := p.conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	p.does(t, "say")
	after, err := os.ReadDir("/proc/self/fd")
	if err != nil || len(after) != len(before) {
		t.Errorf("reading took %d descriptors, %v", len(after)-len(before), err)
	}
}

// TestPassedDescriptors has the other end send descriptors along: none is kept.
func TestPassedDescriptors(t *testing.T) {
	a := specimen.NewAuthority(t)
	p := start(t, a.Sign(t, specimen.Build(t, specimen.CPIE), "player"))
	pidfd, err := unix.PidfdOpen(p.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	stolen, err := unix.PidfdGetfd(pidfd, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stolen)
	fds := make([]int, 200)
	for i := range fds {
		fds[i] = pidfd
	}
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := count()
	if err := unix.Sendmsg(stolen, []byte("x\n"), unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "a message with 200 descriptors", p.hears("x"), keystead.ReasonSenderForeign)
	if after := count(); after != before {
		t.Errorf("%d descriptors were kept", after-before)
	}
}

// TestFilteredStarter starts a program under a filter that answers its socket() with a
// descriptor that the starter keeps. The starter does read what the program is sent.
func TestFilteredStarter(t *testing.T) {
	a := specimen.NewAuthority(t)
	path := a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := start(t, specimen.Build(t, specimen.Starter), func(c *exec.Cmd) { c.Args = append(c.Args, path); c.Stdout = w })
	w.Close()
	_, err = p.Measure(ctx, process.Options{})
	wantReason(t, "a filter of the starter", err, keystead.ReasonProcessFiltered)

	said := bufio.NewReader(r)
	if line, err := said.ReadString('\n'); line != "kept\n" {
		t.Fatalf("the attack is not mounted: %q, %v", line, err)
	}
	for i := 0; ; i++ { // the program may be quicker than the starter, a time or two
		if _, err := fmt.Fprintln(p, "secret"); err != nil || i == 1000 {
			t.Fatalf("the starter reads nothing: %v", err)
		}
		if err := r.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		line, err := said.ReadString('\n')
		if strings.HasPrefix(line, "read ") { // all of it, or what the program left
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

// TestNamespaces connects from other namespaces, where a process may send as another, or
// see other files under its paths.
func TestNamespaces(t *testing.T) {
	a := specimen.NewAuthority(t)
	path := a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player")
	for name, attr := range map[string]*syscall.SysProcAttr{
		"pid": {Cloneflags: syscall.CLONE_NEWPID},
		"mnt": {Cloneflags: syscall.CLONE_NEWNS},
		"user": {Cloneflags: syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}},
	} {
		conn, _ := connect(t, path, func(c *exec.Cmd) { c.SysProcAttr = attr })
		p, err := process.Accept(conn)
		if wantReason(t, name, err, keystead.ReasonSenderForeign); err == nil {
			p.Close()
		}
	}
}

// TestTraced attaches a debugger.
func TestTraced(t *testing.T) {
	a := specimen.NewAuthority(t)
	p := start(t, a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player"))
	m, err := p.Measure(ctx, process.Options{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(p.PID()); err != nil {
		t.Fatal(err)
	}
	_, err = p.Measure(ctx, process.Options{})
	wantReason(t, "traced", err, keystead.ReasonProcessTraced)
	wantReason(t, "traced since", m.Again(), keystead.ReasonProcessTraced)
}

// TestReusedNumber ends a process and forces its number on another.
func TestReusedNumber(t *testing.T) {
	a := specimen.NewAuthority(t)
	path := a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player")
	p := start(t, path)
	m, err := p.Measure(ctx, process.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pid := p.PID()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); !errors.Is(p.Alive(), keystead.ReasonProcessGone); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the process does not end")
		}
	}
	var second *application
	for range 200 { // until the number is free, and nobody else was quicker
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		if second = start(t, path); second.PID() == pid {
			break
		}
		_ = second.cmd.Process.Kill()
	}
	if second.PID() != pid {
		t.Fatalf("no process got the number %d again", pid)
	}
	if second.Inode() == p.Inode() {
		t.Error("two processes have one inode")
	}
	_, err = p.Measure(ctx, process.Options{})
	wantReason(t, "measured under another's number", err, keystead.ReasonProcessGone)
	wantReason(t, "again under another's number", m.Again(), keystead.ReasonProcessGone)
}

// TestEnds ends in the midst of it.
func TestEnds(t *testing.T) {
	a := specimen.NewAuthority(t)
	p := start(t, a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player"))
	if _, err := fmt.Fprintln(p, "exit"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.ReadByte(); !errors.Is(err, io.EOF) && !errors.Is(err, keystead.ReasonProcessGone) && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); p.Alive() == nil; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the process does not end")
		}
	}
	_, err := p.Measure(ctx, process.Options{})
	wantReason(t, "ended", err, keystead.ReasonProcessGone)
}

package collect

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
)

// A Program is what a process runs at one moment: which file, unchanged since when.
// Two that are equal are the same process running the same, unwritten file.
type Program struct {
	device, inode uint64
	size          int64
	mtime, ctime  unix.Timespec
	started       string // field 22 of /proc/PID/stat: clock ticks since the boot
}

// Program says what the process runs now.
func (p *Peer) Program() (Program, error) {
	exe, err := p.open("exe")
	if err != nil {
		return Program{}, err
	}
	defer exe.Close()
	return p.program(exe)
}

// Signed reports whether the file that the process runs carries an application's signature
// (app.Carries), good or not. Its file system may be the process's own, and take any time.
func (p *Peer) Signed() (bool, error) {
	exe, err := p.open("exe")
	if err != nil {
		return false, err
	}
	defer exe.Close()
	var st unix.Stat_t
	if err := control(exe, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return false, fmt.Errorf("%s: its executable: %w", p.where(), err)
	}
	return app.Carries(exe, st.Size)
}

// program says what the process runs, its executable being open as exe.
func (p *Peer) program(exe *os.File) (Program, error) {
	var st unix.Stat_t
	if err := control(exe, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return Program{}, fmt.Errorf("%s: its executable: %w", p.where(), err)
	}
	stat, err := p.read("stat")
	if err != nil {
		return Program{}, err
	}
	// The name in parentheses may hold anything; field 3 is what follows the last ")".
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return Program{}, fmt.Errorf("%s: /proc/PID/stat has %d fields after the name", p.where(), len(fields))
	}
	return Program{device: uint64(st.Dev), inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim, started: fields[19]}, p.Alive()
}

// Measure finds out what the process is, at level peer. Before is what it ran when it
// was asked; it must still. It refuses with process-gone, process-changed,
// process-traced or executable-moved. Ctx ends it between two reads of the executable,
// whose file system may be the process's own and take any time for one.
func (p *Peer) Measure(ctx context.Context, before Program) (process.Facts, error) {
	exe, err := p.open("exe")
	if err != nil {
		return process.Facts{}, err
	}
	defer exe.Close()
	now, err := p.program(exe)
	if err != nil {
		return process.Facts{}, err
	}
	if err := p.unchanged(before, now); err != nil {
		return process.Facts{}, err
	}
	f := process.Facts{Level: process.Peer, UID: p.uid}
	if f.Path, err = p.path(now); err != nil {
		return process.Facts{}, err
	}
	if f.Digest, err = digest(ctx, exe); err != nil {
		return process.Facts{}, fmt.Errorf("%s: %s: %w", p.where(), f.Path, err)
	}
	if err := p.status(); err != nil {
		return process.Facts{}, err
	}
	if err := p.Unchanged(now); err != nil { // through /proc anew: it may have run another program meanwhile
		return process.Facts{}, err
	}
	return f, nil
}

// Unchanged fails with process-changed if the process no longer runs what it ran
// before, and with process-gone if it has ended.
func (p *Peer) Unchanged(before Program) error {
	now, err := p.Program()
	if err != nil {
		return err
	}
	return p.unchanged(before, now)
}

func (p *Peer) unchanged(before, now Program) error {
	if before == now {
		return nil
	}
	got := "another program since"
	if before.device == now.device && before.inode == now.inode {
		got = "an executable that was written to, renamed or linked since"
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProcessChanged, Where: p.where(), Want: "what it ran when it was asked", Got: got})
}

// path returns the executable's path as the kernel states it, if it leads to the
// file that runs.
func (p *Peer) path(now Program) (string, error) {
	buf := make([]byte, unix.PathMax)
	var n int
	err := control(p.proc, func(fd int) (err error) { n, err = unix.Readlinkat(fd, "exe", buf); return err })
	if err != nil {
		return "", p.explain("exe", err)
	}
	name := string(buf[:n])
	var st unix.Stat_t
	err = unix.Stat(name, &st)
	if err == nil && uint64(st.Dev) == now.device && st.Ino == now.inode {
		return name, nil
	}
	got := "another file"
	if err != nil {
		got = err.Error()
	}
	return "", keystead.Deny(keystead.Finding{Reason: keystead.ReasonExecutableMoved, Where: fmt.Sprintf("%s: %.256q", p.where(), name),
		Want: "the file that the process runs", Got: got})
}

// status checks the process's user and that no debugger is attached.
func (p *Peer) status() error {
	text, err := p.read("status")
	if err != nil {
		return err
	}
	var uids []string
	tracer := ""
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "Uid:"); ok {
			uids = strings.Fields(v) // real, effective, saved, file system
		}
		if v, ok := strings.CutPrefix(line, "TracerPid:"); ok {
			tracer = strings.TrimSpace(v)
		}
	}
	want := strconv.FormatUint(uint64(p.uid), 10)
	switch {
	case len(uids) != 4 || tracer == "":
		return fmt.Errorf("%s: /proc/PID/status has no users or no tracer", p.where())
	case tracer != "0":
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProcessTraced, Where: p.where(), Want: "no debugger", Got: "process " + tracer + " is attached"})
	case uids[1] != want:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProcessChanged, Where: p.where(), Want: "user " + want + ", who connected", Got: "user " + uids[1]})
	}
	return nil
}

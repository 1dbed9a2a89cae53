package launch_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/app/launch"
	"github.com/keystead/keystead/collect/process"
	level "github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
)

func TestMain(m *testing.M) {
	launch.Stage()
	os.Exit(m.Run())
}

const user = 54321

var ctx = context.Background()

func nobody(keystead.Digest) bool { return false }

func wantReason(t *testing.T, what string, err error, want keystead.Reason) {
	t.Helper()
	var deny *keystead.DenyError
	if !errors.As(err, &deny) || deny.Findings[0].Reason != want {
		t.Errorf("%s: want %s, got %v", what, want, err)
	}
}

// sealed returns a sealed copy of a signed player, and who it is.
func sealed(t *testing.T, a *specimen.Authority, kind specimen.Kind) (*os.File, app.Identity) {
	t.Helper()
	from, err := os.Open(a.Sign(t, specimen.Build(t, kind), "player"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	f, err := launch.Seal(from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := app.Parse(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.FileMeasured()
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.Verify(m, a.Roots(t, level.Launched), nobody, a.Now)
	if err != nil {
		t.Fatal(err)
	}
	return f, id
}

// player is a program that was launched, and its connection.
type player struct {
	*process.Conn
	in *bufio.Reader
}

func start(t *testing.T, f *os.File, id app.Identity, s launch.Setting) *player {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.UID, s.GID = user, user
	l, err := launch.Start(self, f, id, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Kill(); _ = l.Wait(); l.Conn.Close() })
	if err := l.Conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, err := process.Launched(l.Conn, l.Pidfd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p := &player{c, bufio.NewReader(c)}
	if line, err := p.in.ReadString('\n'); line != "here\n" {
		t.Fatalf("the program said %q, %v", line, err)
	}
	return p
}

func status(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLaunch launches static programs. What runs is the sealed copy, and has nothing of
// who launched it.
func TestLaunch(t *testing.T) {
	a := specimen.NewAuthority(t)
	t.Setenv("SECRET_OF_THE_LAUNCHER", "x")
	for _, kind := range []specimen.Kind{specimen.Go, specimen.MuslStatic} {
		t.Run(string(kind), func(t *testing.T) {
			f, id := sealed(t, a, kind)
			p := start(t, f, id, launch.Setting{Env: []string{"OWN=1"}})
			m, err := p.Measure(ctx, process.Options{Sealed: f})
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Program.Verify(m.Measured, a.Roots(t, level.Launched), nobody, a.Now)
			if err != nil || got.Program() != id.Program() || m.UID != user || got.Admits(level.Launched, "web-1", m.UID) != nil {
				t.Errorf("%v of user %d: %v", got, m.UID, err)
			}
			if err := m.Again(); err != nil {
				t.Error(err)
			}
			env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID()))
			if err != nil || string(env) != "OWN=1\x00" {
				t.Errorf("its environment is %q, %v", env, err)
			}
			text := status(t, p.PID())
			for _, line := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Groups:\t \n"} {
				if !strings.Contains(text, line) {
					t.Errorf("no %q in\n%s", line, text)
				}
			}
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.PID()))
			if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
				t.Errorf("limits: %v\n%s", err, limits)
			}
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range open {
				to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p.PID(), e.Name()))
				if e.Name() > "3" && !strings.HasPrefix(to, "anon_inode:") {
					t.Errorf("it has descriptor %s, %s", e.Name(), to)
				}
			}
		})
	}
}

// TestSealedCopy writes to the copy, as root, by each way there is.
func TestSealedCopy(t *testing.T) {
	f, id := sealed(t, specimen.NewAuthority(t), specimen.MuslStatic)
	p := start(t, f, id, launch.Setting{})
	if _, err := f.WriteAt([]byte{0}, 100); !errors.Is(err, unix.EPERM) {
		t.Errorf("a write: %v", err)
	}
	if err := f.Truncate(10); !errors.Is(err, unix.EPERM) {
		t.Errorf("cut: %v", err)
	}
	if w, err := os.OpenFile(fmt.Sprintf("/proc/%d/exe", p.PID()), os.O_WRONLY, 0); err == nil {
		if _, err := w.WriteAt([]byte{0}, 100); !errors.Is(err, unix.EPERM) {
			t.Errorf("a write through /proc: %v", err)
		}
		w.Close()
	}
	if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("the copy was mapped to be written to")
	}
}

// TestSameUser has another process of the program's user look at its memory. It may, where
// the program was merely started; it may not, where it was launched.
func TestSameUser(t *testing.T) {
	a := specimen.NewAuthority(t)
	look := func(pid int) error {
		c := exec.Command("cat", fmt.Sprintf("/proc/%d/maps", pid))
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		return c.Run()
	}
	sleep := exec.Command("sleep", "300")
	sleep.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	specimen.Run(t, sleep)
	for end := time.Now().Add(20 * time.Second); look(sleep.Process.Pid) != nil; {
		if time.Now().After(end) {
			t.Fatal("the attack is not mounted: a process of that user can not be looked at")
		}
	}
	f, id := sealed(t, a, specimen.MuslStatic)
	p := start(t, f, id, launch.Setting{})
	if look(p.PID()) == nil {
		t.Error("another process of its user saw its memory")
	}
}

// TestUnsealed has a launched program run another in its place, and pokes one.
func TestUnsealed(t *testing.T) {
	a := specimen.NewAuthority(t)
	other := specimen.Build(t, specimen.MuslStatic)
	dir := filepath.Dir(other)
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // its user may get there
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f, id := sealed(t, a, specimen.MuslStatic)
	p := start(t, f, id, launch.Setting{Read: []string{dir}})
	m, err := p.Measure(ctx, process.Options{Sealed: f})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(p, "run "+other); err != nil {
		t.Fatal(err)
	}
	if line, err := p.in.ReadString('\n'); line != "here\n" {
		t.Fatalf("the other program said %q, %v", line, err)
	}
	_, err = p.Measure(ctx, process.Options{Sealed: f})
	wantReason(t, "another program", err, keystead.ReasonLaunchUnsealed)
	wantReason(t, "another program since", m.Again(), keystead.ReasonLaunchUnsealed)

	p = start(t, f, id, launch.Setting{})
	if m, err = p.Measure(ctx, process.Options{Sealed: f}); err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var at int64
		if !strings.Contains(line, "r-xp") || !strings.Contains(line, "memfd:") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-", &at); err != nil {
			t.Fatal(err)
		}
		mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.PID()), os.O_WRONLY, 0)
		if err == nil {
			_, err = mem.WriteAt([]byte{0xcc}, at)
			mem.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		wantReason(t, "poked by root", m.Again(), keystead.ReasonTextAltered)
		return
	}
	t.Fatalf("no code in\n%s", maps)
}

// TestOutside has a launched program run a file that it was not given.
func TestOutside(t *testing.T) {
	a := specimen.NewAuthority(t)
	f, id := sealed(t, a, specimen.MuslStatic)
	p := start(t, f, id, launch.Setting{})
	if _, err := fmt.Fprintln(p, "run /bin/sleep"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.ReadByte(); !errors.Is(err, io.EOF) && !errors.Is(err, keystead.ReasonProcessGone) {
		t.Errorf("it did not fail: %v", err)
	}
}

// TestNotLaunched is what Start refuses.
func TestNotLaunched(t *testing.T) {
	a := specimen.NewAuthority(t)
	f, id := sealed(t, a, specimen.MuslStatic)
	other, otherID := sealed(t, a, specimen.Go)
	dynamic, dynamicID := sealed(t, a, specimen.CPIE)
	fd, err := unix.MemfdCreate("loose", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	loose := os.NewFile(uintptr(fd), "loose")
	defer loose.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, app.MaxProgram))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(loose, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	own := launch.Setting{UID: user, GID: user}
	for name, tc := range map[string]struct {
		file *os.File
		id   app.Identity
		want keystead.Reason
	}{
		"a copy that is not sealed": {loose, id, keystead.ReasonLaunchUnsealed},
		"another program":           {other, id, keystead.ReasonAppAltered},
		"the other way around":      {f, otherID, keystead.ReasonAppAltered},
		"nobody":                    {f, app.Identity{}, keystead.ReasonAppAltered},
		"a dynamic program":         {dynamic, dynamicID, keystead.ReasonBinaryUnsuitable},
	} {
		_, err := launch.Start("/proc/self/exe", tc.file, tc.id, own)
		wantReason(t, name, err, tc.want)
	}
	if _, err := launch.Start("/proc/self/exe", f, id, launch.Setting{}); err == nil || !strings.Contains(err.Error(), "root's") {
		t.Errorf("as root: %v", err)
	}
	if _, err := launch.Start("/proc/self/exe", f, id, launch.Setting{UID: user, GID: user, Read: []string{"/no/such/directory"}}); err == nil || !strings.Contains(err.Error(), "landlock") {
		t.Errorf("with a directory that is not there: %v", err)
	}
}

package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/app/appcmd"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/confine"
	"github.com/keystead/keystead/internal/specimen"
)

// runEnv makes the test's binary, which is the agent's own, the program keystead with its arguments;
// with the value "filtered", under a seccomp filter of its starter's.
const runEnv = "KEYSTEAD_TEST_RUN"

func runCommand(how string) int {
	if how == "filtered" {
		if err := confine.Filter(); err != nil {
			panic(err)
		}
		must1(os.Setenv(runEnv, "here"))
		panic(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	a := &cli.App{Stdout: os.Stdout, Stderr: os.Stderr}
	return a.Run(a.Root(a.Noun("keystead", "", "", ""), appcmd.Commands), os.Args[1:])
}

func must1(err error) {
	if err != nil {
		panic(err)
	}
}

const launchedUser = 4242

// launches is a command that launches the signed test binary as an application.
func launches(a *Agent, launcher, path string, uid int) *exec.Cmd {
	cmd := exec.Command(launcher, "run", path, "--socket", a.cfg.Socket.Path, "--uid", fmt.Sprint(uid), "--env", signedEnv+"=launched")
	cmd.Env = []string{runEnv + "=here"}
	return cmd
}

func own(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	return self
}

// ended waits for a program's exit status.
func ended(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
		return cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	return 0
}

// fails demands that a launcher ends with a status and a reason.
func fails(t *testing.T, cmd *exec.Cmd, status int, want keystead.Reason) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	if got := ended(t, cmd); got != status || !strings.Contains(out.String(), "keystead: error: "+string(want)+":") {
		t.Errorf("status %d, want %d and %s: %s", got, status, want, out.String())
	}
}

// TestLaunched launches a signed program: it gets keys that only launched ones get, under its own
// user; signals reach it, and its exit status is kept.
func TestLaunched(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	d.set(func() { d.apps.least = process.Launched })
	p := runs(t, launches(a, own(t), path, launchedUser))
	for range 2 {
		if got := p.does("get billing"); got != "secret of billing" {
			t.Fatalf("got %q", got)
		}
	}
	d.mu.Lock()
	seen := d.apps.seen[len(d.apps.seen)-1].Statement()
	d.mu.Unlock()
	if seen.Level != process.Launched || seen.UID != launchedUser || seen.Name() != "billing" {
		t.Errorf("the agent states %+v", seen)
	}
	direct := asks(t, a, path)
	direct.names("the same program, not launched", direct.does("get billing"), keystead.ReasonLevelLow)

	_, err := fmt.Fprintln(p.in, "exit 7")
	must(t, err)
	if got := ended(t, p.cmd); got != 7 {
		t.Errorf("exit status %d, want 7", got)
	}
	p = runs(t, launches(a, own(t), path, launchedUser))
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	if got := ended(t, p.cmd); got != 128+int(syscall.SIGTERM) {
		t.Errorf("exit status %d after a signal", got)
	}
}

// TestLaunchedAttacked changes a byte of a launched program's memory, as root.
func TestLaunchedAttacked(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	p := runs(t, launches(a, own(t), path, launchedUser))
	if got := p.does("get billing"); got != "secret of billing" {
		t.Fatalf("got %q", got)
	}
	d.mu.Lock()
	inode := d.apps.seen[len(d.apps.seen)-1].Statement().Inode
	d.mu.Unlock()
	a.front.mu.Lock()
	pid := a.front.launched[inode].process.PID()
	a.front.mu.Unlock()
	poke(t, pid, "r-xp")
	p.names("poked", p.does("get billing"), keystead.ReasonTextAltered)
}

// TestNotLaunched has others than the agent's own program of root launch, or what may not be.
func TestNotLaunched(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	self := own(t)
	other := filepath.Join(t.TempDir(), "keystead")
	copyFile(t, self, other)
	fails(t, launches(a, other, path, launchedUser), 2, keystead.ReasonLaunchUnsealed)
	filtered := launches(a, self, path, launchedUser)
	filtered.Env = []string{runEnv + "=filtered"}
	fails(t, filtered, 2, keystead.ReasonProcessFiltered)
	fails(t, launches(a, self, self, launchedUser), 2, keystead.ReasonAppUnsigned)
	altered := filepath.Join(t.TempDir(), "altered")
	content, err := os.ReadFile(path)
	must(t, err)
	content[bytes.Index(content, []byte("the program says"))]++
	must(t, os.WriteFile(altered, content, 0o755))
	fails(t, launches(a, self, altered, launchedUser), 2, keystead.ReasonAppAltered)
	dynamic := by.Sign(t, specimen.Build(t, specimen.Asker), "asker")
	fails(t, launches(a, self, dynamic, launchedUser), 2, keystead.ReasonBinaryUnsuitable)
	d.vouchedBy(by, func(r *app.Root) { r.Users = []app.Users{{First: 900, Last: 999}} })
	until(t, "the agent to know of the root's users", func() bool {
		cmd := launches(a, self, path, launchedUser)
		out, err := cmd.CombinedOutput()
		return err != nil && strings.Contains(string(out), "keystead: error: "+string(keystead.ReasonApplicationMismatch)+":")
	})
	d.vouchedBy(specimen.NewAuthority(t))
	until(t, "the agent to know of another root", func() bool {
		cmd := launches(a, self, path, launchedUser)
		out, err := cmd.CombinedOutput()
		return err != nil && strings.Contains(string(out), "keystead: error: "+string(keystead.ReasonAppCertForeign)+":")
	})
}

// TestUnsealedCopies are sent by the agent's own program, of root, with other descriptors than
// a launcher's. What more comes than three is closed.
func TestUnsealedCopies(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	_, a := admitted(t, by)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := client.Local(a.cfg.Socket.Path).Call(ctx, appv1connect.LaunchServicePrepareProcedure, &appv1.PrepareRequest{Uid: launchedUser}, &appv1.PrepareResponse{})
	is(t, err, keystead.ReasonLaunchUnsealed)
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	fd, err := unix.MemfdCreate("open", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	must(t, err)
	unsealedCopy := os.NewFile(uintptr(fd), "open")
	defer unsealedCopy.Close()
	_, err = io.Copy(unsealedCopy, file)
	must(t, err)
	for what, f := range map[string]*os.File{"the file itself": file, "a copy that can be written to": unsealedCopy} {
		if got := sendsAlong(t, a, f, f, f, f, f); !strings.Contains(got, string(keystead.ReasonLaunchUnsealed)+":") {
			t.Errorf("%s: got %s", what, got)
		}
	}
}

// sendsAlong sends descriptors with a request to launch, and returns the answer.
func sendsAlong(t *testing.T, a *Agent, files ...*os.File) string {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.cfg.Socket.Path, Net: "unix"})
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	request := "POST " + appv1connect.LaunchServicePrepareProcedure + " HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"uid\":4242}"
	_, _, err = conn.WriteMsgUnix([]byte(request), unix.UnixRights(fds...), nil)
	must(t, err)
	out, err := io.ReadAll(conn)
	must(t, err)
	return string(out)
}

// TestLaunchedRevoked: a program whose certificate is denied is out in seconds.
func TestLaunchedRevoked(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	cmd := launches(a, own(t), path, launchedUser)
	p := runs(t, cmd)
	if got := p.does("get billing"); got != "secret of billing" {
		t.Fatalf("got %q", got)
	}
	d.set(func() { d.apps.denied = map[keystead.Digest]bool{d.apps.seen[0].Identity().Key(): true} })
	began := time.Now()
	if got := ended(t, cmd); got != 4 {
		t.Errorf("exit status %d, want 4: revoked", got)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it was out after %v", took)
	}
	fails(t, launches(a, own(t), path, launchedUser), 4, keystead.ReasonAppCertRevoked)
}

// TestAgentRestartedUnderLaunched starts the agent anew: the program is launched still.
func TestAgentRestartedUnderLaunched(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, m := newDomain(t)
	d.vouchedBy(by)
	a := d.start(m, func(c *Config) { c.Socket.Mode = "0666" })
	must(t, os.Chmod(filepath.Dir(a.cfg.Socket.Path), 0o755))
	d.enrol(a)
	d.phase(a, Admitted)
	d.set(func() { d.apps.least = process.Launched })
	p := runs(t, launches(a, own(t), path, launchedUser))
	if got := p.does("get billing"); got != "secret of billing" {
		t.Fatalf("got %q", got)
	}
	must(t, a.Close())
	if got := p.does("get billing"); !strings.HasPrefix(got, "refused: ") {
		t.Errorf("without an agent: %q", got)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := Start(ctx, a.cfg, "", a.log)
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	d.phase(b, Admitted)
	until(t, "the key to be released anew", func() bool { return p.does("get billing") == "secret of billing" })
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	if got := ended(t, p.cmd); got != 128+int(syscall.SIGTERM) {
		t.Errorf("exit status %d after a signal", got)
	}
}

// TestNeverReads has a signed program of one user ask without end, and read no answer: a program of
// another user gets its key meanwhile.
func TestNeverReads(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	_, a := admitted(t, by)
	filler := exec.Command(by.Sign(t, specimen.Build(t, specimen.AskerStatic), "asker"), a.cfg.Socket.Path)
	full := runs(t, filler)
	p := runs(t, launches(a, own(t), path, launchedUser))
	if got := full.does("fill"); got != "ok" {
		t.Fatal(got)
	}
	for range 5 {
		if got := p.does("get billing"); got != "secret of billing" {
			t.Fatalf("got %q", got)
		}
	}
}

// TestLeaseEndsBetween ends the lease when the challenge was given and not answered yet.
func TestLeaseEndsBetween(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	p := asks(t, a, path)
	if got := p.does("challenge"); got != "ok" {
		t.Fatal(got)
	}
	suspended := keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseSuspended, Where: "host"})
	d.set(func() { d.suspended = suspended })
	a.do(func(c *Core, now Moment) Ready { return c.Told(now, suspended) })
	p.names("no lease", p.does("release billing"), keystead.ReasonLeaseSuspended)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.apps.seen) > 0 {
		t.Error("a node was told something without a lease")
	}
}

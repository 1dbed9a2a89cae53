package testbed

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead/fetch"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/refval/deb"
)

// TestBootStopped has the firmware look for a boot loader that is none, stops the
// machine once it writes on its console, and looks for what is left of it.
func TestBootStopped(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &Bed{Image: Image{Kernel: file, Initrd: file}, Loader: file, image: file, progress: func(string, ...any) {}}
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped by the test")
	ctx, stop := context.WithCancelCause(t.Context())
	go func() {
		for ctx.Err() == nil {
			if found, _ := filepath.Glob(filepath.Join(dir, "*", "console")); len(found) == 1 {
				if text, _ := os.ReadFile(found[0]); bytes.Contains(text, []byte("BdsDxe")) {
					stop(stopped)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	_, err = b.Start(ctx, ca, nil)
	if !errors.Is(err, stopped) || !strings.Contains(err.Error(), "console ends:") || !strings.Contains(err.Error(), "BdsDxe") {
		t.Errorf("got %v, want the cause and the console's end", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range commands {
		if text, _ := os.ReadFile(p); bytes.Contains(text, []byte(dir)) {
			t.Errorf("still running: %q", text)
		}
	}
}

// TestStopped wants a program's children to end with it.
func TestStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	cmd := command(ctx, "sh", "-c", "echo started; sleep 1000 & wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended well though it was stopped")
	}
	for deadline := time.Now().Add(time.Minute); syscall.Kill(-cmd.Process.Pid, 0) != syscall.ESRCH; {
		if time.Now().After(deadline) {
			t.Fatal("a process of the group is left")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRunSaysWhy(t *testing.T) {
	err := run(t.Context(), command(t.Context(), "sh", "-c", "echo on stdout; echo the trouble >&2; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "sh: exit status 3\non stdout\nthe trouble") {
		t.Errorf("got %v", err)
	}
}

func TestStranger(t *testing.T) {
	p := filepath.Join(t.TempDir(), "stranger")
	if err := os.WriteFile(p, stranger(0), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(p).Run(); err != nil {
		t.Error(err)
	}
}

// TestStrangerStatus wants the status that was asked for.
func TestStrangerStatus(t *testing.T) {
	p := filepath.Join(t.TempDir(), "stranger")
	if err := os.WriteFile(p, stranger(7), 0o755); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := exec.Command(p).Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("got %v, want status 7", err)
	}
}

func TestReadCapture(t *testing.T) {
	files := map[string]string{
		"./uname": "Linux 6.12\n", "./cmdline": "root=/dev/vda\n", "./ptrace_scope": "3\n", "./lockdown": "none integrity [confidentiality]\n",
		"./event-log": "events", "./dpkg-status": "status", "./ima-log": "log",
		"./pcrs": "sha256 3 " + strings.Repeat("AB", 32) + "\nsha384 3 " + strings.Repeat("CD", 48) + "\n",
	}
	c, err := readCapture(archive(t, files))
	if err != nil {
		t.Fatal(err)
	}
	if c.Kernel != "Linux 6.12" || c.CommandLine != "root=/dev/vda" || c.PtraceScope != 3 || c.Lockdown != "confidentiality" ||
		string(c.EventLog) != "events" || string(c.Status) != "status" || string(c.IMALog) != "log" {
		t.Errorf("got %+v", c)
	}
	if len(c.PCRs) != 2 || c.PCRs[0].Value[3][0] != 0xab || c.PCRs[1].Value[3][47] != 0xcd || c.PCRs[0].Value[4] != nil {
		t.Errorf("registers %v", c.PCRs)
	}
	for missing, want := range map[string]string{"./ptrace_scope": "ptrace_scope", "./pcrs": "no register values"} {
		rest := maps.Clone(files)
		delete(rest, missing)
		if _, err := readCapture(archive(t, rest)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: got %v, want an error with %q", missing, err, want)
		}
	}
}

// archive makes a tar archive as the guest does.
func archive(t *testing.T, files map[string]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// port makes a guest of which this test is the machine.
func port(t *testing.T) (*Guest, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return &Guest{port: ours, answers: bufio.NewReader(ours), off: make(chan struct{})}, theirs
}

// TestRun has a guest answer well, badly, and not at all.
func TestRun(t *testing.T) {
	answer := func(text string) (string, error) {
		g, guest := port(t)
		go func() {
			guest.Read(make([]byte, 64))
			guest.Write([]byte(text))
			if text == "" {
				g.failed = errors.New("it burns")
				guest.Close()
				close(g.off)
			}
		}()
		return g.Run(t.Context(), "true")
	}
	if out, err := answer("0 5\nhello"); err != nil || out != "hello" {
		t.Errorf("got %q, %v", out, err)
	}
	var failure *Failure
	if out, err := answer("3 2\nno"); !errors.As(err, &failure) || failure.Status != 3 || out != "no" || !strings.Contains(err.Error(), "status 3:\nno") {
		t.Errorf("got %q, %v", out, err)
	}
	for _, text := range []string{"what\n", "0\n", "0 -1\n", "0 99999999999\n"} {
		if _, err := answer(text); err == nil || !strings.Contains(err.Error(), "want status and size") {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if _, err := answer(""); err == nil || err.Error() != "it burns" {
		t.Errorf("a guest that is off: got %v", err)
	}
	g, guest := port(t)
	ctx, stop := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	go func() {
		guest.Read(make([]byte, 64))
		stop(stopped)
	}()
	if _, err := g.Run(ctx, "true"); !errors.Is(err, stopped) {
		t.Errorf("a guest that says nothing: got %v", err)
	}
}

// TestListening tells a socket that somebody listens at from one that is only there.
func TestListening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := listening(path); err == nil {
		t.Error("nobody listens")
	}
	if err := syscall.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	if err := listening(path); err != nil {
		t.Error(err)
	}
}

// TestMirror has this machine's own reader take a package from the mirror.
func TestMirror(t *testing.T) {
	m, err := NewMirror()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	root := t.TempDir()
	if err := m.WriteRoot(root); err != nil {
		t.Fatal(err)
	}
	content := debrepo.Installable("tool", "1.0", map[string]string{"postinst": "#!/bin/sh\n"}, tar.Header{Name: "./usr/bin/tool", Typeflag: tar.TypeReg, Mode: 0o755, Uname: "tool"})
	m.Offer(debrepo.Package{Name: "tool", Version: "1.0", Architecture: "amd64", Deb: content, NoMD5: true})
	built, err := fetch.Build(t.Context(), fetch.Options{Root: root, Cache: t.TempDir(), Packages: []deb.Name{{Package: "tool", Version: "1.0", Architecture: "amd64"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/usr/bin/tool", "/var/lib/dpkg/info/tool.postinst"} {
		if _, ok := built.Set.Path(path); !ok {
			t.Errorf("the set does not name %s; skipped %v", path, built.Skipped)
		}
	}
}

// TestTrimStatus wants the trimmed list to name what this machine's own list names.
func TestTrimStatus(t *testing.T) {
	status, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		t.Fatal(err)
	}
	want, err := deb.ParseStatus(status)
	if err != nil {
		t.Fatal(err)
	}
	got, err := deb.ParseStatus(trimStatus(status))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%d packages of the trimmed list (%v), %d of the whole", len(got), err, len(want))
	}
}

// TestKey wants another guest for other sources or packages.
func TestKey(t *testing.T) {
	s := sources{suite: "bookworm", lines: []string{"deb http://mirror.example bookworm main"}}
	keys := map[string]bool{key(s, []string{"a"}): true, key(s, []string{"a", "b"}): true}
	s.suite = "trixie"
	keys[key(s, []string{"a"})] = true
	if len(keys) != 3 {
		t.Errorf("%d keys of 3 guests", len(keys))
	}
}

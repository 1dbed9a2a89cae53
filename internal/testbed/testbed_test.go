package testbed

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

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
	b := &Bed{Kernel: file, Initrd: file, Loader: file, image: file, progress: func(string, ...any) {}}
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
	_, err := b.Boot(ctx, []Step{{Name: "never", Script: "true"}})
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
	if err := os.WriteFile(p, stranger(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(p).Run(); err != nil {
		t.Error(err)
	}
}

func TestPackSteps(t *testing.T) {
	disk, err := packSteps([]Step{{Name: "one", Script: "true"}, {Name: "two", Script: "false", Files: map[string][]byte{"f": []byte("content")}}})
	if err != nil || len(disk)%512 != 0 {
		t.Fatalf("a disk of %d bytes, %v", len(disk), err)
	}
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := unpack(p)
	want := map[string][]byte{"01-one.sh": []byte("true"), "02-two.sh": []byte("false"), "f": []byte("content")}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func TestReadResult(t *testing.T) {
	files := map[string]string{
		"./uname": "Linux 6.12\n", "./cmdline": "root=/dev/vda\n", "./ptrace_scope": "3\n", "./lockdown": "none integrity [confidentiality]\n",
		"./event-log": "events", "./dpkg-status": "status",
		"./01-one/status": "7\n", "./01-one/output": "said", "./01-one/ima-log": "log",
		"./01-one/pcrs": "sha256 3 " + strings.Repeat("AB", 32) + "\nsha384 3 " + strings.Repeat("CD", 48) + "\n",
	}
	steps := []Step{{Name: "one"}}
	r, err := readResult(disk(t, files), steps)
	if err != nil {
		t.Fatal(err)
	}
	s := r.Steps[0]
	if r.Kernel != "Linux 6.12" || r.CommandLine != "root=/dev/vda" || r.PtraceScope != 3 || r.Lockdown != "confidentiality" ||
		string(r.EventLog) != "events" || string(r.Status) != "status" || s.Name != "one" || s.Status != 7 || s.Output != "said" || string(s.IMALog) != "log" {
		t.Errorf("got %+v", r)
	}
	if len(s.PCRs) != 2 || s.PCRs[0].Value[3][0] != 0xab || s.PCRs[1].Value[3][47] != 0xcd || s.PCRs[0].Value[4] != nil {
		t.Errorf("registers %v", s.PCRs)
	}
	for missing, want := range map[string]string{
		"./uname": "left no results", "./ptrace_scope": "ptrace_scope", "./01-one/status": "step one: status", "./01-one/pcrs": "step one: no register values",
	} {
		rest := map[string]string{}
		for name, content := range files {
			if name != missing {
				rest[name] = content
			}
		}
		if _, err := readResult(disk(t, rest), steps); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: got %v, want an error with %q", missing, err, want)
		}
	}
}

// disk makes a results' disk as the guest does: a tar archive and zeros.
func disk(t *testing.T, files map[string]string) string {
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
	b.Write(make([]byte, 1<<16)) // no end marker is needed before zeros
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
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

package process_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/collect/process"
	level "github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
)

// An application is a signed player that has connected.
type application struct {
	*process.Conn
	conn *net.UnixConn
	in   *bufio.Reader
	cmd  *exec.Cmd
}

func dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "application")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// start runs a program with the path of a socket as its argument, and returns its connection.
func start(t testing.TB, path string, change ...func(*exec.Cmd)) *application {
	t.Helper()
	conn, cmd := connect(t, path, change...)
	a := &application{conn: conn, cmd: cmd}
	var err error
	if a.Conn, err = process.Accept(conn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	a.in = bufio.NewReader(a.Conn)
	if err := a.hears("here"); err != nil {
		t.Fatal(err)
	}
	return a
}

func connect(t testing.TB, path string, change ...func(*exec.Cmd)) (*net.UnixConn, *exec.Cmd) {
	t.Helper()
	name := filepath.Join(dir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(name, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := process.Listening(l); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, name)
	for _, c := range change {
		c(cmd)
	}
	specimen.Run(t, cmd)
	if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn, cmd
}

// hears wants a line.
func (a *application) hears(want string) error {
	got, err := a.in.ReadString('\n')
	if err == nil && strings.TrimSpace(got) != want {
		err = fmt.Errorf("heard %q, want %q", got, want)
	}
	return err
}

// does tells the player what to do, and waits until it was done.
func (a *application) does(t testing.TB, what string) {
	t.Helper()
	if _, err := fmt.Fprintln(a, what); err != nil {
		t.Fatal(err)
	}
	if err := a.hears("ok"); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantReason(t testing.TB, what string, err error, want keystead.Reason) {
	t.Helper()
	var deny *keystead.DenyError
	if !errors.As(err, &deny) || deny.Findings[0].Reason != want {
		t.Errorf("%s: want %s, got %v", what, want, err)
	}
}

// modes are the two ways to look at memory. Both are tried whatever this machine's
// ptrace_scope says, unless it forbids one.
func modes(t *testing.T, f func(t *testing.T, o process.Options)) {
	scope, err := process.PtraceScope()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("pages", func(t *testing.T) { f(t, process.Options{}) })
	if scope < 3 {
		t.Run("memory", func(t *testing.T) { f(t, process.Options{ReadMemory: true}) })
	}
}

var ctx = context.Background()

func nobody(keystead.Digest) bool { return false }

// TestMeasure measures a program of each kind as it runs, and finds what was signed.
func TestMeasure(t *testing.T) {
	a := specimen.NewAuthority(t)
	roots := a.Roots(t, level.Measured)
	for _, kind := range specimen.Kinds() {
		path := a.Sign(t, specimen.Build(t, kind), "player")
		t.Run(string(kind), func(t *testing.T) {
			modes(t, func(t *testing.T, o process.Options) {
				p := start(t, path)
				m, err := p.Measure(ctx, o)
				if err != nil {
					t.Fatal(err)
				}
				id, err := m.Program.Verify(m.Measured, roots, nobody, a.Now)
				if err != nil || id.Name() != "player" || m.Path != path || m.UID != 0 {
					t.Errorf("%q at %s of user %d: %v", id.Name(), m.Path, m.UID, err)
				}
				var names []string
				for _, l := range m.Mappings {
					names = append(names, l.Name)
				}
				if !slices.Equal(names, m.Program.Note.Libraries) {
					t.Errorf("libraries %q, want %q", names, m.Program.Note.Libraries)
				}
				if want := map[bool]app.Coverage{false: app.CoveragePages, true: app.CoverageMemory}[o.ReadMemory]; m.Coverage != want {
					t.Errorf("coverage %s, want %s", m.Coverage, want)
				}
				p.does(t, "say")
				if err := m.Again(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// poke writes a byte of a process's memory as a debugger or root would.
func poke(t *testing.T, pid int, address int64) {
	t.Helper()
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	b := make([]byte, 1)
	if _, err := mem.ReadAt(b, address); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := mem.WriteAt(b, address); err != nil {
		t.Fatal(err)
	}
}

// mapping returns where a process has a file mapped with permissions.
func mapping(t *testing.T, pid int, permissions, name string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var start int64
		if f := strings.Fields(line); len(f) >= 6 && f[1] == permissions && strings.Contains(f[5], name) {
			if _, err := fmt.Sscanf(f[0], "%x-", &start); err != nil {
				t.Fatal(err)
			}
			return start
		}
	}
	t.Fatalf("no mapping %s of %s in\n%s", permissions, name, b)
	return 0
}

// TestPoke changes one byte of read-only memory: of code, of constants, of the C
// library's code and of the kernel's own page of it; before the measurement and after.
func TestPoke(t *testing.T) {
	if scope, err := process.PtraceScope(); err != nil || scope == 3 {
		t.Skip("the kernel keeps everybody from writing to another's memory: ptrace_scope is 3")
	}
	a := specimen.NewAuthority(t)
	path := a.Sign(t, specimen.Build(t, specimen.C), "player")
	for name, at := range map[string][2]string{"code": {"r-xp", "player"}, "constants": {"r--p", "player"}, "libc": {"r-xp", "libc.so"}, "vdso": {"r-xp", "[vdso]"}} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, o process.Options) {
				p := start(t, path)
				m, err := p.Measure(ctx, o)
				if err != nil {
					t.Fatal(err)
				}
				poke(t, p.PID(), mapping(t, p.PID(), at[0], at[1])+64)
				wantReason(t, "poked since", m.Again(), keystead.ReasonTextAltered)
				_, err = p.Measure(ctx, o)
				wantReason(t, "poked before", err, keystead.ReasonTextAltered)
			})
		})
	}
}

// TestForeignMappings brings code into a program in each way that needs no debugger.
func TestForeignMappings(t *testing.T) {
	a := specimen.NewAuthority(t)
	path := a.Sign(t, specimen.Build(t, specimen.CPIE), "player")
	library := specimen.Build(t, specimen.Library)
	o := process.Options{}

	preload := start(t, path, func(c *exec.Cmd) { c.Env = append(os.Environ(), "LD_PRELOAD="+library) })
	_, err := preload.Measure(ctx, o)
	wantReason(t, "LD_PRELOAD", err, keystead.ReasonMappingForeign)
	audit := start(t, path, func(c *exec.Cmd) { c.Env = append(os.Environ(), "LD_PRELOAD=libm.so.6") })
	_, err = audit.Measure(ctx, o)
	wantReason(t, "LD_PRELOAD of a library of the distribution", err, keystead.ReasonMappingForeign)

	for name, what := range map[string]string{"anonymous memory": "anon", "a file": "map " + library, "its own file's data": "map " + path} {
		p := start(t, path)
		m, err := p.Measure(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		p.does(t, what)
		_, err = p.Measure(ctx, o)
		wantReason(t, name, err, keystead.ReasonMappingForeign)
		var deny *keystead.DenyError
		if err := m.Again(); !errors.As(err, &deny) {
			t.Errorf("%s, since it was measured: %v", name, err)
		}
	}
	over := start(t, path)
	over.does(t, "over "+library)
	_, err = over.Measure(ctx, o)
	wantReason(t, "a file over its own constants", err, keystead.ReasonTextAltered)

	named := a.Sign(t, specimen.Build(t, specimen.CPIE), "player", "libm.so.6")
	p := start(t, named, func(c *exec.Cmd) { c.Env = append(os.Environ(), "LD_PRELOAD=libm.so.6") })
	if _, err := p.Measure(ctx, o); err != nil {
		t.Errorf("a library that the program names: %v", err)
	}
}

// TestFiles does to files what changes the program that runs.
func TestFiles(t *testing.T) {
	a := specimen.NewAuthority(t)
	o := process.Options{}
	signed := func() string { return a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player") }

	replaced := start(t, signed())
	path := replaced.cmd.Path
	if err := os.Rename(signed(), path); err != nil {
		t.Fatal(err)
	}
	_, err := replaced.Measure(ctx, o)
	wantReason(t, "replaced on disk", err, keystead.ReasonExecutableMoved)

	deleted := start(t, signed())
	if err := os.Remove(deleted.cmd.Path); err != nil {
		t.Fatal(err)
	}
	_, err = deleted.Measure(ctx, o)
	wantReason(t, "deleted", err, keystead.ReasonExecutableMoved)

	owned := start(t, signed())
	if err := os.Chown(owned.cmd.Path, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	_, err = owned.Measure(ctx, o)
	wantReason(t, "of another owner", err, keystead.ReasonBinaryUnsuitable)

	open := start(t, signed())
	m, err := open.Measure(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open.cmd.Path, 0o777); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "anybody may write it", m.Again(), keystead.ReasonBinaryUnsuitable)

	unsigned := start(t, specimen.Build(t, specimen.MuslStatic))
	_, err = unsigned.Measure(ctx, o)
	wantReason(t, "unsigned", err, keystead.ReasonAppUnsigned)

	altered := signed()
	b, err := os.ReadFile(altered)
	if err != nil {
		t.Fatal(err)
	}
	b[strings.Index(string(b), "what stands in read-only data")] ^= 1
	if err := os.WriteFile(altered, b, 0o755); err != nil {
		t.Fatal(err)
	}
	patched := start(t, altered)
	if m, err = patched.Measure(ctx, o); err != nil {
		t.Fatal(err)
	}
	_, err = m.Program.Verify(m.Measured, a.Roots(t, level.Peer), nobody, a.Now)
	wantReason(t, "patched before it was started", err, keystead.ReasonAppAltered)
}

// TestLibraryRewritten writes to a library after its hash was taken.
func TestLibraryRewritten(t *testing.T) {
	a := specimen.NewAuthority(t)
	library := specimen.Build(t, specimen.Library)
	unsigned := specimen.Build(t, specimen.CPIE)
	f, err := os.ReadFile(unsigned)
	if err != nil {
		t.Fatal(err)
	}
	path := unsigned + ".2"
	if err := os.WriteFile(path, f, 0o755); err != nil {
		t.Fatal(err)
	}
	named := a.Sign(t, path, "player", "libspecimen.so")
	p := start(t, named, func(c *exec.Cmd) { c.Env = append(os.Environ(), "LD_PRELOAD="+library) })
	m, err := p.Measure(ctx, process.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(library, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	st, err := w.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte{0xc3}, st.Size()-1); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "a library rewritten after its hash", m.Again(), keystead.ReasonProcessChanged)
}

// TestStalledFiles mounts a file system whose server never answers (FUSE) over the
// directory of a program that runs: nobody waits for it.
func TestStalledFiles(t *testing.T) {
	a := specimen.NewAuthority(t)
	p := start(t, a.Sign(t, specimen.Build(t, specimen.MuslStatic), "player"))
	m, err := p.Measure(ctx, process.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stall(t, filepath.Dir(p.cmd.Path))
	done := make(chan [2]error, 1)
	go func() {
		_, err := p.Measure(ctx, process.Options{})
		done <- [2]error{err, m.Again()}
	}()
	select {
	case got := <-done:
		wantReason(t, "a stalled file system over the program", got[0], keystead.ReasonExecutableMoved)
		wantReason(t, "the same, since it was measured", got[1], keystead.ReasonExecutableMoved)
	case <-time.After(10 * time.Second):
		t.Error("the measurement waits for the file system")
	}
}

// stall mounts a FUSE file system that nobody serves.
func stall(t *testing.T, dir string) {
	t.Helper()
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("stalled", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.Fd())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fuse.Close() // ends what waits
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
)

// Options say how a process is measured.
type Options struct {
	// ReadMemory has the memory itself read, beside the pages that it consists of. The
	// kernel refuses that where ptrace_scope is 3 (see PtraceScope).
	ReadMemory bool
	// Sealed is the copy that the process was launched from, if it was: its executable
	// must be that file, or it is launch-unsealed, and filters are the launcher's.
	Sealed *os.File
}

// A Measurement is what a process was found to run at one moment. Who it is, the roots
// of a domain say (app.Program.Verify).
type Measurement struct {
	Program  *app.Program
	Measured app.Measured
	Mappings []app.Mapping // ascending: libraries and the loader
	Coverage app.Coverage
	UID      uint32 // effective
	Path     string // of the executable; empty for a sealed copy

	process *Process
	options Options
	seen    layout
}

// PtraceScope returns the kernel's setting of that name: 0 where it has none.
func PtraceScope() (int, error) {
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// Measure measures the process. It refuses with process-gone, process-traced,
// process-filtered, process-changed, executable-moved, launch-unsealed, binary-unsuitable,
// app-unsigned, app-altered, text-altered or mapping-foreign. Ctx ends it between two
// reads.
func (p *Process) Measure(ctx context.Context, o Options) (*Measurement, error) {
	m := &Measurement{process: p, options: o, Coverage: app.CoveragePages}
	var err error
	if m.UID, err = p.threads(o.Sealed != nil); err != nil {
		return nil, err
	}
	exe, err := m.executable()
	if err != nil {
		return nil, err
	}
	file, err := p.openSeen("exe", exe)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if m.Program, err = app.Parse(untilDone{ctx, file}, int64(exe.size)); err != nil {
		return nil, err
	}
	if m.seen, err = m.look(exe); err != nil {
		return nil, err
	}
	if err := m.pages(); err != nil {
		return nil, err
	}
	if m.Measured.Text, err = m.text(ctx); err != nil {
		return nil, err
	}
	if m.Measured.File, err = m.Program.FileDigest(); err != nil {
		return nil, err
	}
	if err := m.libraries(ctx); err != nil {
		return nil, err
	}
	return m, m.Again()
}

// Again says that what was measured still holds: the same program, files, mappings and
// pages, no tracer and no filter. It is asked before an answer goes out. It does not read
// the memory again: pages that are still those of a file that nobody wrote to are what
// was read.
func (m *Measurement) Again() error {
	uid, err := m.process.threads(m.options.Sealed != nil)
	if err != nil {
		return err
	}
	exe, err := m.executable()
	if err != nil {
		return err
	}
	if uid != m.UID || exe != m.seen.exe {
		return m.process.deny(keystead.ReasonProcessChanged, "what it ran when it was measured", "another program or user since, or a file that was written to")
	}
	now, err := m.look(exe)
	if err != nil {
		return err
	}
	if !now.equal(m.seen) {
		return m.process.deny(keystead.ReasonProcessChanged, "the mappings and libraries of when it was measured", "others")
	}
	if err := m.pages(); err != nil {
		return err
	}
	return m.process.Alive()
}

// executable says which file the process runs, and that it may be measured.
func (m *Measurement) executable() (stamp, error) {
	p := m.process
	exe, st, err := p.look("exe")
	if err != nil {
		return stamp{}, err
	}
	if m.options.Sealed != nil {
		sealed, _, err := stampOf(m.options.Sealed)
		if err == nil && (sealed.device != exe.device || sealed.inode != exe.inode) {
			err = p.deny(keystead.ReasonLaunchUnsealed, "the sealed copy that was launched", "another file")
		}
		return exe, errors.Join(err, p.sealed(m.options.Sealed))
	}
	if err := p.trusted("an executable", st); err != nil {
		return stamp{}, err
	}
	m.Path, err = p.path(exe)
	return exe, err
}

// sealed refuses a copy that can still be written to.
func (p *Process) sealed(f *os.File) error {
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	var seals int
	err := control(f, func(fd int) (err error) { seals, err = unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); return err })
	if errors.Is(err, unix.EINVAL) { // such a file has none
		seals, err = 0, nil
	}
	if err == nil && seals&all != all {
		err = p.deny(keystead.ReasonLaunchUnsealed, "a copy that nobody can write to", fmt.Sprintf("one with seals %#x", seals))
	}
	return err
}

// path returns the executable's path as the kernel states it, if it leads to the file
// that runs.
func (p *Process) path(exe stamp) (string, error) {
	buf := make([]byte, unix.PathMax)
	var n int
	err := control(p.proc, func(dir int) (err error) { n, err = unix.Readlinkat(dir, "exe", buf); return err })
	if err != nil {
		return "", p.explain("exe", err)
	}
	name := string(buf[:n])
	at, err := stampOfCached(name, unix.RESOLVE_NO_SYMLINKS)
	if err == nil && at == exe {
		return name, nil
	}
	got := "another file"
	if err != nil {
		got = err.Error()
	}
	return "", p.deny(keystead.ReasonExecutableMoved, fmt.Sprintf("at %.256q the file that the process runs", name), got)
}

const resolveCached = 0x20 // RESOLVE_CACHED of linux/openat2.h (5.12)

// stampOfCached looks a path up in the kernel's cache alone (openat2(2)). A file that runs is in it, as
// are the directories above it; whatever lies over them now may be a file system of the
// process's own, and is not asked.
func stampOfCached(name string, resolve uint64) (stamp, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolveCached | resolve}
	for tries := 1; ; tries++ {
		fd, err := unix.Openat2(unix.AT_FDCWD, name, how)
		if errors.Is(err, unix.EAGAIN) && tries < 100 { // somebody renamed something meanwhile
			continue
		}
		if err != nil {
			return stamp{}, err
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		s, _, err := stampOf(f)
		return s, err
	}
}

// libraries measures the files of the other code in the process, each once.
func (m *Measurement) libraries(ctx context.Context) error {
	known := map[stamp]library{}
	for _, c := range m.seen.libraries {
		l, ok := known[c.file]
		if !ok {
			var err error
			if l, err = m.library(ctx, c); err != nil {
				return err
			}
			known[c.file] = l
			m.Mappings = append(m.Mappings, l.mapping)
		}
		if err := m.holds(l, c.vma); err != nil {
			return err
		}
	}
	slices.SortFunc(m.Mappings, func(a, b app.Mapping) int {
		return strings.Compare(a.Name+a.File.String(), b.Name+b.File.String())
	})
	m.Mappings = slices.Compact(m.Mappings)
	return nil
}

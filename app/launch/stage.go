package launch

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead/internal/confine"
)

// Stage is what a binary that Start runs does first in its main: nothing, unless Start
// ran it. Then it gives up what the program is not to have, runs it, and does not return.
func Stage() {
	if len(os.Args) != 1 || os.Args[0] != stageArgument {
		return
	}
	runtime.LockOSThread() // a filter is a thread's, and exec keeps the thread that calls it
	err := stage()
	fmt.Fprint(os.NewFile(stageWord, "word"), err)
	os.Exit(1)
}

// stage returns only if it fails.
func stage() error {
	in := os.NewFile(stageSetting, "setting")
	b, err := io.ReadAll(io.LimitReader(in, maxSetting))
	if err != nil {
		return err
	}
	in.Close()
	var s Setting
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(append([]string{"application"}, s.Args...))
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(s.Env)
	if err != nil {
		return err
	}
	program, err := descriptors()
	if err != nil {
		return err
	}
	unix.Umask(0o077)
	for _, step := range []func() error{
		confine.NoCore,
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setresgid(int(s.GID), int(s.GID), int(s.GID)) },
		func() error { return syscall.Setresuid(int(s.UID), int(s.UID), int(s.UID)) },
		func() error { return confine.Files(s.Read, s.Write) },
		confine.Filter,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	empty := []byte{0}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(program), uintptr(unsafe.Pointer(&empty[0])), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("execveat: %w", errno)
}

// descriptors leaves the program its socket as descriptor 3, and nothing else of ours.
func descriptors() (program int, err error) {
	if program, err = unix.FcntlInt(stageProgram, unix.F_DUPFD_CLOEXEC, stageWord+1); err != nil {
		return 0, err
	}
	if err := unix.Dup3(stageSocket, stageProgram, 0); err != nil {
		return 0, err
	}
	// What the agent itself inherited, and passed on unknowingly, ends here as well.
	return program, unix.CloseRange(stageSocket, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// Package confine has a process of this machine give up what it does not need: what it
// may ask of the kernel, which files it sees, and a dump of its memory. None of it can be taken
// back. It trusts the kernel.
package confine

import (
	"fmt"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// refused are system calls that no application needs, and by which one gets at others, at
// the kernel, or out of what it is confined to. They give EPERM.
var refused = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "userfaultfd", "perf_event_open", "bpf",
	"mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "open_by_handle_at", "move_mount", "open_tree", "fsopen", "mount_setattr",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct",
	"keyctl", "add_key", "request_key", "io_uring_setup", "personality", "seccomp",
}

// Filter refuses system calls to this thread, and to what it runs or starts from here on.
// Whoever runs a program under it does so at once, from this thread.
func Filter() error {
	err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Policy: seccomp.Policy{DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{{Action: seccomp.ActionErrno, Names: refused}}}})
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// Files leaves this process, and what it runs, the directories that it may read or write,
// and no other file (landlock, Linux 5.13 and later).
func Files(read, write []string) error {
	if err := landlock.V3.RestrictPaths(landlock.RODirs(read...), landlock.RWDirs(write...)); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}

// NoCore has no core dump made of this process, and of what it runs.
func NoCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit of core dumps: %w", err)
	}
	return nil
}

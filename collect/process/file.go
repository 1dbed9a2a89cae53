package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
)

// A stamp says which file it is, unchanged since when. Two that are equal are the same
// file, which nobody wrote to in between.
type stamp struct {
	device, inode uint64
	size          uint64
	mtime, ctime  unix.StatxTimestamp
}

// local are the file systems whose files change by this machine's kernel alone.
var local = map[string]bool{"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "f2fs": true, "tmpfs": true, "ramfs": true, "rootfs": true, "overlay": true, "squashfs": true, "erofs": true}

// look says which file a name under /proc/PID leads to, without a question to the file
// system, which may be the process's own and never answer.
func (p *Process) look(name string) (stamp, unix.Statx_t, error) {
	var st unix.Statx_t
	f, err := p.file(name, unix.O_PATH)
	if err != nil {
		return stamp{}, st, err
	}
	defer f.Close()
	s, st, err := stampOf(f)
	if err != nil {
		return stamp{}, st, p.explain(name, err)
	}
	return s, st, nil
}

func stampOf(f *os.File) (stamp, unix.Statx_t, error) {
	var st unix.Statx_t
	err := control(f, func(fd int) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
	})
	return stamp{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, st.Size, st.Mtime, st.Ctime}, st, err
}

// trusted refuses a file that others than root may write, or whose file system is not
// this machine's own (binary-unsuitable).
func (p *Process) trusted(what string, st unix.Statx_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 || st.Mode&0o022 != 0 {
		return p.deny(keystead.ReasonBinaryUnsuitable, what+" that root alone may write", fmt.Sprintf("one of user %d with mode %#o", st.Uid, st.Mode))
	}
	kind, err := mounted(st.Mnt_id)
	if err == nil && !local[kind] {
		return p.deny(keystead.ReasonBinaryUnsuitable, what+" on a local file system", "one on "+kind)
	}
	return err
}

// mounted returns the type of the file system of a mount (proc_pid_mountinfo(5)).
func mounted(id uint64) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	want := strconv.FormatUint(id, 10)
	for in.Scan() {
		if number, rest, _ := strings.Cut(in.Text(), " "); number == want {
			if _, tail, ok := strings.Cut(rest, " - "); ok {
				kind, _, _ := strings.Cut(tail, " ")
				return kind, nil
			}
		}
	}
	return "a mount that the agent does not see", in.Err()
}

// openSeen opens a file under /proc/PID that look saw, if it is still that one.
func (p *Process) openSeen(name string, seen stamp) (*os.File, error) {
	f, err := p.file(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	now, _, err := stampOf(f)
	if err == nil && now != seen {
		err = p.deny(keystead.ReasonProcessChanged, "the file that was looked at", "another, or one that was written to")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// untilDone reads until its context ends.
type untilDone struct {
	ctx context.Context
	r   io.ReaderAt
}

func (u untilDone) ReadAt(b []byte, offset int64) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.ReadAt(b, offset)
}

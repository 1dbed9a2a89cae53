package collect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
)

// maxExecutable bounds an executable that is measured, in bytes.
const maxExecutable = 1 << 30

// digest reads the whole file from its start.
func digest(ctx context.Context, f *os.File) (d keystead.Digest, err error) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(untilDone{ctx, f}, maxExecutable+1))
	if err == nil && n > maxExecutable {
		err = fmt.Errorf("is longer than the %d bytes that are measured", maxExecutable)
	}
	h.Sum(d[:0])
	return d, err
}

// untilDone reads until its context ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// open opens a file of the process's directory in /proc.
func (p *Peer) open(name string) (*os.File, error) {
	var fd int
	err := control(p.proc, func(dir int) (err error) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, p.explain(name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// maxStatus bounds a file of /proc that is read, in bytes.
const maxStatus = 64 << 10

func (p *Peer) read(name string) (string, error) {
	f, err := p.open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStatus))
	if err != nil {
		return "", p.explain(name, err)
	}
	return string(b), nil
}

// explain says what it means that a file of /proc/PID could not be read.
func (p *Peer) explain(name string, err error) error {
	if gone := p.Alive(); gone != nil {
		return gone
	}
	if errors.Is(err, fs.ErrPermission) {
		return &Error{Found: fmt.Sprintf("%s: /proc/PID/%s may not be read", p.where(), name), Err: err,
			Hint: "run the agent as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"}
	}
	return fmt.Errorf("%s: /proc/PID/%s: %w", p.where(), name, err)
}

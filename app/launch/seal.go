package launch

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead/app"
)

const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// Seal copies a program into memory, at most app.MaxProgram bytes, and seals the copy: from
// then on nobody can write to it, root included. Who runs it may not read it, so that the
// kernel keeps others of the same user from its memory. The caller closes the file.
func Seal(program io.Reader) (*os.File, error) {
	fd, err := unix.MemfdCreate("keystead-application", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "sealed copy")
	n, err := io.Copy(f, io.LimitReader(program, app.MaxProgram+1))
	switch {
	case err != nil:
	case n > app.MaxProgram:
		err = errors.New("the program is longer than 1 GiB")
	default:
		if err = unix.Fchmod(fd, 0o111); err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("seal a copy: %w", err), f.Close())
	}
	return f, nil
}

package process

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead/collect"
)

// pmScan is struct pm_scan_arg of linux/fs.h, and what goes with it.
type pmScan struct {
	size, flags, start, end, walkEnd uint64
	vec, vecLen, maxPages            uint64
	inverted, mask, anyOf, returned  uint64
}

const (
	pagemapScan = 3<<30 | uint(unsafe.Sizeof(pmScan{}))<<16 | 'f'<<8 | 16 // PAGEMAP_SCAN

	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
)

type pageRegion struct{ start, end, categories uint64 }

// changed returns the address of a page of a range that is not the page of a file: it was
// written to, and so copied, or is of no file. A page that was swapped out counts as
// such, for only copies are. Pages that are not in memory are the file's.
func changed(pagemap *os.File, start, end uint64) (address uint64, found bool, err error) {
	var region pageRegion
	arg := pmScan{size: uint64(unsafe.Sizeof(pmScan{})), start: start, end: end, vec: uint64(uintptr(unsafe.Pointer(&region))), vecLen: 1, maxPages: 1,
		inverted: pageIsFile, mask: pageIsFile, anyOf: pageIsPresent | pageIsSwapped, returned: pageIsPresent | pageIsSwapped}
	var n uintptr
	err = control(pagemap, func(fd int) error {
		var errno unix.Errno
		n, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(pagemapScan), uintptr(unsafe.Pointer(&arg)))
		if errno != 0 {
			return errno
		}
		return nil
	})
	if errors.Is(err, unix.ENOTTY) {
		return 0, false, &collect.Error{Found: "this kernel does not tell which pages of a process were changed (PAGEMAP_SCAN)", Hint: "Linux 6.7 and later do", Err: err}
	}
	if err == nil && n == 0 && arg.walkEnd != end {
		err = errors.New("PAGEMAP_SCAN ended early")
	}
	return region.start, n > 0, err
}

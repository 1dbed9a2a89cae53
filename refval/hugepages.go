package refval

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// hugePages asks the kernel to hold the text in huge pages (MADV_COLLAPSE, Linux 6.1): a
// lookup goes to any of its pages, and of small ones a large set has more than the processor
// keeps translations of. It is as good without.
func hugePages(text string) {
	at := uintptr(unsafe.Pointer(unsafe.StringData(text)))
	skip := -at & (hugePage - 1)
	if uintptr(len(text)) < skip+hugePage {
		return
	}
	whole := text[skip : skip+(uintptr(len(text))-skip)&^(hugePage-1)]
	_ = unix.Madvise(unsafe.Slice(unsafe.StringData(whole), len(whole)), unix.MADV_COLLAPSE)
}

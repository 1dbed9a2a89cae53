package testbed

import (
	"fmt"
	"os"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/authenticode"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// CodeSet returns a code set that accepts this guest's boot, computed from the files
// that it boots from, and more programs, files of this machine by the guest's paths. Kernel and boot loader are named by their Authenticode
// digests, as firmware measures them.
func (b *Bed) CodeSet(programs map[string]string) (*refval.CodeSet, error) {
	kernel, err := efiProgram(b.Kernel)
	if err != nil {
		return nil, err
	}
	loader, err := efiProgram(b.Loader)
	if err != nil {
		return nil, err
	}
	initrd, err := os.ReadFile(b.Initrd)
	if err != nil {
		return nil, err
	}
	status, err := os.ReadFile(b.Status)
	if err != nil {
		return nil, err
	}
	packages, err := deb.ParseStatus(status)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(packages, func(n deb.Name) bool { return n.Package == loaderPackage })
	if i < 0 {
		return nil, fmt.Errorf("%s does not list %s", b.Status, loaderPackage)
	}
	code := []refval.Code{{Digest: loader, Path: "/EFI/BOOT/BOOTX64.EFI", Version: packages[i].Version}}
	for at, file := range programs {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		code = append(code, refval.Code{Digest: keystead.Sum(content), Path: at, Version: "built"})
	}
	return refval.NewCodeSet("testbed", code,
		[]refval.Boot{{
			Name:        "guest",
			Kernel:      kernel,
			Initrd:      keystead.Sum(initrd),
			CommandLine: CommandLine,
			Guarantees:  []refval.Guarantee{refval.GuaranteeIMAPolicy, refval.GuaranteePtraceScope3},
		}})
}

func efiProgram(path string) (d keystead.Digest, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return d, err
	}
	if d, err = authenticode.Digest(content); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return d, err
}

package appraise

import (
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/refval"
)

// kernel looks for one code set entry that has the kernel, the initrd and the
// command line that the log measured. Only what an entry names is claimed: the
// log's own descriptions are not covered by any digest.
func (a *appraisal) kernel() {
	if a.parts.TPM == nil {
		a.launched()
		return
	}
	if a.files == nil { // nothing shows that PCR 7 stayed as it was when the kernel started
		a.claims.Boot.Authorities, a.claims.Boot.SBAT = nil, 0
	}
	a.claims.Boot.Packages = a.bootPackages()
	measured, err := a.measured, a.measuredErr
	strange := append(a.strangeImages(), a.strangeReads(measured)...)
	if err == nil && a.files != nil && strange == nil { // without a checked boot_aggregate the registers may have been extended later
		if b, ok := a.acceptedBoot(measured); ok {
			a.accept(b, measured)
			return
		}
	}
	switch {
	case !a.in.Policy.BootAccepted():
	case err != nil:
		a.fail("event-log", err)
	case a.files == nil:
		a.missing("ima-log", "the kernel's IMA log, whose first entry shows that the boot registers stayed as they were")
	default:
		a.find(a.overdue(a.unaccepted(measured, strange), func(b *appraisal) bool {
			_, ok := b.acceptedBoot(measured)
			return ok && b.strangeImages() == nil && b.strangeReads(measured) == nil
		}))
	}
}

// acceptedBoot returns the first entry of a code set that is what was measured, each
// part in its role, with the command line as this kernel has it.
func (a *appraisal) acceptedBoot(k eventlog.Kernel) (refval.Boot, bool) {
	for _, set := range a.in.CodeSets {
		for b := range set.Boots() {
			if !a.initrdOf(b, k) {
				continue
			}
			if b.KernelPackage == "" {
				if b.HasKernel(k.Image) && k.Given(b.CommandLine) {
					return b, true
				}
				continue
			}
			line := ""
			if a.shipped(k.Image, true, func(s refval.Source) bool {
				line = b.Line(s.Path)
				return b.ShipsKernel(s) && k.Given(line)
			}) {
				b.CommandLine = line
				return b, true
			}
		}
	}
	return refval.Boot{}, false
}

// initrdOf reports whether the entry has what was measured as the initrd.
func (a *appraisal) initrdOf(b refval.Boot, k eventlog.Kernel) bool {
	if b.InitrdPackage != "" {
		return a.shipped(k.Initrd, false, b.ShipsInitrd)
	}
	return b.HasInitrd(k.Initrd)
}

// shipped reports whether a set names what was measured as a file that fits: one of those
// of EFI programs if it was loaded, else one of files, of which those for the boot have the
// digests of SHA-384.
func (a *appraisal) shipped(m keystead.Measured, loaded bool, fits func(refval.Source) bool) bool {
	if m.IsZero() {
		return false
	}
	for _, s := range a.in.References {
		if s.Header().Selection.Boots() != (loaded || m.Long()) {
			continue
		}
		for source := range s.Sources(m.Name()) {
			if fits(source) {
				return true
			}
		}
	}
	return false
}

// loads reports whether a code set lets the package's programs run before the kernel.
func (a *appraisal) loads(s refval.Source) bool {
	return slices.ContainsFunc(a.in.CodeSets, func(c *refval.CodeSet) bool { return c.Loads(s) })
}

// bootPackages lists the packages whose EFI programs ran: name=version, sorted.
func (a *appraisal) bootPackages() (out []string) {
	for _, image := range a.claims.Boot.Loaded {
		m, err := keystead.ParseMeasured(image)
		if err != nil {
			continue
		}
		a.shipped(m, true, func(s refval.Source) bool {
			out = append(out, s.Package+"="+s.Version)
			return false
		})
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// strangeImages returns the images that neither a code set nor a package names among those that ran
// before the kernel: shim, GRUB, and the drivers in PCR 2, which a variable of the
// firmware loads from any disk. Each of them could have changed the kernel.
func (a *appraisal) strangeImages() (out []string) {
	images := a.claims.Boot.Loaded // PCR 2 and then PCR 4, whose last is the kernel
	for _, image := range images[:max(0, len(images)-1)] {
		m, err := keystead.ParseMeasured(image)
		if err != nil || !a.coded(m) && !a.shipped(m, true, a.loads) {
			out = append(out, image)
		}
	}
	return out
}

// strangeReads returns the files that a boot loader read and no code set accepts.
// Without Secure Boot such a file may be a module or a kernel that the loader runs
// although it is no image of PCR 4 (GRUB does), after measuring an accepted kernel
// there that never starts. With it, GRUB runs only what shim verified and measured.
func (a *appraisal) strangeReads(k eventlog.Kernel) (out []string) {
	if a.claims.Boot.SecureBoot {
		return nil
	}
	for _, m := range k.Before {
		if !a.coded(m) {
			out = append(out, m.String())
		}
	}
	return out
}

// coded reports whether a code set names the content as a file.
func (a *appraisal) coded(m keystead.Measured) bool {
	return slices.ContainsFunc(a.in.CodeSets, func(c *refval.CodeSet) bool { return c.Knows(m) })
}

func (a *appraisal) accept(b refval.Boot, k eventlog.Kernel) {
	c := &a.claims.Kernel
	c.Accepted, c.CommandLine, c.Lockdown = true, b.CommandLine, lockdown(b.CommandLine)
	if !k.Initrd.IsZero() {
		c.Initrd = k.Initrd.String()
	}
	c.Guarantees = words(b.Guarantees)
}

func (a *appraisal) acceptedBoots() string {
	var names []string
	for _, set := range a.in.CodeSets {
		for b := range set.Boots() {
			names = append(names, set.Name()+"/"+b.Name)
		}
	}
	if len(names) == 0 {
		return "a boot entry of a code set, of which none was given"
	}
	return "boot entry " + strings.Join(names, " or ")
}

// lockdown reads the last lockdown= of a command line's part for the kernel. Quotes
// may hide it from the kernel, so a line with quotes has none.
func lockdown(cmdline string) string {
	level := "none"
	if strings.Contains(cmdline, `"`) {
		return level
	}
	for _, arg := range strings.Fields(cmdline) {
		if arg == "--" {
			break // what follows is for init
		}
		if v, ok := strings.CutPrefix(arg, "lockdown="); ok {
			level = v
		}
	}
	return level
}

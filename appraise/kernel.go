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
		a.launch()
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
		a.find(a.unaccepted(measured, strange))
	}
}

// acceptedBoot returns the first entry of a code set that is what was measured, each
// part in its role, with the command line as this kernel has it.
func (a *appraisal) acceptedBoot(k eventlog.Kernel) (refval.Boot, bool) {
	for _, set := range a.in.CodeSets {
		for b := range set.Boots() {
			if b.InitrdPackage != "" && !a.shipped(k.Initrd, refval.SelectAll, b.ShipsInitrd) || b.InitrdPackage == "" && b.Initrd != k.Initrd {
				continue
			}
			if b.KernelPackage == "" {
				if b.Kernel == k.Image && commands(b.CommandLine, k) {
					return b, true
				}
				continue
			}
			line := ""
			if a.shipped(k.Image, refval.SelectEFI, func(s refval.Source) bool {
				line = b.Line(s.Path)
				return b.ShipsKernel(s) && commands(line, k)
			}) {
				b.CommandLine = line
				return b, true
			}
		}
	}
	return refval.Boot{}, false
}

// shipped reports whether a set of that kind names the content as a file that fits.
func (a *appraisal) shipped(d keystead.Digest, kind refval.Selection, fits func(refval.Source) bool) bool {
	for _, s := range a.in.References {
		if (s.Header().Selection == refval.SelectEFI) != (kind == refval.SelectEFI) {
			continue
		}
		for source := range s.Sources(d) {
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
		d, err := keystead.ParseDigest(image)
		if err != nil {
			continue
		}
		a.shipped(d, refval.SelectEFI, func(s refval.Source) bool {
			out = append(out, s.Package+"="+s.Version)
			return false
		})
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// commands reports whether a command line is what was measured.
func commands(line string, k eventlog.Kernel) bool {
	terminated, bare := eventlog.LoadOptions(line)
	return k.CommandLine == terminated || k.CommandLine == bare
}

// strangeImages returns the images that neither a code set nor a package names among those that ran
// before the kernel: shim, GRUB, and the drivers in PCR 2, which a variable of the
// firmware loads from any disk. Each of them could have changed the kernel.
func (a *appraisal) strangeImages() (out []string) {
	images := a.claims.Boot.Loaded // PCR 2 and then PCR 4, whose last is the kernel
	for _, image := range images[:max(0, len(images)-1)] {
		d, err := keystead.ParseDigest(image)
		if err != nil || !a.coded(d) && !a.shipped(d, refval.SelectEFI, a.loads) {
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
	for _, d := range k.Before {
		if !a.coded(d) {
			out = append(out, d.String())
		}
	}
	return out
}

// coded reports whether a code set names the content as a file.
func (a *appraisal) coded(d keystead.Digest) bool {
	return slices.ContainsFunc(a.in.CodeSets, func(c *refval.CodeSet) bool { _, ok := c.Lookup(d); return ok })
}

func (a *appraisal) accept(b refval.Boot, k eventlog.Kernel) {
	c := &a.claims.Kernel
	c.Accepted, c.CommandLine, c.Lockdown = true, b.CommandLine, lockdown(b.CommandLine)
	if !k.Initrd.IsZero() {
		c.Initrd = k.Initrd.String()
	}
	for _, g := range b.Guarantees {
		c.Guarantees = append(c.Guarantees, string(g))
	}
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

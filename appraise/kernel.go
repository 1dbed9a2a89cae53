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
		refused := a.overdue(a.unaccepted(measured, strange), func(b *appraisal) bool {
			_, ok := b.acceptedBoot(measured)
			return ok && b.strangeImages() == nil && b.strangeReads(measured) == nil
		})
		a.find(append([]keystead.Finding{refused}, a.faults()...)...)
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

// shipped reports whether a package that counts names what was measured as a file that fits.
// What fits of packages below a floor, or of no accepted vendor, is kept for a refusal.
func (a *appraisal) shipped(m keystead.Measured, loaded bool, fits func(refval.Source) bool) bool {
	var faulty []faultyBoot
	good := a.offered(m, loaded, func(s *refval.Set, source refval.Source) bool {
		if !fits(source) {
			return false
		}
		h := s.Header()
		p := &h.Packages[source.Number]
		f := a.references().faultOf(p, h.Repositories)
		if f != faultNone {
			faulty = append(faulty, faultyBoot{m, p, f})
		}
		return f == faultNone
	})
	if !good {
		a.faulty = append(a.faulty, faulty...)
	}
	return good
}

// offered calls fits with each file of the sets that has what was measured, until one does:
// of the sets of EFI programs if it was loaded, else of those of files, of which those for
// the boot have the digests of SHA-384.
func (a *appraisal) offered(m keystead.Measured, loaded bool, fits func(*refval.Set, refval.Source) bool) bool {
	if m.IsZero() {
		return false
	}
	for _, s := range a.in.References {
		if s.Header().Selection.Boots() != (loaded || m.Long()) {
			continue
		}
		for source := range s.Sources(m.Name()) {
			if fits(s, source) {
				return true
			}
		}
	}
	return false
}

// faultyBoot is what was measured of a package that does not count.
type faultyBoot struct {
	measured keystead.Measured
	pkg      *refval.Package
	fault    fault
}

// faults are the findings on packages that would have been accepted for the boot, each once.
func (a *appraisal) faults() (out []keystead.Finding) {
	for _, b := range a.faulty {
		f := keystead.Finding{Reason: keystead.ReasonPackageOutdated, Where: "boot", Want: b.pkg.Name + " " + a.references().floors.below(b.pkg) + " or later",
			Got: b.measured.String() + " of package " + b.pkg.Name + " " + b.pkg.Version}
		if b.fault == faultForeign {
			f.Reason, f.Want = keystead.ReasonPackageForeign, "a package of a vendor whom a code set accepts for "+b.pkg.Name
		}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// loads reports whether a code set lets the package's programs run before the kernel.
func (a *appraisal) loads(s refval.Source) bool {
	return slices.ContainsFunc(a.in.CodeSets, func(c *refval.CodeSet) bool { return c.Loads(s) })
}

// bootPackages lists the packages whose EFI programs ran: name=version, sorted. What ran of
// none but packages below a floor is claimed to be outdated.
func (a *appraisal) bootPackages() (out []string) {
	for _, image := range a.claims.Boot.Loaded {
		m, err := keystead.ParseMeasured(image)
		if err != nil {
			continue
		}
		var below []string
		current := false
		a.offered(m, true, func(set *refval.Set, s refval.Source) bool {
			name := s.Package + "=" + s.Version
			out = append(out, name)
			if h := set.Header(); a.references().faultOf(&h.Packages[s.Number], h.Repositories) == faultOutdated {
				below = append(below, name)
			} else {
				current = true
			}
			return false
		})
		if !current {
			a.claims.Packages.Outdated = append(a.claims.Packages.Outdated, below...)
		}
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

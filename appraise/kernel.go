package appraise

import (
	"fmt"
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
	if a.boot == nil {
		a.launch()
		return
	}
	measured, err := a.boot.Kernel()
	strange := append(a.strangeImages(), a.strangeReads(measured)...)
	if err == nil && a.files != nil && strange == nil { // without a checked boot_aggregate the registers may have been extended later
		for _, set := range a.in.CodeSets {
			for b := range set.Boots() {
				if boots(b, measured) {
					a.accept(b)
					return
				}
			}
		}
	}
	switch {
	case !a.in.Policy.BootAccepted():
	case err != nil:
		a.fail("event-log", err)
	case a.files == nil:
		a.missing("ima-log", "the kernel's IMA log, whose first entry shows that the boot registers stayed as they were")
	default:
		a.find(keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: "kernel, initrd and command line",
			Want: a.acceptedBoots(), Got: describeBoot(measured, strange)})
	}
}

func describeBoot(k eventlog.Kernel, strange []string) string {
	s := fmt.Sprintf("kernel %s, initrd %s, command line %s", k.Image, k.Initrd, k.CommandLine)
	if n := len(strange); n > 0 {
		s += fmt.Sprintf(", after %d images or files of a loader that no code set accepts: %s", n, strings.Join(strange[:min(n, maxWanted)], ", "))
	}
	return s
}

// boots reports whether the entry is what was measured, each digest in its role.
func boots(b refval.Boot, k eventlog.Kernel) bool {
	terminated, bare := eventlog.LoadOptions(b.CommandLine)
	return b.Kernel == k.Image && b.Initrd == k.Initrd && (k.CommandLine == terminated || k.CommandLine == bare)
}

// strangeImages returns the images that no code set accepts among those that ran
// before the kernel: shim, GRUB, and the drivers in PCR 2, which a variable of the
// firmware loads from any disk. Each of them could have changed the kernel.
func (a *appraisal) strangeImages() (out []string) {
	images := a.claims.Boot.Loaded // PCR 2 and then PCR 4, whose last is the kernel
	for _, image := range images[:max(0, len(images)-1)] {
		if d, err := keystead.ParseDigest(image); err != nil || !a.coded(d) {
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

func (a *appraisal) accept(b refval.Boot) {
	c := &a.claims.Kernel
	c.Accepted, c.CommandLine, c.Lockdown = true, b.CommandLine, lockdown(b.CommandLine)
	if !b.Initrd.IsZero() {
		c.Initrd = b.Initrd.String()
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

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
	measured, err := a.boot.Kernel()
	if err == nil && !measured.Initrd.IsZero() {
		a.claims.Kernel.Initrd = measured.Initrd.String()
	}
	if err == nil && a.files != nil { // without a checked boot_aggregate the registers may have been extended later
		for _, set := range a.in.CodeSets {
			for b := range set.Boots() {
				if boots(b, measured) && a.loaders(measured) {
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
		a.find(keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: "kernel, initrd and command line", Want: a.acceptedBoots(),
			Got: fmt.Sprintf("kernel %s, initrd %s, command line %s after %d other images", measured.Image, measured.Initrd, measured.CommandLine, len(measured.Loaders))})
	}
}

// boots reports whether the entry is what was measured, each digest in its role.
func boots(b refval.Boot, k eventlog.Kernel) bool {
	terminated, bare := eventlog.LoadOptions(b.CommandLine)
	return b.Kernel == k.Image && b.Initrd == k.Initrd && (k.CommandLine == terminated || k.CommandLine == bare)
}

// loaders reports whether a code set accepts each image that ran before the kernel,
// such as shim and GRUB: any of them could have changed it.
func (a *appraisal) loaders(k eventlog.Kernel) bool {
	for _, image := range k.Loaders {
		if !slices.ContainsFunc(a.in.CodeSets, func(c *refval.CodeSet) bool { _, ok := c.Lookup(image); return ok }) {
			return false
		}
	}
	return true
}

func (a *appraisal) accept(b refval.Boot) {
	c := &a.claims.Kernel
	c.Accepted, c.CommandLine, c.Lockdown = true, b.CommandLine, lockdown(b.CommandLine)
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

// lockdown reads the last lockdown= of a command line's part for the kernel.
func lockdown(cmdline string) string {
	level := "none"
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

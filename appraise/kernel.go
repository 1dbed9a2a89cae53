package appraise

import (
	"slices"
	"strings"

	"github.com/keystead/keystead"
)

// kernel looks for one code set entry that has the kernel, the initrd and the
// command line that the log measured. Only what an entry names is claimed: the
// log's own descriptions are not covered by any digest.
func (a *appraisal) kernel() {
	measured := a.boot.Kernel()
	c := &a.claims.Kernel
	if !measured.Initrd.IsZero() {
		c.Initrd = measured.Initrd.String()
	}
	for _, set := range a.in.CodeSets {
		for b := range set.Boots() {
			if measured.Matches(b.Kernel, b.Initrd, b.CommandLine) {
				c.Accepted, c.CommandLine, c.Lockdown = true, b.CommandLine, lockdown(b.CommandLine)
				c.Guarantees = nil
				for _, g := range b.Guarantees {
					c.Guarantees = append(c.Guarantees, string(g))
				}
				return
			}
		}
	}
	if a.in.Policy.BootAccepted() {
		a.find(keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: "kernel, initrd and command line",
			Want: a.acceptedBoots(), Got: measured.String()})
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
	slices.Sort(names)
	return "boot entry " + strings.Join(names, " or ")
}

// lockdown reads the last lockdown= of a command line, which is the one that the
// kernel takes.
func lockdown(cmdline string) string {
	level := "none"
	for _, arg := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(arg, "lockdown="); ok {
			level = v
		}
	}
	return level
}

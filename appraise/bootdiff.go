package appraise

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/refval"
)

// unaccepted says what of the boot differs from the boot entry that comes closest,
// and which event of which register measured it.
func (a *appraisal) unaccepted(k eventlog.Kernel, strange []string) keystead.Finding {
	var where, want, got []string
	differs := func(part string, m keystead.Measured, wanted, found string, registers ...int) {
		place := ""
		switch {
		case a.td != nil && len(registers) == 1 && registers[0] == 4:
			place = a.td.Place(m, 1)
		case a.td != nil:
			place = a.td.Place(m, 1, 2)
		case a.boot != nil: // a continuation brings no log of the boot, nor goes on from one that was not accepted
			place = a.boot.Place(m, registers...)
		}
		where = append(where, part+place)
		want, got = append(want, part+" "+wanted), append(got, part+" "+found)
	}
	closest, same := a.closest(k)
	switch {
	case same == nil:
		differs("kernel", k.Image, a.acceptedBoots(), k.Image.String(), 4)
	default:
		if !same.kernel {
			differs("kernel", k.Image, named(closest.KernelPackage, closest.Kernel.Measured(), closest.Kernel384), k.Image.String(), 4)
		}
		if !same.initrd {
			differs("initrd", k.Initrd, named(closest.InitrdPackage, closest.Initrd.Measured(), closest.Initrd384), k.Initrd.String(), 9)
		}
		if !same.line {
			differs("command line", k.CommandLine, fmt.Sprintf("%q", closest.CommandLine), a.line(k), 9)
		}
		want = append(want, "as "+a.acceptedBoots()+" has it")
	}
	for _, text := range strange[:min(len(strange), maxWanted)] {
		m, _ := keystead.ParseMeasured(text) // else it has no place
		differs("loaded before the kernel", m, "what a code set names", text, 2, 4, 9)
	}
	if n := len(strange) - maxWanted; n > 0 {
		got = append(got, fmt.Sprintf("and %d more", n))
	}
	return keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: strings.Join(where, "; "), Want: strings.Join(want, "; "), Got: strings.Join(got, "; ")}
}

// named is how a boot entry names a part: by who ships it, or by digests.
func named(pkg string, digests ...keystead.Measured) string {
	if pkg != "" {
		return "of package " + pkg
	}
	var words []string
	for _, m := range digests {
		if !m.IsZero() {
			words = append(words, m.String())
		}
	}
	return cmp.Or(strings.Join(words, " or "), "none")
}

// line gives a command line's text if one in the log has its digest, else the digest.
func (a *appraisal) line(k eventlog.Kernel) string {
	text := ""
	switch {
	case a.td != nil:
		text = a.td.LoadedOptions(k)
	case a.boot != nil:
		text = a.boot.LoadedOptions(k)
	}
	if text != "" {
		return fmt.Sprintf("%.1000q", text)
	}
	return k.CommandLine.String()
}

// shared says which parts of a boot are as an entry has them.
type shared struct{ kernel, initrd, line bool }

func (s *shared) count() (n int) {
	for _, same := range []bool{s.kernel, s.initrd, s.line} {
		if same {
			n++
		}
	}
	return n
}

// closest returns the boot entry that shares most with what was measured, and what it
// shares; nil if there is no entry.
func (a *appraisal) closest(k eventlog.Kernel) (best refval.Boot, most *shared) {
	for _, set := range a.in.CodeSets {
		for b := range set.Boots() {
			if s := a.compare(b, k); most == nil || s.count() > most.count() {
				best, most = b, s
			}
		}
	}
	return best, most
}

// compare holds each part by itself against an entry.
func (a *appraisal) compare(b refval.Boot, k eventlog.Kernel) *shared {
	s := &shared{kernel: b.HasKernel(k.Image), initrd: a.initrdOf(b, k), line: k.Given(b.CommandLine)}
	if b.KernelPackage != "" {
		s.kernel = a.shipped(k.Image, true, b.ShipsKernel)
		s.line = s.line || a.shipped(k.Image, true, func(src refval.Source) bool { return b.ShipsKernel(src) && k.Given(b.Line(src.Path)) })
	}
	return s
}

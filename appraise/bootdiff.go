package appraise

import (
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
	differs := func(part string, d keystead.Digest, wanted, found string, registers ...int) {
		place := ""
		if a.boot != nil { // a continuation brings no log of the boot, nor goes on from one that was not accepted
			place = a.boot.Place(d, registers...)
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
			differs("kernel", k.Image, named(closest.Kernel, closest.KernelPackage), k.Image.String(), 4)
		}
		if !same.initrd {
			differs("initrd", k.Initrd, named(closest.Initrd, closest.InitrdPackage), k.Initrd.String(), 9)
		}
		if !same.line {
			differs("command line", k.CommandLine, fmt.Sprintf("%q", closest.CommandLine), a.line(k), 9)
		}
		want = append(want, "as "+a.acceptedBoots()+" has it")
	}
	for _, text := range strange[:min(len(strange), maxWanted)] {
		d, _ := keystead.ParseDigest(text) // else it has no place
		differs("loaded before the kernel", d, "what a code set names", text, 2, 4, 9)
	}
	if n := len(strange) - maxWanted; n > 0 {
		got = append(got, fmt.Sprintf("and %d more", n))
	}
	return keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: strings.Join(where, "; "), Want: strings.Join(want, "; "), Got: strings.Join(got, "; ")}
}

// named is how a boot entry names a part: by digest, or by who ships it.
func named(d keystead.Digest, pkg string) string {
	if pkg != "" {
		return "of package " + pkg
	}
	return d.String()
}

// line gives a command line's text if one in the log has its digest, else the digest.
func (a *appraisal) line(k eventlog.Kernel) string {
	if a.boot != nil {
		if text := a.boot.LoadedOptions(k); text != "" {
			return fmt.Sprintf("%.1000q", text)
		}
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
	s := &shared{kernel: b.Kernel == k.Image, initrd: b.Initrd == k.Initrd, line: commands(b.CommandLine, k)}
	if b.InitrdPackage != "" {
		s.initrd = a.shipped(k.Initrd, refval.SelectAll, b.ShipsInitrd)
	}
	if b.KernelPackage != "" {
		s.kernel = a.shipped(k.Image, refval.SelectEFI, b.ShipsKernel)
		s.line = a.shipped(k.Image, refval.SelectEFI, func(src refval.Source) bool { return b.ShipsKernel(src) && commands(b.Line(src.Path), k) })
	}
	return s
}

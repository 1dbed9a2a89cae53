package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// Tagged events of the Linux EFI stub in PCR 9 (drivers/firmware/efi/libstub). The
// digest is of the initrd or the load options; id and text are not covered.
const (
	initrdTag      = 0x8F3B22EC
	loadOptionsTag = 0x8F3B22ED
)

// Kernel is what was measured of the kernel that boots, for look-up in a code set.
type Kernel struct {
	Image       keystead.Measured   // Authenticode digest of the last image in PCR 4; a GRUB that loads kernels by itself is that image
	Loaders     []keystead.Measured // the other images in PCR 4, in order: each of them could have changed the kernel
	CommandLine keystead.Measured   // of the load options, see LoadOptions
	Initrd      keystead.Measured   // zero when the stub measured none
	Before      []keystead.Measured // what else is in PCR 9, before the stub's events: files that a boot loader read
	Text        []string            // what GRUB measured into PCR 8, in order, each proven by its digest
}

// Kernel returns what was measured of the kernel, its command line and its initrd.
// It needs PCR 2, 4 and 9 in the log's bank (2 for the drivers that Boot lists
// among the loaded images); without them, or when the last events
// of PCR 9 are not those of the Linux EFI stub, it refuses with evidence-missing.
//
// Since no register covers the tags, they are only compared: the last event of
// PCR 9 must be the initrd's and the one before it the command line's, in the
// order in which the stub measures them; without an initrd the command line's is
// the only event (else an initrd made to read like a command line could pass for
// it). This is proof of what the kernel was
// given if three things hold, which the caller checks: the images in PCR 4 are
// accepted, so it was a kernel whose stub measures both; PCR 10's boot_aggregate
// is that of the quoted registers 0 to 9, so nothing was added since that kernel
// started (ima.List.CheckBootAggregate); and each digest is accepted in its role.
// A loader that runs what it reads itself (Before) can make the last image of PCR 4
// one that never starts: accept those files too, or require Secure Boot.
// A swapped tag then cannot make an initrd pass for a command line, and a digest
// that is in no code set stays so whatever it is called.
//
// Text carries no such proof: GRUB's labels are not covered, and a text that was
// a command may be presented as the command line. It is for people to read.
func (l *Log) Kernel() (Kernel, error) {
	if !l.covered[2] || !l.covered[4] || !l.covered[9] {
		return Kernel{}, deny(keystead.ReasonEvidenceMissing, "event log", "PCR 2, 4 and 9 in one bank", "not covered by the quote")
	}
	k, err := l.started(l.images(4), 9, "event log, PCR 4", "event log, PCR 9")
	if err != nil {
		return Kernel{}, err
	}
	for e := range l.of(8) {
		if text, ok := grubText(e.Data); ok && e.Type == IPL && l.Bound(e) {
			k.Text = append(k.Text, string(text))
		}
	}
	return k, nil
}

// started reads what the images and the events of a register say of the kernel.
func (l *Log) started(images [][]byte, register int, whereImages, whereStub string) (k Kernel, err error) {
	if len(images) == 0 {
		return k, deny(keystead.ReasonEvidenceMissing, whereImages, "the digest of a loaded kernel", "none")
	}
	k.Image = keystead.MeasuredBytes(images[len(images)-1])
	for _, loader := range images[:len(images)-1] {
		k.Loaders = append(k.Loaders, keystead.MeasuredBytes(loader))
	}
	var events []*Event
	for e := range l.of(register) {
		events = append(events, e)
	}
	n := len(events)
	if n > 0 && tag(events[n-1]) == initrdTag {
		n--
		k.Initrd = keystead.MeasuredBytes(events[n].Digest)
	}
	if n == 0 || tag(events[n-1]) != loadOptionsTag {
		return Kernel{}, deny(keystead.ReasonEvidenceMissing, whereStub, "the Linux EFI stub's command line and initrd as the last events", describe(events))
	}
	k.CommandLine = keystead.MeasuredBytes(events[n-1].Digest)
	if k.Initrd.IsZero() && n > 1 {
		return Kernel{}, deny(keystead.ReasonEvidenceMissing, whereStub, "an initrd as the last event, or the command line as the only one", describe(events))
	}
	for _, e := range events[:n-1] {
		k.Before = append(k.Before, keystead.MeasuredBytes(e.Digest))
	}
	return k, nil
}

// Place says which register and which event of the log hold a digest, for people: the
// last such event of the given registers. It is "" if there is none.
func (l *Log) Place(d keystead.Measured, registers ...int) (place string) {
	for _, pcr := range registers {
		for e := range l.of(pcr) {
			if keystead.MeasuredBytes(e.Digest) == d {
				place = fmt.Sprintf(" (PCR %d, event %d, %v)", pcr, e.Number, e.Type)
			}
		}
	}
	return place
}

// maxLoadOptions bounds a command line that is looked for, in bytes of UTF-16; the kernel
// takes 2048 characters on x86.
const maxLoadOptions = 16 << 10

// LoadedOptions returns the text of the kernel's command line if the data of an event,
// such as systemd-boot's in PCR 12, is one that has the measured digest; else "".
func (l *Log) LoadedOptions(k Kernel) string {
	for i := range l.events {
		data := l.events[i].Data
		if len(data) == 0 || len(data)%2 != 0 || len(data) > maxLoadOptions {
			continue
		}
		units := make([]uint16, len(data)/2)
		for i := range units {
			units[i] = binary.LittleEndian.Uint16(data[2*i:])
		}
		text := strings.TrimRight(string(utf16.Decode(units)), "\x00")
		if text != "" && k.Given(text) {
			return text
		}
	}
	return ""
}

// tag returns the id of an EV_EVENT_TAG event, a TCG_PCClientTaggedEvent, or 0.
func tag(e *Event) uint32 {
	if e.Type != EventTag || len(e.Data) < 8 {
		return 0
	}
	return binary.LittleEndian.Uint32(e.Data)
}

func describe(events []*Event) string {
	if len(events) == 0 {
		return "no event"
	}
	last := events[len(events)-1]
	return fmt.Sprintf("%d events, the last of type %v", len(events), last.Type)
}

// Given reports whether the kernel was given that command line.
func (k Kernel) Given(commandLine string) bool {
	bank := evidence.SHA256
	if k.CommandLine.Long() {
		bank = evidence.SHA384
	}
	terminated, bare := LoadOptions(bank, commandLine)
	return k.CommandLine == terminated || k.CommandLine == bare
}

// LoadOptions returns the digests, of bank SHA-256 or SHA-384, that the EFI stub may
// measure for a command line. The stub hashes the LoadOptionsSize bytes that the loader
// passed: the text in UTF-16 with a terminating NUL from firmware, systemd-boot and OVMF's
// loader of QEMU's -kernel, and without one from GRUB. The command line is the whole text
// passed, as in /proc/cmdline: GRUB puts "BOOT_IMAGE=" before it, and OVMF's loader
// " initrd=initrd" after it when there is an initrd.
func LoadOptions(bank evidence.Bank, commandLine string) (terminated, bare keystead.Measured) {
	text := make([]byte, 0, 2*len(commandLine)+2)
	for _, r := range commandLine {
		var units [2]uint16
		for _, u := range utf16.AppendRune(units[:0], r) {
			text = append(text, byte(u), byte(u>>8))
		}
	}
	sum := func(b []byte) keystead.Measured {
		if bank == evidence.SHA384 {
			return keystead.Sum384(b)
		}
		return keystead.Sum(b).Measured()
	}
	return sum(append(text, 0, 0)), sum(text)
}
